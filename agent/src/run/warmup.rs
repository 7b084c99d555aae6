//! Profile → plan → warm, in one place for the commands that do it.

use std::sync::Arc;
use std::time::Instant;

use crate::model::{DeviceCost, Plan, Profile};
use crate::plan::{PlanOptions, Timing, build};
use crate::predict::predict;
use crate::warm::{
    Cancel, IoClass, Lead, Pace, Progress, Rate, VolumeRoots, WarmOptions, WarmReport, execute,
    give_way,
};

/// So many names are looked up in a program's inner loop, not on its way to it.
const MANY_NAMES: usize = 4096;

/// A device that gives a small read in less than this, ns, has them sooner than a processor
/// has looked up what is in them.
const QUICK_NS: f64 = 25e3;

/// What to warm, and how.
#[derive(Clone, Debug)]
pub struct Warmup {
    /// File data to read at most, bytes.
    pub budget: u64,
    /// Whether to read pages that no run is known to have used.
    pub maybe: bool,
    /// Whether to warm names and metadata blocks.
    pub metadata: bool,
    /// Give up what is left at this time.
    pub deadline: Option<Instant>,
    /// Priority of the I/O.
    pub io_class: IoClass,
    /// What reads cost.
    pub cost: DeviceCost,
    /// Bounds on bytes a second, for all that have the same.
    pub rates: Vec<Arc<Rate>>,
    /// How much is in flight ahead of starts, for all that have the same; `None`: as much
    /// as keeps the device busy.
    pub pace: Option<Arc<Pace>>,
}

impl Default for Warmup {
    fn default() -> Self {
        Self {
            budget: 2 << 30,
            maybe: true,
            metadata: true,
            deadline: None,
            io_class: IoClass::Default,
            cost: DeviceCost::UNMEASURED,
            rates: Vec::new(),
            pace: None,
        }
    }
}

impl Warmup {
    /// The plan for a profile's next run.
    pub fn plan(&self, profile: &Profile, timing: Timing) -> Plan {
        self.plan_for(profile, timing, true)
    }

    fn plan_for(&self, profile: &Profile, timing: Timing, lead: bool) -> Plan {
        let options = PlanOptions {
            budget: self.budget,
            timing,
            lead,
            maybe: self.maybe,
            cost: self.cost,
        };
        build(&predict(profile), &options)
    }

    /// The plan for a run that begins now, made by a thread that gives way to it.
    ///
    /// For a program that looks very many names up on a quick device it is to do nothing: it
    /// waits for processors, which looking names up for it, or only planning to, would take.
    /// (`git status` of 20,000 files, on two processors: a tenth slower with a plan, with and
    /// without names in it.)
    pub fn plan_beside(&self, profile: &Profile) -> Plan {
        give_way();
        let names = profile.names.len();
        if names > MANY_NAMES && self.cost.read_ns < QUICK_NS {
            tracing::info!(
                names,
                "nothing is warmed beside it: it waits for processors"
            );
            return Plan::default();
        }
        self.plan_for(profile, Timing::Beside, false)
    }

    /// Carries a plan out.
    ///
    /// # Errors
    /// The mount table can't be read.
    pub fn execute(
        &self,
        plan: Plan,
        timing: Timing,
        progress: &Arc<Progress>,
        cancel: &Cancel,
    ) -> std::io::Result<WarmReport> {
        // Who has nothing to do takes nothing from a start.
        let roots = Arc::new(match plan.actions.is_empty() {
            true => VolumeRoots::new(Vec::new()),
            false => VolumeRoots::read()?,
        });
        let options = self.options(timing);
        Ok(execute(&Arc::new(plan), &roots, &options, progress, cancel))
    }

    /// How a plan is carried out.
    pub fn options(&self, timing: Timing) -> WarmOptions {
        WarmOptions {
            deadline: self.deadline,
            io_class: self.io_class,
            metadata: self.metadata,
            lead: match timing {
                Timing::Ahead => Lead::Ahead,
                Timing::Beside => Lead::Beside,
            },
            // Beside a start the program's own faults check for us.
            verify: timing == Timing::Ahead,
            cost: self.cost,
            rates: self.rates.clone(),
            pace: self.pace.clone(),
            ..WarmOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NameKind, NameRecord, RelPath, RunInfo, Volume, VolumeId};

    #[test]
    fn who_looks_many_names_up_on_a_quick_device_is_left_alone() {
        let with = |names: usize| Profile {
            runs: vec![RunInfo {
                started_ms: 1,
                id: 1,
                duration_ns: 1,
                exact: true,
                blind_ns: 0,
            }],
            volumes: vec![Volume {
                id: VolumeId("uuid:1".into()),
                fs_type: "ext4".into(),
                mount_point: b"/".to_vec(),
            }],
            names: (0..names)
                .map(|at| NameRecord {
                    volume: 0,
                    path: RelPath::new(format!("{at:08}").as_bytes()).expect("a path"),
                    kind: NameKind::File,
                    listed: false,
                    first_use_ns: 1,
                    seen: 1,
                })
                .collect(),
            ..Profile::default()
        };
        let plans = move |names: usize, read_ns: f64| {
            let cost = DeviceCost {
                read_ns,
                ..DeviceCost::UNMEASURED
            };
            let warmup = Warmup {
                cost,
                ..Warmup::default()
            };
            !warmup.plan_beside(&with(names)).actions.is_empty()
        };
        std::thread::spawn(move || {
            assert!(plans(MANY_NAMES, QUICK_NS / 2.0));
            assert!(!plans(MANY_NAMES + 1, QUICK_NS / 2.0));
            assert!(plans(MANY_NAMES + 1, QUICK_NS));
        })
        .join()
        .expect("a thread that gave way");
    }
}
