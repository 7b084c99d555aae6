//! Workloads as the daemon has seen them since it started, and sums over all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::learn::Learned;
use super::prepare::{Known, NotWarmed};
use super::start::{Carried, Start};
use super::view::{StartView, Totals, WorkloadView};
use crate::model::StageCounts;
use crate::profile::{Called, KEPT, Outcome, Past, keep};
use crate::workload::{Workload, named_by};

/// Of what was read for a workload's last starts, the share that has to be used, or on its
/// way when it is.
const GAIN: f64 = 0.1;

/// After so many starts that were only observed it is tried once more: it may be another
/// program by now.
const TRIED_AGAIN: u64 = 20;

/// Workloads that are remembered; those that were seen longest ago are forgotten, and
/// keep their profiles.
const WORKLOADS: usize = 10_000;

#[derive(Default)]
struct Tracked {
    /// Copied only where somebody still looks at what it was.
    view: Arc<WorkloadView>,
    outcomes: Vec<Outcome>,
    /// From the signal to the first touch, at the last start that was learned.
    lead: Duration,
    seen: Option<Instant>,
}

impl Tracked {
    fn change(&mut self) -> &mut WorkloadView {
        Arc::make_mut(&mut self.view)
    }
}

/// All workloads, by key.
pub(super) struct Workloads {
    by_key: HashMap<String, Tracked>,
    pub(super) totals: Totals,
    /// Known starts, by whether they were warmed for.
    pub(super) plans: StageCounts,
}

impl Default for Workloads {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            totals: Totals::default(),
            plans: StageCounts::new("plans", "starts"),
        }
    }
}

impl Workloads {
    fn of(&mut self, workload: &Workload, past: Option<&Past>) -> Option<&mut Tracked> {
        let key = workload.keys.0.first()?;
        if !self.by_key.contains_key(key) && self.by_key.len() >= WORKLOADS {
            self.forget_oldest();
        }
        let tracked = self.by_key.entry(key.clone()).or_default();
        tracked.seen = Some(Instant::now());
        let view = tracked.change();
        view.key.clone_from(key);
        view.kind = workload.kind;
        if let (false, Some(called)) = (view.seen, past.and_then(|past| past.called.as_ref())) {
            view.called.clone_from(called);
        }
        call(&mut view.called, workload);
        view.seen = true;
        Some(tracked)
    }

    /// Takes up what the store has of it, where nothing newer is known.
    pub(super) fn remember(&mut self, known: &Known) {
        let Some(tracked) = self.of(&known.workload, known.past.as_ref()) else {
            return;
        };
        let Some(past) = &known.past else { return };
        if tracked.outcomes.is_empty() {
            tracked.outcomes.clone_from(&past.outcomes);
        }
        let last = past.outcomes.last();
        if let (true, Some(us)) = (tracked.lead.is_zero(), last.and_then(|last| last.lead_us)) {
            tracked.lead = Duration::from_micros(us);
        }
        let view = tracked.change();
        view.runs = past.entry.runs;
        view.profile_bytes = past.entry.data_bytes;
        if view.last.is_none() {
            view.last = last.map(StartView::kept);
        }
    }

