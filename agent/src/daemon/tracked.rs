//! Workloads as the daemon has seen them since it started, and sums over all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use super::learn::Learned;
use super::prepare::NotWarmed;
use super::start::Start;
use super::view::{Totals, WorkloadView};
use crate::workload::Workload;

/// Starts by which a profile is judged.
const JUDGED: usize = 5;

/// Of what was read for those starts, the share that has to be used.
const GAIN: f64 = 0.1;

/// Workloads that are remembered; those that were seen longest ago are forgotten, and
/// keep their profiles.
const WORKLOADS: usize = 10_000;

/// What a start made of what was read for it, bytes.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    read: u64,
    used: u64,
}

#[derive(Default)]
struct Tracked {
    view: WorkloadView,
    outcomes: VecDeque<Outcome>,
    seen: Option<Instant>,
}

/// All workloads, by key.
#[derive(Default)]
pub(super) struct Workloads {
    by_key: HashMap<String, Tracked>,
    pub(super) totals: Totals,
}

impl Workloads {
    fn of(&mut self, workload: &Workload) -> Option<&mut Tracked> {
        let key = workload.keys.0.first()?;
        if !self.by_key.contains_key(key) && self.by_key.len() >= WORKLOADS {
            self.forget_oldest();
        }
        let tracked = self.by_key.entry(key.clone()).or_default();
        tracked.seen = Some(Instant::now());
        let view = &mut tracked.view;
        view.key.clone_from(key);
        view.kind = workload.kind;
        view.name.clone_from(&workload.name);
        view.namespace.clone_from(&workload.namespace);
        view.image.clone_from(&workload.image);
        Some(tracked)
    }

    fn forget_oldest(&mut self) {
        let idle = self.by_key.iter().filter(|(_, t)| t.view.live == 0);
        let oldest = idle.min_by_key(|(_, t)| t.seen).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.by_key.remove(&key);
        }
    }

    /// A cgroup of it exists, and did before anybody looked.
    pub(super) fn exists(&mut self, workload: &Workload, runs: u64, bytes: u64) {
        if let Some(tracked) = self.of(workload) {
            tracked.view.live += 1;
            tracked.view.runs = tracked.view.runs.max(runs);
            tracked.view.profile_bytes = tracked.view.profile_bytes.max(bytes);
        }
    }

    /// It starts.
    pub(super) fn starts(&mut self, workload: &Workload, start: &Start) {
        if let Some(tracked) = self.of(workload) {
            tracked.view.live += 1;
            tracked.view.starts += 1;
            tracked.view.last = Some(start.view());
        }
    }

    /// A cgroup of it is gone.
    pub(super) fn gone(&mut self, key: &str) {
        if let Some(tracked) = self.by_key.get_mut(key) {
            tracked.view.live = tracked.view.live.saturating_sub(1);
        }
    }

    /// What is known of its last start, while it goes on.
    pub(super) fn refresh(&mut self, key: &str, start: &Start) {
        if let Some(tracked) = self.by_key.get_mut(key) {
            tracked.view.last = Some(start.view());
        }
    }

    /// Why it was not warmed for; `None`: it was.
    pub(super) fn warmed(&mut self, key: &str, result: Option<&NotWarmed>) {
        let Some(tracked) = self.by_key.get_mut(key) else {
            return;
        };
        match result {
            None => tracked.view.not_warmed = "",
            Some(NotWarmed::For(reason)) => tracked.view.not_warmed = reason,
            Some(NotWarmed::Throttled(reason)) => {
                tracked.view.not_warmed = reason;
                *self.totals.throttled.entry(reason).or_default() += 1;
            }
            Some(NotWarmed::Store(_)) => tracked.view.not_warmed = "store",
        }
    }

    /// Whether what was read for its last starts was of too little use.
    pub(super) fn is_of_no_gain(&self, key: &str) -> bool {
        let Some(tracked) = self.by_key.get(key) else {
            return false;
        };
        if tracked.outcomes.len() < JUDGED {
            return false;
        }
        let sum = |of: fn(&Outcome) -> u64| tracked.outcomes.iter().map(of).sum::<u64>() as f64;
        sum(|o| o.used) < sum(|o| o.read) * GAIN
    }

    /// A start is over, and this came of it.
    pub(super) fn learned(&mut self, learned: Learned) {
        let totals = &mut self.totals;
        if learned.not_kept.is_empty() {
            totals.runs_learned += 1;
        } else {
            *totals
                .starts_not_learned
                .entry(learned.not_kept)
                .or_default() += 1;
        }
        add_stages(&mut totals.stages, &learned.stages);
        let view = &learned.view;
        for (name, bytes) in [
            ("used", view.used),
            ("late", view.late),
            ("wasted", view.wasted),
            ("unknown", view.unknown),
        ] {
            *totals.outcome_bytes.entry(name).or_default() += bytes;
        }
        totals.missed_bytes += view.missed;
        if let Some(lead) = view.lead_seconds {
            totals.lead.observe(lead);
        }
        let Some(tracked) = self.by_key.get_mut(&learned.key) else {
            return;
        };
        if view.read > 0 && learned.not_kept.is_empty() {
            tracked.outcomes.push_back(Outcome {
                read: view.read,
                // What was on its way was waited for less.
                used: view.used + view.on_the_way,
            });
            while tracked.outcomes.len() > JUDGED {
                tracked.outcomes.pop_front();
            }
        }
        if learned.runs > 0 {
            tracked.view.runs = learned.runs;
            tracked.view.profile_bytes = learned.profile_bytes;
        }
        tracked.view.last = Some(learned.view);
    }

    /// Keys of the workloads of this key or name.
    pub(super) fn called(&self, text: &str) -> Vec<String> {
        let all = self.by_key.values().map(|tracked| &tracked.view);
        all.filter(|view| view.key == text || view.name == text)
            .map(|view| view.key.clone())
            .collect()
    }

    pub(super) fn views(&self) -> BTreeMap<String, WorkloadView> {
        self.by_key
            .iter()
            .map(|(key, tracked)| (key.clone(), tracked.view.clone()))
            .collect()
    }
}

