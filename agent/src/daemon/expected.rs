//! Containers that a runtime has told of and that have no cgroup yet: who they are, and
//! what is warmed for them meanwhile. Their start takes it over.

use std::time::{Duration, Instant};

use super::admit::NOTIFIED_HOLDS;
use super::prepare::{Known, NotWarmed};
use super::priority::Priority;
use super::signals::Told;
use super::start::{Carried, Identity, Warming};
use super::watch::Watch;
use crate::workload::Place;

/// Containers that are expected at a time; of more their start is the first signal.
const MOST: usize = 1024;

/// Signals taken at a time: between them the loop looks at what the kernel says.
const AT_ONCE: usize = 256;

/// What tells those that are expected from starts, which are called by their cgroup: that
/// has a number for its inode, and one for how often that was given away.
const TICKETS: u64 = 1 << 63;

/// A container that is about to start.
pub(super) struct Expected {
    /// By which it is known to those who warm.
    pub(super) ticket: u64,
    since: Instant,
    signal: &'static str,
    warming: Warming,
    /// The cgroup of its start, once there is one.
    start: Option<u64>,
}

/// What is warmed for one that was expected, when it is known who starts.
pub(super) enum Ahead {
    /// It waits, or is under way; by its ticket.
    Running(u64),
    /// It was.
    Over(Box<Carried>),
}

/// Whether that is no cgroup, but one that is expected.
pub(super) fn is_ticket(id: u64) -> bool {
    id & TICKETS != 0
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
                Some(Told::Removed(id)) => {
                    let is_waited_for = |e: &Expected| e.start.is_none();
                    if self.expected.get(&id).is_some_and(is_waited_for) {
                        self.expect_no_more(&id);
                    }
                }
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
        self.expected_so_far += 1;
        let expected = Expected {
            ticket: TICKETS | self.expected_so_far,
            since,
            signal,
            warming: Warming::Unknown,
            start: None,
        };
        self.expected.insert(id, expected);
        self.dirty = true;
    }

    fn expect_no_more(&mut self, id: &str) {
        let Some(expected) = self.expected.remove(id) else {
            return;
        };
        match expected.warming {
            // Where it is under way it is told of, and then counted.
            Warming::Running => {
                self.jobs.warm.leave(expected.ticket, true);
            }
            Warming::Over(Some(carried)) => self.in_vain(&carried),
            Warming::Over(None) | Warming::Unknown => {}
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
        let priority = Priority::of(&key, &workload.labels, &self.shared.settings());
        let due = expected.since + self.workloads.lead(&key);
        expected.warming = Warming::Running;
        let warm = &self.jobs.warm;
        warm.beside(expected.ticket, &workload, None, due, priority);
    }

    /// What was to be warmed for one that is expected is.
    pub(super) fn warmed_expected(
        &mut self,
        ticket: u64,
        key: &str,
        result: Result<Carried, NotWarmed>,
    ) {
        let found = self.expected.iter().find(|(_, e)| e.ticket == ticket);
        let Some((id, cgroup)) = found.map(|(id, e)| (id.clone(), e.start)) else {
            // It did not start.
            if let Ok(carried) = result {
                self.in_vain(&carried);
            }
            return;
        };
        let start = cgroup.and_then(|cgroup| self.starts.get(&cgroup));
        match (cgroup, start) {
            (Some(cgroup), Some(start)) if matches!(start.warming, Warming::Running) => {
                self.expected.remove(&id);
                self.warmed(cgroup, key, result);
            }
            // There is no cgroup yet, or nobody knows yet whose it is.
            (None, _) | (_, Some(_))
                if start.is_none_or(|start| matches!(start.identity, Identity::Pending)) =>
            {
                if let Some(expected) = self.expected.get_mut(&id) {
                    expected.warming = Warming::Over(result.ok().map(Box::new));
                }
            }
            _ => {
                self.expected.remove(&id);
                if let Ok(carried) = result {
                    self.in_vain(&carried);
                }
            }
        }
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

    /// What is warmed already for what starts there; `None`: nothing, or not yet, or for an
    /// earlier start of the same container.
    pub(super) fn warmed_ahead(&mut self, place: &Place, cgroup: u64) -> Option<Ahead> {
        let Place::Container { id, .. } = place else {
            return None;
        };
        let expected = self.expected.get(id)?;
        if expected.start != Some(cgroup) {
            return None;
        }
        if matches!(expected.warming, Warming::Running) {
            // What comes of it takes it from the list.
            return Some(Ahead::Running(expected.ticket));
        }
        match self.expected.remove(id)?.warming {
            Warming::Over(Some(carried)) => Some(Ahead::Over(carried)),
            _ => None,
        }
    }

    /// What is warmed ahead is for nobody who wants it.
    pub(super) fn not_wanted(&mut self, ahead: Option<Ahead>) {
        match ahead {
            Some(Ahead::Running(ticket)) => {
                self.expected
                    .retain(|_, expected| expected.ticket != ticket);
                self.jobs.warm.leave(ticket, true);
            }
            Some(Ahead::Over(carried)) => self.in_vain(&carried),
            None => {}
        }
    }

    /// Those that did not start in time are expected no more.
    pub(super) fn forget_expected(&mut self) {
        let is_over = |expected: &Expected| {
            let start = expected
                .start
                .filter(|start| self.starts.contains_key(start));
            start.is_none() && expected.since.elapsed() >= NOTIFIED_HOLDS
        };
        let all = self.expected.iter();
        let over = all.filter(|(_, expected)| is_over(expected));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            self.expect_no_more(&id);
        }
    }

    /// A plan was carried out and no start was seen that it was for.
    fn in_vain(&mut self, carried: &Carried) {
        self.count(&carried.results());
        let unknown = self.workloads.totals.outcome_bytes.entry("unknown");
        *unknown.or_default() += carried.report.data.planned;
    }
}
