//! From what the machine said to rows and a verdict. Pure.

mod files;
mod hooks;
mod kernel;
mod privileges;

use serde::Serialize;

use super::snapshot::Snapshot;

pub(super) use hooks::tracepoints;

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
pub(super) mod tests {
    use super::*;
    use crate::cli::doctor::snapshot::{Cgroups, Limit, StateDir};

    /// A machine that has everything.
    pub(in super::super) fn good() -> Snapshot {
        let unlimited = Limit {
            soft: None,
            hard: None,
        };
        Snapshot {
            release: "6.18.1-example".to_owned(),
            btf: Ok(6 << 20),
            lockdown: Some("none".to_owned()),
            capabilities: u64::MAX,
            cgroups: Cgroups {
                v2: Some("/sys/fs/cgroup".into()),
                v2_controllers: ["cpu", "io", "memory"].map(str::to_owned).to_vec(),
                v1_controllers: Vec::new(),
            },
            tracefs: Some("/sys/kernel/tracing".into()),
            bpffs: Some("/sys/fs/bpf".into()),
            tracepoints: tracepoints().map(|name| (name.to_owned(), true)).collect(),
            kprobes: true,
            cachestat: Ok(()),
            openat2: Ok(()),
            mincore: Ok(()),
            fuse: Ok(()),
            pressure: Ok(()),
            drop_caches: Ok(()),
            state_dir: StateDir {
                path: "/var/lib/headstart".into(),
                exists: true,
                writable: Ok(()),
                free_bytes: 64 << 30,
                read_ahead_kb: Some(128),
            },
            memlock: unlimited,
            nofile: unlimited,
            probes: Some(40_000),
        }
    }

    fn status(seen: &Snapshot, name: &str) -> Status {
        let report = judge(seen);
        report
            .checks
            .iter()
            .find(|row| row.name == name)
            .expect("a row of that name")
            .status
    }

    #[test]
    fn a_good_machine_records_and_warms_and_has_nothing_to_complain_of() {
        let report = judge(&good());
        let bad: Vec<_> = report
            .checks
            .iter()
            .filter(|r| r.status != Status::Ok)
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(report.verdict.exit_code(), 0);
    }

    #[test]
    fn without_probes_or_type_information_a_machine_only_warms() {
        for seen in [
            Snapshot {
                probes: None,
                ..good()
            },
            Snapshot {
                btf: Err("no such file".to_owned()),
                ..good()
            },
            Snapshot {
                capabilities: 0,
                ..good()
            },
            Snapshot {
                lockdown: Some("confidentiality".to_owned()),
                ..good()
            },
            Snapshot {
                release: "5.4.0".to_owned(),
                ..good()
            },
        ] {
            assert_eq!(
                judge(&seen).verdict,
                Verdict {
                    records: false,
                    warms: true
                },
                "{seen:?}"
            );
            assert_eq!(judge(&seen).verdict.exit_code(), 1);
        }
    }

    #[test]
    fn without_a_place_for_profiles_a_machine_does_neither() {
        let mut seen = good();
        seen.state_dir.writable = Err("read-only file system".to_owned());
        assert_eq!(judge(&seen).verdict.exit_code(), 2);
    }

    #[test]
    fn residency_needs_one_of_two_calls() {
        let mut seen = Snapshot {
            cachestat: Err("no".to_owned()),
            ..good()
        };
        assert_eq!(status(&seen, "cachestat"), Status::Degraded);
        assert_eq!(judge(&seen).verdict.exit_code(), 0);
        seen.mincore = Err("no".to_owned());
        assert_eq!(judge(&seen).verdict.exit_code(), 2);
    }

    #[test]
    fn sys_admin_stands_in_for_the_two_bpf_capabilities() {
        let seen = Snapshot {
            capabilities: 1 << 21,
            ..good()
        };
        assert_eq!(status(&seen, "CAP_BPF"), Status::Ok);
        assert_eq!(status(&seen, "CAP_PERFMON"), Status::Ok);
        assert!(judge(&seen).verdict.records);
    }

    #[test]
    fn an_older_kernel_falls_back_to_kprobes_where_it_has_them() {
        let mut seen = Snapshot {
            release: "6.1.0-13-amd64".to_owned(),
            ..good()
        };
        seen.tracepoints
            .insert("filemap/mm_filemap_get_pages".to_owned(), false);
        assert_eq!(
            status(&seen, "filemap/mm_filemap_get_pages"),
            Status::Degraded
        );
        assert!(judge(&seen).verdict.records);
        seen.kprobes = false;
        assert!(!judge(&seen).verdict.records);
    }

    #[test]
    fn whatever_is_not_well_says_what_it_costs_and_what_to_do() {
        let mut seen = Snapshot {
            release: "5.4.0".to_owned(),
            btf: Err("none".to_owned()),
            lockdown: Some("integrity".to_owned()),
            capabilities: 0,
            cgroups: Cgroups::default(),
            tracefs: None,
            bpffs: None,
            kprobes: false,
            cachestat: Err("none".to_owned()),
            openat2: Err("none".to_owned()),
            mincore: Err("none".to_owned()),
            fuse: Err("none".to_owned()),
            pressure: Err("none".to_owned()),
            drop_caches: Err("none".to_owned()),
            memlock: Limit {
                soft: Some(65_536),
                hard: Some(65_536),
            },
            nofile: Limit {
                soft: Some(256),
                hard: Some(256),
            },
            probes: None,
            ..good()
        };
        seen.state_dir.writable = Err("none".to_owned());
        seen.tracepoints
            .values_mut()
            .for_each(|there| *there = false);
        for row in judge(&seen)
            .checks
            .iter()
            .filter(|row| row.status != Status::Ok)
        {
            assert!(!row.cost.is_empty(), "{} has no cost", row.name);
            assert!(!row.fix.is_empty(), "{} has no remedy", row.name);
        }
    }
}
