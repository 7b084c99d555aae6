//! Profile → plan → warm, in one place for the commands that do it.

use std::sync::Arc;
use std::time::Instant;

use crate::model::{DeviceCost, Plan, Profile};
use crate::plan::{PlanOptions, Timing, build};
use crate::predict::predict;
use crate::warm::{
    Cancel, IoClass, Lead, Pace, Progress, Rate, VolumeRoots, WarmOptions, WarmReport, execute,
    give_way, when_idle,
};

/// Names of which a plan takes longer than a moment to make: milliseconds.
const MANY_NAMES: usize = 4096;

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
        let options = PlanOptions {
            budget: self.budget,
            timing,
            maybe: self.maybe,
            cost: self.cost,
        };
        build(&predict(profile), &options)
    }

    /// The plan for a run that begins now, made by a thread that gives way to it. Who looks
    /// very many names up does so on all processors, and has no time to spare for a plan.
    pub fn plan_beside(&self, profile: &Profile) -> Plan {
        give_way();
        let plan = || self.plan(profile, Timing::Beside);
        match profile.names.len() > MANY_NAMES {
            true => when_idle(plan),
            false => plan(),
        }
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
        let roots = Arc::new(VolumeRoots::read()?);
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