    fn forget_oldest(&mut self) {
        let idle = self.by_key.iter().filter(|(_, t)| t.view.live == 0);
        let oldest = idle.min_by_key(|(_, t)| t.seen).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.by_key.remove(&key);
        }
    }

    /// A cgroup of it exists, and did before anybody looked.
    pub(super) fn exists(&mut self, known: &Known) {
        self.remember(known);
        if let Some(tracked) = self.of(&known.workload, None) {
            tracked.change().live += 1;
        }
    }

    /// It starts.
    pub(super) fn starts(&mut self, workload: &Workload, start: &Start) {
        if let Some(tracked) = self.of(workload, None) {
            let view = tracked.change();
            view.live += 1;
            view.starts += 1;
            view.last = Some(start.view());
        }
    }

    /// A cgroup of it is gone.
    pub(super) fn gone(&mut self, key: &str) {
        if let Some(tracked) = self.by_key.get_mut(key) {
            let view = tracked.change();
            view.live = view.live.saturating_sub(1);
        }
    }

    /// What is known of its last start, while it goes on.
    pub(super) fn refresh(&mut self, key: &str, start: &Start) {
        if let Some(tracked) = self.by_key.get_mut(key) {
            tracked.change().last = Some(start.view());
        }
    }

    /// Why it was not warmed for; `None`: it was.
    pub(super) fn warmed(&mut self, key: &str, result: Option<&NotWarmed>) {
        if let Some(NotWarmed::Throttled(reason)) = result {
            self.held_back(reason);
        }
        let Some(tracked) = self.by_key.get_mut(key) else {
            return;
        };
        let view = tracked.change();
        view.not_warmed = match result {
            None => "",
            Some(NotWarmed::For(reason) | NotWarmed::Throttled(reason)) => reason,
            Some(NotWarmed::Store(_)) => "store",
        };
    }

    /// Counts a plan that was held back or cut.
    pub(super) fn held_back(&mut self, reason: &'static str) {
        *self.totals.throttled.entry(reason).or_default() += 1;
    }

    /// Counts what became of a start that could be warmed for.
    pub(super) fn settled(&mut self, result: Result<&Carried, &NotWarmed>) {
        match result {
            Ok(carried) if carried.joined => self.plans.filter("joined", 1),
            Ok(_) => self.plans.out += 1,
            Err(NotWarmed::Throttled("queue_full")) => self.plans.lost += 1,
            Err(NotWarmed::For(why) | NotWarmed::Throttled(why)) => self.plans.filter(why, 1),
            Err(NotWarmed::Store(_)) => self.plans.filter("store", 1),
        }
    }

    /// From a start's signal to its first touch, as it was the last time; zero where that
    /// is not known.
    pub(super) fn lead(&self, key: &str) -> Duration {
        self.by_key
            .get(key)
            .map_or(Duration::ZERO, |tracked| tracked.lead)
    }

    /// Whether what was read for its last starts was of too little use.
    pub(super) fn is_of_no_gain(&self, key: &str) -> bool {
        let tracked = self.by_key.get(key);
        tracked.is_some_and(|tracked| gained_nothing(&tracked.outcomes))
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
            totals.lead.entry(view.signal).or_default().observe(lead);
        }
        let Some(tracked) = self.by_key.get_mut(&learned.key) else {
            return;
        };
        if learned.not_kept.is_empty() {
            keep(&mut tracked.outcomes, view.outcome());
        }
        if let Some(lead) = learned.view.lead_seconds {
            tracked.lead = Duration::try_from_secs_f64(lead).unwrap_or_default();
        }
        let view = tracked.change();
        if learned.runs > 0 {
            view.runs = learned.runs;
            view.profile_bytes = learned.profile_bytes;
        }
        view.last = Some(StartView {
            not_learned: learned.not_kept,
            ..learned.view
        });
    }

    /// Keys of the workloads of this key or name.
    pub(super) fn called(&self, text: &str) -> Vec<String> {
        let all = self.by_key.values().map(|tracked| &tracked.view);
        all.filter(|view| view.key == text || view.called.is(text))
            .map(|view| view.key.clone())
            .collect()
    }

    /// What people call this one.
    pub(super) fn calls(&self, workload: &Workload) -> Called {
        let key = workload.keys.0.first();
        let known = key.and_then(|key| self.by_key.get(key));
        known.map_or_else(
            || {
                let mut called = Called::default();
                call(&mut called, workload);
                called
            },
            |tracked| tracked.view.called.clone(),
        )
    }

    pub(super) fn views(&self) -> BTreeMap<String, Arc<WorkloadView>> {
        self.by_key
            .iter()
            .map(|(key, tracked)| (key.clone(), tracked.view.clone()))
            .collect()
    }
}

