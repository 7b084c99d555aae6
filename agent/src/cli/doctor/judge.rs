//! From what the machine said to rows and a verdict. Pure.

mod files;
mod hooks;
mod kernel;
mod privileges;

use serde::Serialize;

use super::snapshot::Snapshot;

/// How well one thing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Degraded,
    Missing,
}

/// What can't be done at all when a row's thing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Need {
    /// Recording.
    Record,
    /// Warming, and recording with it: neither goes without profiles.
    Warm,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) group: Group,
    pub(super) name: &'static str,
    pub(super) status: Status,
    /// What was found, in a few words.
    pub(super) found: String,
    /// What it costs not to have it.
    pub(super) cost: &'static str,
    /// What to do to have it.
    pub(super) fix: String,
    /// Only in rows that something can't do without.
    pub(super) needed_for: Option<Need>,
}

/// Rows stand in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Group {
    Kernel,
    Privileges,
    Cgroups,
    Hooks,
    Warming,
    State,
}

impl Group {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Kernel => "Kernel",
            Self::Privileges => "Privileges",
            Self::Cgroups => "Control groups",
            Self::Hooks => "Hooks",
            Self::Warming => "Warming",
            Self::State => "State and limits",
        }
    }
}

/// What this machine is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) records: bool,
    pub(super) warms: bool,
}

impl Verdict {
    /// 0: records and warms; 1: warms only; 2: neither.
    pub(super) fn exit_code(self) -> u8 {
        match (self.records, self.warms) {
            (true, true) => 0,
            (false, true) => 1,
            (_, false) => 2,
        }
    }
}

/// Everything that `headstart doctor` prints.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    pub(super) checks: Vec<Row>,
}

/// Judges a machine.
pub(super) fn judge(seen: &Snapshot) -> Report {
    let mut checks = Vec::new();
    checks.extend(kernel::rows(seen));
    checks.extend(privileges::rows(seen));
    checks.extend(hooks::rows(seen));
    checks.extend(files::rows(seen));
    report(checks)
}

/// Judges its hooks alone.
pub(super) fn judge_hooks(seen: &Snapshot) -> Report {
    report(hooks::rows(seen))
}

fn report(checks: Vec<Row>) -> Report {
    let lacks = |need: Need| {
        checks
            .iter()
            .any(|row| row.status == Status::Missing && row.needed_for == Some(need))
    };
    let warms = !lacks(Need::Warm);
    let verdict = Verdict {
        records: warms && !lacks(Need::Record),
        warms,
    };
    Report { verdict, checks }
}

impl Row {
    /// A row that is well until something else is said.
    fn ok(group: Group, name: &'static str, found: impl Into<String>) -> Self {
        Self {
            group,
            name,
            status: Status::Ok,
            found: found.into(),
            cost: "",
            fix: String::new(),
            needed_for: None,
        }
    }

    fn is(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    fn costs(mut self, cost: &'static str) -> Self {
        self.cost = cost;
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    fn needed_for(mut self, need: Need) -> Self {
        self.needed_for = Some(need);
        self
    }
}

/// [`Status::Ok`] or the other one.
fn ok_or(good: bool, otherwise: Status) -> Status {
    if good { Status::Ok } else { otherwise }
}

#[cfg(test)]
pub(super) mod tests;
