//! Containers that a runtime has told of and that have no cgroup yet: who they are, and
//! what is warmed for them meanwhile. Their start takes it over.

use std::time::{Duration, Instant};

use super::admit::NOTIFIED_HOLDS;
use super::prepare::{Known, NotWarmed};
use super::signals::Told;
use super::start::{Carried, Identity, Warming};
use super::watch::Watch;
use crate::warm::Cancel;
use crate::workload::Place;

/// Containers that are expected at a time; of more their start is the first signal.
const MOST: usize = 1024;

/// Signals taken at a time: between them the loop looks at what the kernel says.
const AT_ONCE: usize = 256;

/// A container that is about to start.
pub(super) struct Expected {
    since: Instant,
    signal: &'static str,
    warming: Warming,
    /// The cgroup of its start, once there is one.
    start: Option<u64>,
}

impl Watch {
    /// Takes what runtimes have told.
    pub(super) fn hear(&mut self) {
        for _ in 0..AT_ONCE {
            match self.signals.as_ref().and_then(|signals| signals.next()) {
                None => break,
                Some(Told::Made {
                    id,
                    namespace,
                    signal,
                    at,
                }) => self.expect(id, namespace, signal, at),
                Some(Told::Removed(id)) => self.expect_no_more(&id),
            }
        }
    }

    fn expect(
        &mut self,
        id: String,
        namespace: Option<String>,
        signal: &'static str,
        since: Instant,
    ) {
        let is_it =
            |place: &Place| matches!(place, Place::Container { id: other, .. } if *other == id);
        let has_started = self.starts.values().any(|start| is_it(&start.place));
        if has_started || self.expected.contains_key(&id) {
            return;
        }
        if self.expected.len() >= MOST || !self.jobs.foresee(id.clone(), namespace) {
            self.expected_lost += 1;
            return;
        }
        let expected = Expected {
            since,
            signal,
            warming: Warming::Unknown,
            start: None,
        };
        self.expected.insert(id, expected);
        self.dirty = true;
    }

    fn expect_no_more(&mut self, id: &str) {
        if self.expected.get(id).is_none_or(|e| e.start.is_some()) {
            return;
        }
        match self.expected.remove(id).map(|expected| expected.warming) {
            Some(Warming::Running(cancel)) => cancel.cancel(),
            Some(Warming::Over(Some(carried))) => self.in_vain(&carried),
            _ => {}
        }
    }

    /// It is known who is expected.
    pub(super) fn foreseen(&mut self, id: &str, known: Option<Box<Known>>) {
        let Some(expected) = self.expected.get_mut(id) else {
            return;
        };
        expected.warming = Warming::Over(None);
        // Its start came first: what is to be done is done for that.
        if expected.start.is_some() {
            return;
        }
        let Some(known) = known else { return };
        self.workloads.remember(&known);
        let workload = known.workload;
        let key = workload.keys.0.first().cloned().unwrap_or_default();
        let wanted = self.shared.wants_warming(&key, &workload.labels);
        if wanted.is_err() || self.workloads.is_of_no_gain(&key) {
            return;
        }
        let cancel = Cancel::new();
        if self
            .jobs
            .warm_expected(id.to_owned(), &workload, cancel.clone())
        {
            expected.warming = Warming::Running(cancel);
        }
    }

    /// What was to be warmed for one that is expected is.
    pub(super) fn warmed_expected(
        &mut self,
        id: &str,
        key: &str,
        result: Result<Carried, NotWarmed>,
    ) {
        let mut expected = self.expected.remove(id);
        let cgroup = expected.as_ref().and_then(|expected| expected.start);
        let start = cgroup.and_then(|cgroup| self.starts.get(&cgroup));
        match (&mut expected, cgroup, start) {
            (_, Some(cgroup), Some(start)) if matches!(start.warming, Warming::Running(_)) => {
                self.warmed(cgroup, key, result);
                return;
            }
            // Not made yet, or not identified yet.
            (Some(expected), None, _) => {
                expected.warming = Warming::Over(result.ok().map(Box::new));
            }
            (Some(expected), _, Some(start)) if matches!(start.identity, Identity::Pending) => {
                expected.warming = Warming::Over(result.ok().map(Box::new));
            }
            // It never started, or is not to be warmed for.
            _ => {
                if let Ok(carried) = result {
                    self.in_vain(&carried);
                }
                return;
            }
        }
        self.expected
            .extend(expected.map(|expected| (id.to_owned(), expected)));
    }

    /// The signal that came before the cgroup of what starts there, and how long.
    pub(super) fn was_expected(
        &mut self,
        place: &Place,
        cgroup: u64,
        began: Instant,
    ) -> Option<(&'static str, Duration)> {
        let Place::Container { id, .. } = place else {
            return None;
        };
        let expected = self.expected.get_mut(id)?;
        if expected.start.is_some() {
            return None;
        }
        expected.start = Some(cgroup);
        let notice = began.checked_duration_since(expected.since)?;
        Some((expected.signal, notice))
    }

    /// What is warmed already for what starts there; `None`: nothing, or not yet.
    pub(super) fn warmed_ahead(&mut self, place: &Place) -> Option<Warming> {
        let Place::Container { id, .. } = place else {
            return None;
        };
        match &self.expected.get(id)?.warming {
            // Who ends it takes it from the list.
            Warming::Running(cancel) => Some(Warming::Running(cancel.clone())),
            _ => match self.expected.remove(id)?.warming {
                Warming::Over(Some(carried)) => Some(Warming::Over(Some(carried))),
                _ => None,
            },
        }
    }

    /// Those that did not start in time are expected no more.
    pub(super) fn forget_expected(&mut self) {
        let starts = &self.starts;
        let is_over = |expected: &Expected| {
            let start = expected.start.filter(|start| starts.contains_key(start));
            start.is_none() && expected.since.elapsed() >= NOTIFIED_HOLDS
        };
        let all = self.expected.iter();
        let over: Vec<String> = all
            .filter(|(_, expected)| is_over(expected))
            .map(|(id, _)| id.clone())
            .collect();
        for expected in over
            .iter()
            .filter_map(|id| self.expected.remove(id))
            .collect::<Vec<_>>()
        {
            match expected.warming {
                Warming::Running(cancel) => cancel.cancel(),
                Warming::Over(Some(carried)) => self.in_vain(&carried),
                _ => {}
            }
        }
    }

    /// A plan was carried out and no start was seen that it was for.
    fn in_vain(&mut self, carried: &Carried) {
        self.count(&carried.results());
        let unknown = self.workloads.totals.outcome_bytes.entry("unknown");
        *unknown.or_default() += carried.report.data.planned;
    }

    /// Gives up what is being warmed for those that are expected.
    pub(super) fn end_expected(&mut self) {
        for expected in self.expected.values() {
            if let Warming::Running(cancel) = &expected.warming {
                cancel.cancel();
            }
        }
    }

    /// Plans of those that are expected that are being carried out.
    pub(super) fn expected_warming(&self) -> usize {
        let running = |e: &&Expected| e.start.is_none() && matches!(e.warming, Warming::Running(_));
        self.expected.values().filter(running).count()
    }
}
