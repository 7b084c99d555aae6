//! What the loop does with a start: from the cgroup that was made to what was learned.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::admit::NOTIFIED_HOLDS;
use super::expected::Ahead;
use super::handle::Order;
use super::learn::Learned;
use super::phase::{Over, Phase};
use super::prepare::{Known, NotWarmed, OPTED_OUT};
use super::priority::Priority;
use super::spare::is_lately;
use super::start::{Carried, Identity, Start, Warming};
use super::view::STORE;
use super::warmers::Notice;
use super::watch::{Kernel, Member, Watch};
use crate::attribute::Collector;
use crate::probe::CgroupChange;
use crate::run::now_ms;
use crate::warm::monotonic_ns;
use crate::workload::{self, Place};

/// Cgroups that are remembered at a time.
pub(super) const CGROUPS: usize = 100_000;

/// What the kernel has lost so far of what is watched, where it tells.
fn not_seen(kernel: &Kernel) -> Option<u64> {
    let counters = kernel.probes.counters().ok();
    counters.map(|counters| counters.not_seen())
}

impl Watch {
    pub(super) fn made(
        &mut self,
        kernel: &mut Kernel,
        id: u64,
        time_ns: u64,
        change: &CgroupChange,
    ) {
        let Some(place) = workload::topmost(&change.path) else {
            let parent = change.parent.and_then(|parent| self.cgroups.get(&parent));
            if let Some(start) = parent.map(|parent| parent.start)
                && self.cgroups.len() < CGROUPS
            {
                self.cgroups.insert(id, Member { start, key: None });
            }
            return;
        };
        if self.cgroups.len() >= CGROUPS {
            self.not_learned("too_many_cgroups");
            return;
        }
        let own = Member {
            start: Some(id),
            key: None,
        };
        self.cgroups.insert(id, own);
        self.begin(kernel, id, time_ns, place, &change.path, "cgroup");
    }

    /// Somebody came into a workload's own cgroup, in which nobody was: what ran there before
    /// is over, and it starts again.
    pub(super) fn filled(
        &mut self,
        kernel: &mut Kernel,
        id: u64,
        time_ns: u64,
        change: &CgroupChange,
    ) {
        if self.starts.contains_key(&id) {
            return;
        }
        let Some(place) = workload::place(&change.path) else {
            return;
        };
        let Some(member) = self.cgroups.get_mut(&id) else {
            return;
        };
        member.start = Some(id);
        if let Some(key) = member.key.take() {
            self.workloads.gone(&key);
        }
        self.begin(kernel, id, time_ns, place, &change.path, "refill");
    }

    /// Asks to be told when a workload's own cgroup is filled again.
    pub(super) fn await_refill(&mut self, id: u64) {
        let is_own = |member: &Member| member.key.is_some();
        if !self.cgroups.get(&id).is_some_and(is_own) {
            return;
        }
        if let Some(kernel) = &mut self.probes
            && let Err(error) = kernel.probes.await_refill(id)
        {
            tracing::debug!(%error, "the next start in a cgroup will not be noticed");
            self.not_awaited += 1;
        }
    }

    /// A start in the cgroup at `path`, noticed by `signal` if nobody told of it before.
    fn begin(
        &mut self,
        kernel: &mut Kernel,
        id: u64,
        time_ns: u64,
        place: Place,
        path: &[u8],
        signal: &'static str,
    ) {
        // Where processors are wanted it is first found out whether it has to be learned.
        let waits = self.are_wanted();
        let lost_before = not_seen(kernel);
        let not_learned = if waits { None } else { self.watch(kernel, id) };
        let is_watched = !waits && not_learned.is_none();
        // Nobody was in it until now: nothing was missed.
        let seen_whole = is_watched
            && self.shared.settings().narrow_fault_around
            && self.tree.as_ref().is_some_and(|tree| tree.is_empty(path));
        let blind_ns = monotonic_ns().saturating_sub(time_ns);
        let began = Instant::now()
            .checked_sub(Duration::from_nanos(blind_ns))
            .unwrap_or_else(Instant::now);
        let expected = self.was_expected(&place, id, began);
        let (signal, notice) = expected.unwrap_or((signal, Duration::ZERO));
        let start = Start {
            cgroup: id,
            place: place.clone(),
            began,
            began_ns: time_ns,
            began_ms: now_ms().saturating_sub(blind_ns / 1_000_000),
            signal,
            notice,
            identity: Identity::Pending,
            warming: Warming::Unknown,
            wanted_as: id,
            watched: is_watched,
            not_learned: not_learned.unwrap_or(""),
            known_lately: false,
            blind_ns,
            fault_around_pages: kernel.probes.fault_around_pages(),
            seen_whole,
            narrow: false,
            collector: Collector::default(),
            phase: Phase::default(),
            over: None,
            lost: 0,
            lost_before,
        };
        *self.workloads.totals.starts.entry(signal).or_default() += 1;
        self.starts.insert(id, start);
        self.dirty = true;
        if !self.jobs.identify(id, place) {
            self.unidentified.push(id);
        }
    }