fn add_stages(sums: &mut Vec<crate::model::StageCounts>, stages: &[crate::model::StageCounts]) {
    for stage in stages {
        match sums.iter_mut().find(|sum| sum.name == stage.name) {
            None => sums.push(stage.clone()),
            Some(sum) => {
                sum.seen += stage.seen;
                sum.out += stage.out;
                sum.lost += stage.lost;
                for (reason, n) in &stage.filtered {
                    sum.filter(reason, *n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::StartView;
    use crate::workload::{Keys, Volumes};

    fn workload(key: &str) -> Workload {
        Workload {
            kind: "unit",
            name: key.to_owned(),
            namespace: String::new(),
            image: String::new(),
            labels: BTreeMap::new(),
            keys: Keys(vec![key.to_owned()]),
            volumes: Volumes::default(),
        }
    }

    fn learned(key: &str, read: u64, used: u64) -> Learned {
        Learned {
            key: key.to_owned(),
            view: StartView {
                read,
                used,
                ..StartView::default()
            },
            runs: 1,
            ..Learned::default()
        }
    }

    #[test]
    fn what_is_of_no_use_several_times_is_not_warmed_again() {
        let mut workloads = Workloads::default();
        workloads.exists(&workload("a"), 0, 0);
        for _ in 0..JUDGED {
            assert!(!workloads.is_of_no_gain("a"));
            workloads.learned(learned("a", 100, 5));
        }
        assert!(workloads.is_of_no_gain("a"));
        workloads.learned(learned("a", 100, 95));
        assert!(!workloads.is_of_no_gain("a"));
        assert_eq!(workloads.totals.runs_learned, JUDGED as u64 + 1);
    }

    #[test]
    fn only_so_many_are_remembered_and_never_one_that_lives_is_forgotten() {
        let mut workloads = Workloads::default();
        for n in 0..WORKLOADS + 3 {
            workloads.exists(&workload(&format!("w{n}")), 0, 0);
            if n > 0 {
                workloads.gone(&format!("w{n}"));
            }
        }
        assert_eq!(workloads.by_key.len(), WORKLOADS);
        assert!(workloads.by_key.contains_key("w0"));
    }
}