/// Takes up what one more start is called.
fn call(called: &mut Called, workload: &Workload) {
    called.namespace.clone_from(&workload.namespace);
    called.image.clone_from(&workload.image);
    let key = workload.keys.0.first().map_or("", String::as_str);
    called.and(&workload.name, named_by(key).1);
}

/// Whether of what was read for the last starts too little was used.
pub(super) fn gained_nothing(outcomes: &[Outcome]) -> bool {
    let judged = || outcomes.iter().filter(|outcome| outcome.read > 0);
    let observed = outcomes.last().map_or(0, |last| last.observed);
    if judged().count() < KEPT || observed >= TRIED_AGAIN {
        return false;
    }
    let gained: u64 = judged().map(|outcome| outcome.gained).sum();
    let read: u64 = judged().map(|outcome| outcome.read).sum();
    (gained as f64) < read as f64 * GAIN
}

fn add_stages(sums: &mut Vec<StageCounts>, stages: &[StageCounts]) {
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
    use crate::profile::Entry;
    use crate::workload::{Keys, Volumes};

    fn known(key: &str) -> Known {
        Known {
            workload: workload(key),
            past: None,
        }
    }

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
                gained: used,
                ..StartView::default()
            },
            runs: 1,
            ..Learned::default()
        }
    }

    #[test]
    fn what_is_of_no_use_several_times_is_not_warmed_again() {
        let mut workloads = Workloads::default();
        workloads.exists(&known("a"));
        for _ in 0..KEPT {
            assert!(!workloads.is_of_no_gain("a"));
            workloads.learned(learned("a", 100, 5));
        }
        assert!(workloads.is_of_no_gain("a"));
        workloads.learned(learned("a", 100, 95));
        assert!(!workloads.is_of_no_gain("a"));
        assert_eq!(workloads.totals.runs_learned, KEPT as u64 + 1);
    }

    #[test]
    fn what_gained_nothing_is_remembered_and_tried_once_more_after_a_while() {
        let bad = Outcome {
            read: 100,
            used: 5,
            gained: 5,
            ..Outcome::default()
        };
        let mut past = Past {
            entry: Entry {
                name: "a".to_owned(),
                bytes: 1,
                runs: 7,
                files: 1,
                extents: 1,
                names: 1,
                data_bytes: 8192,
                updated_ms: 1,
            },
            outcomes: vec![bad; KEPT],
            called: None,
        };
        let mut workloads = Workloads::default();
        workloads.exists(&Known {
            workload: workload("a"),
            past: Some(past.clone()),
        });
        assert!(workloads.is_of_no_gain("a"));
        let view = &workloads.views()["a"];
        assert_eq!((view.runs, view.profile_bytes), (7, 8192));
        assert!(
            view.last
                .as_ref()
                .is_some_and(|last| last.over && last.used == 5)
        );
        for _ in 0..TRIED_AGAIN {
            assert!(workloads.is_of_no_gain("a"));
            workloads.learned(learned("a", 0, 0));
        }
        assert!(!workloads.is_of_no_gain("a"));
        workloads.learned(learned("a", 100, 5));
        assert!(workloads.is_of_no_gain("a"));
        // What is known since is newer than what the store had.
        past.outcomes.clear();
        workloads.remember(&Known {
            workload: workload("a"),
            past: Some(past),
        });
        assert!(workloads.is_of_no_gain("a"));
    }

    #[test]
    fn only_so_many_are_remembered_and_never_one_that_lives_is_forgotten() {
        let mut workloads = Workloads::default();
        for n in 0..WORKLOADS + 3 {
            workloads.exists(&known(&format!("w{n}")));
            if n > 0 {
                workloads.gone(&format!("w{n}"));
            }
        }
        assert_eq!(workloads.by_key.len(), WORKLOADS);
        assert!(workloads.by_key.contains_key("w0"));
    }
}