    /// Watches a cgroup's touches; why not, where that can't be.
    fn watch(&mut self, kernel: &mut Kernel, id: u64) -> Option<&'static str> {
        let settings = self.shared.settings().clone();
        if !self.shared.store.is_written() {
            return Some("no_store");
        }
        if !kernel.hooks.can_learn() {
            return Some("no_hooks");
        }
        let learning = self.starts.values().filter(|start| start.is_learned());
        if learning.count() >= settings.learn_at_once {
            return Some("too_many_starts");
        }
        if kernel.hooks.share() > settings.hook_share {
            return Some("hook_share");
        }
        if let Err(error) = kernel.probes.watch_beside(id) {
            tracing::debug!(%error, "a start is not learned");
            return Some("slot_taken");
        }
        if !kernel.hooks.attach(&mut kernel.probes) {
            if let Err(error) = kernel.probes.unwatch(id) {
                tracing::warn!(%error, "a cgroup stays watched");
            }
            return Some("no_hooks");
        }
        self.narrower.want(settings.narrow_fault_around);
        None
    }

    /// Watches a start whose touches nobody has seen so far, if it is to be learned.
    fn watch_late(&mut self, id: u64) {
        let start = self.starts.get(&id);
        if !start.is_some_and(|start| start.is_learned() && !start.watched) {
            return;
        }
        let Some(mut kernel) = self.probes.take() else {
            return;
        };
        let lost_before = not_seen(&kernel);
        let not_learned = self.watch(&mut kernel, id);
        self.probes = Some(kernel);
        if let Some(why) = not_learned {
            self.give_up(id, why);
        } else if let Some(start) = self.starts.get_mut(&id) {
            start.watched = true;
            start.lost_before = lost_before;
            start.blind_ns = monotonic_ns().saturating_sub(start.began_ns);
        }
    }

    pub(super) fn not_learned(&mut self, why: &'static str) {
        let counts = &mut self.workloads.totals.starts_not_learned;
        *counts.entry(why).or_default() += 1;
    }

    pub(super) fn gone(&mut self, id: u64) {
        let Some(member) = self.cgroups.remove(&id) else {
            return;
        };
        self.dirty = true;
        if let Some(key) = &member.key {
            self.workloads.gone(key);
            if let Some(kernel) = &mut self.probes
                && let Err(error) = kernel.probes.forget_refill(id)
            {
                tracing::debug!(%error, "a cgroup that is gone is waited for");
            }
        }
        if self.starts.contains_key(&id) {
            self.finish(id, Over::Gone);
        }
    }

    /// A start is over: no more of it is recorded, and what is still to be warmed is not.
    pub(super) fn finish(&mut self, id: u64, over: Over) {
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        let after = start.began.elapsed();
        if start.over.is_none() {
            start.over = Some((over, after));
            let first = start.began + start.phase.first().unwrap_or_default();
            start.narrow = self.narrower.was_at(first);
        }
        let is_gone = over == Over::Gone;
        // One that fades may yet need what is being read for it; what waits is too late.
        let given_up = matches!(start.warming, Warming::Running)
            && self.jobs.warm.leave(start.wanted_as, is_gone);
        let wanted_as = start.wanted_as;
        self.unwatch(id);
        if given_up {
            // Nothing more is told of it.
            self.expected
                .retain(|_, expected| expected.ticket != wanted_as);
            let why = if is_gone { "gone" } else { "too_late" };
            let key = self.starts.get(&id).and_then(Start::key).cloned();
            self.warmed(id, &key.unwrap_or_default(), Err(NotWarmed::For(why)));
        } else {
            self.learn_if_ripe(id);
        }
    }

    /// No more touches of a start are sent.
    fn unwatch(&mut self, id: u64) {
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut start.watched)
            && let Some(kernel) = &mut self.probes
        {
            let lost = not_seen(kernel).zip(start.lost_before);
            // Where it does not tell, something may have been.
            start.lost += lost.map_or(1, |(now, before)| now.saturating_sub(before));
            if let Err(error) = kernel.probes.unwatch(id) {
                tracing::warn!(%error, "a cgroup stays watched");
            }
        }
    }

    /// A start that nobody is to learn: what was recorded of it is forgotten.
    pub(super) fn give_up(&mut self, id: u64, why: &'static str) {
        if let Some(start) = self.starts.get_mut(&id) {
            self.held = self.held.saturating_sub(start.collector.records());
            start.collector = Collector::default();
            if start.not_learned.is_empty() {
                start.not_learned = why;
            }
        }
        self.unwatch(id);
    }

    fn learn_if_ripe(&mut self, id: u64) {
        if !self.starts.get(&id).is_some_and(Start::is_ripe) {
            return;
        }
        let Some(start) = self.starts.remove(&id) else {
            return;
        };
        self.await_refill(id);
        let records = start.collector.records();
        let called = start
            .workload()
            .map(|workload| self.workloads.calls(workload));
        if !self.jobs.learn(start, called.unwrap_or_default()) {
            self.held = self.held.saturating_sub(records);
            self.not_learned("queue_full");
        }
    }

    pub(super) fn identified(&mut self, id: u64, known: Option<Box<Known>>) {
        let Some(place) = self.starts.get(&id).map(|start| start.place.clone()) else {
            return;
        };
        let ahead = self.warmed_ahead(&place, id);
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        let Some(known) = known else {
            start.identity = Identity::Unknown;
            start.warming = Warming::Over(None);
            self.not_wanted(ahead);
            self.give_up(id, "unknown_workload");
            self.finish(id, Over::Long);
            return;
        };
        self.workloads.remember(&known);
        let past = known.past.as_ref();
        start.known_lately = past.is_some_and(|past| is_lately(past.entry.updated_ms));
        let workload = Box::new(known.workload);
        let key = workload.keys.0.first().cloned();
        if let Some(key) = &key {
            self.jobs.warm.came(key);
        }
        let notified = key.as_ref().and_then(|key| self.notified.remove(key));
        if let Some(when) = notified.filter(|when| when.elapsed() < NOTIFIED_HOLDS) {
            let notice = start.began.saturating_duration_since(when);
            if notice > start.notice {
                (start.signal, start.notice) = ("notify", notice);
            }
        }
        self.workloads.starts(&workload, start);
        self.workloads.plans.seen += 1;
        if let Some(member) = self.cgroups.get_mut(&id) {
            member.key.clone_from(&key);
        } else if let Some(key) = &key {
            self.workloads.gone(key);
        }
        let key = key.unwrap_or_default();
        match self.spared(id, &key) {
            Some(why) => self.give_up(id, why),
            None => self.watch_late(id),
        }
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        let refused = match self.shared.wants_warming(&key, &workload.labels) {
            Err(refused) => Some(refused),
            Ok(()) if self.workloads.is_of_no_gain(&key) => Some(NotWarmed::For("no_gain")),
            Ok(()) if start.over.is_some_and(|(over, _)| over == Over::Gone) => {
                Some(NotWarmed::For("gone"))
            }
            Ok(()) => None,
        };
        if let Some(refused) = refused {
            start.identity = Identity::Known(workload);
            start.warming = Warming::Over(None);
            self.not_wanted(ahead);
            self.workloads.warmed(&key, Some(&refused));
            self.workloads.settled(Err(&refused));
            if refused == OPTED_OUT {
                self.give_up(id, "opted_out");
            }
            self.learn_if_ripe(id);
            return;
        }
        match ahead {
            Some(Ahead::Over(carried)) => {
                start.identity = Identity::Known(workload);
                self.warmed(id, &key, Ok(*carried));
                return;
            }
            Some(Ahead::Running(ticket)) => {
                start.wanted_as = ticket;
                start.warming = Warming::Running;
                start.identity = Identity::Known(workload);
                return;
            }
            None => {}
        }
        start.warming = Warming::Running;
        let priority = Priority::of(&key, &workload.labels, &self.shared.settings());
        // From the first signal on, as it was measured.
        let since = start.began.checked_sub(start.notice);
        let due = since.unwrap_or(start.began) + self.workloads.lead(&key);
        let warm = &self.jobs.warm;
        warm.beside(id, &workload, Some(id), due, priority);
        start.identity = Identity::Known(workload);
    }

    pub(super) fn warmed(&mut self, id: u64, key: &str, result: Result<Carried, NotWarmed>) {
        self.workloads.warmed(key, result.as_ref().err());
        self.workloads.settled(result.as_ref());
        if let Ok(carried) = &result {
            self.count(&carried.results());
        }
        if let Some(start) = self.starts.get_mut(&id) {
            start.warming = Warming::Over(result.ok().map(Box::new));
            self.workloads.refresh(key, start);
        }
        self.learn_if_ripe(id);
    }

    pub(super) fn count(&mut self, results: &BTreeMap<&'static str, u64>) {
        for (result, bytes) in results {
            *self
                .workloads
                .totals
                .warmed_bytes
                .entry(result)
                .or_default() += bytes;
        }
    }

    pub(super) fn learned(&mut self, mut learned: Learned) {
        if !learned.key.is_empty() && !learned.not_kept.is_empty() {
            tracing::debug!(
                key = learned.key,
                why = learned.not_kept,
                "a start is not kept"
            );
        }
        // A disk that is full, say, until there is room again.
        if learned.not_kept.is_empty() || !learned.store_says.is_empty() {
            self.base().set_feature(STORE, learned.store_says.clone());
        }
        if let Some((volume, path)) = learned.main.take() {
            self.jobs.survey.look(volume, path);
        }
        self.workloads.learned(learned);
    }

    pub(super) fn ordered(&mut self, order: Order) {
        match order {
            Order::Notify {
                workload,
                reply,
                finished,
            } => {
                let called = self.workloads.called(&workload);
                self.jobs.warm.ahead(Notice {
                    text: workload,
                    called,
                    reply,
                    finished,
                });
            }
            // Answered before it comes here.
            Order::Stored { .. } => {}
            Order::Notified(key) => {
                self.workloads.totals.notifications += 1;
                self.notified.insert(key, Instant::now());
            }
        }
    }
}
