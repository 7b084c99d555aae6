//! The loop: signals and records in, jobs for the workers out. Nothing in it waits for a
//! disk or for another process.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use headstart_abi::{Outcome, Stage};
use rustix::event::{EventfdFlags, eventfd};

use super::admit::NOTIFIED_HOLDS;
use super::handle::{Handle, Order, Touched};
use super::hooks::Hooks;
use super::jobs::{Done, Jobs, Outbox};
use super::learn::Learned;
use super::phase::{Over, Phase};
use super::prepare::{NotWarmed, Shared};
use super::start::{Identity, Start, Warming};
use super::tracked::Workloads;
use super::view::View;
use crate::attribute::Collector;
use crate::probe::{CgroupChange, Probes, Reader, Record, What, decode, wait};
use crate::run::now_ms;
use crate::workload::{self, Place, Workload};

/// How often the rings are emptied while something is learned, and while nothing is.
const LEARNING: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(250);

/// How often starts are looked at, and the view is made.
const TICK: Duration = Duration::from_millis(500);

/// Records kept of one start: some 30 MB.
const RECORDS: u64 = 300_000;

/// Cgroups that are remembered at a time.
const CGROUPS: usize = 100_000;

/// A cgroup that belongs to a workload.
#[derive(Default)]
struct Member {
    /// The start that it is part of, while that is learned.
    start: Option<u64>,
    /// The workload's key, once it is known, where it is the workload's own cgroup.
    key: Option<String>,
}

/// Everything that the loop owns.
pub(super) struct Watch {
    pub(super) probes: Option<Kernel>,
    shared: Arc<Shared>,
    jobs: Jobs,
    done: Receiver<Done>,
    /// Can be read when something is done.
    wake: Arc<OwnedFd>,
    handle: Handle,
    /// By the id of its first cgroup.
    starts: HashMap<u64, Start>,
    cgroups: HashMap<u64, Member>,
    workloads: Workloads,
    /// Key → when somebody said that it will start.
    notified: HashMap<String, Instant>,
    ready: bool,
    began: Instant,
    base: View,
    last_tick: Instant,
    dirty: bool,
}

/// The probes, loaded, and the reading ends of their rings.
pub(super) struct Kernel {
    pub(super) probes: Probes,
    pub(super) records: Reader,
    pub(super) signals: Reader,
    pub(super) hooks: Hooks,
}

impl Watch {
    pub(super) fn new(
        kernel: Option<Kernel>,
        shared: Arc<Shared>,
        handle: Handle,
        plans_at_once: usize,
        base: View,
    ) -> std::io::Result<(Self, Outbox)> {
        let (sender, done) = channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let outbox = Outbox {
            done: sender,
            wake: Arc::new(wake),
        };
        let wake = outbox.wake.clone();
        let jobs = Jobs::new(shared.clone(), outbox.clone(), plans_at_once)?;
        let watch = Self {
            probes: kernel,
            shared,
            jobs,
            done,
            wake,
            handle,
            starts: HashMap::new(),
            cgroups: HashMap::new(),
            workloads: Workloads::default(),
            notified: HashMap::new(),
            ready: false,
            began: Instant::now(),
            base,
            last_tick: Instant::now(),
            dirty: true,
        };
        Ok((watch, outbox))
    }

    /// Takes up what was there before: to name it, not to learn it.
    pub(super) fn take_up(&mut self, existing: Vec<(u64, Vec<u8>)>) {
        for (id, path) in existing {
            let Some(place) = workload::place(&path) else {
                continue;
            };
            // The topmost cgroup of a workload is its own.
            let parent = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
            let above = workload::place(&path[..parent]);
            if above.as_ref() == Some(&place) || self.cgroups.len() >= CGROUPS {
                continue;
            }
            self.cgroups.insert(id, Member::default());
            self.jobs.recognise(id, place);
        }
    }

    /// Goes on until `stop` can be read.
    pub(super) fn run(&mut self, stop: BorrowedFd<'_>, tick: &mut dyn FnMut(&mut Self)) {
        self.ready = true;
        loop {
            let pause = if self.starts.is_empty() {
                IDLE
            } else {
                LEARNING
            };
            if self.wait(pause, stop) {
                break;
            }
            self.drain();
            while let Ok(done) = self.done.try_recv() {
                self.take(done);
            }
            if self.last_tick.elapsed() >= TICK {
                self.last_tick = Instant::now();
                self.look();
                tick(self);
                self.publish();
            }
        }
        self.end();
    }

    fn wait(&self, pause: Duration, stop: BorrowedFd<'_>) -> bool {
        let signals = self.probes.as_ref().map(|kernel| &kernel.signals);
        let woken = wait(signals, pause, &[stop, self.wake.as_fd()]);
        if woken.get(1) == Some(&true) {
            // What it counts is of no interest.
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        }
        woken.first() == Some(&true)
    }

    /// Signals before records: who a record's cgroup belongs to is known by then.
    fn drain(&mut self) {
        let Some(mut kernel) = self.probes.take() else {
            return;
        };
        let mut changes = Vec::new();
        kernel.signals.drain(|bytes| match decode(bytes) {
            Ok(record) => changes.push(record),
            Err(error) => tracing::warn!(%error, "a signal was not understood"),
        });
        for record in changes {
            match record.what {
                What::CgroupMade(change) => {
                    self.made(&mut kernel, record.cgroup, record.time_ns, &change);
                }
                What::CgroupGone(_) => self.gone(record.cgroup),
                _ => {}
            }
        }
        let listened = self.handle.has_listeners();
        let mut taken = 0;
        kernel.records.drain(|bytes| {
            taken += 1;
            self.record(bytes, listened);
        });
        self.workloads.totals.records += taken;
        self.probes = Some(kernel);
    }

    fn record(&mut self, bytes: &[u8], listened: bool) {
        let Ok(record) = decode(bytes) else {
            self.workloads.totals.records_lost += 1;
            return;
        };
        let start = self
            .cgroups
            .get(&record.cgroup)
            .and_then(|member| member.start);
        let Some(start) = start.and_then(|id| self.starts.get_mut(&id)) else {
            return;
        };
        if start.over.is_some() {
            return;
        }
        let since = record.time_ns.saturating_sub(start.began_ns);
        let pages = match &record.what {
            What::Touch(touch) => u64::from(touch.pages.count_ones()),
            What::Fault(fault) => fault.last - fault.start + 1,
            _ => 0,
        };
        if pages > 0 {
            start.phase.touched(pages, Duration::from_nanos(since));
        }
        if listened {
            tell(&self.handle, start, &record, since);
        }
        if start.collector.records() < RECORDS {
            start.collector.take(record);
        } else {
            start.lost += 1;
        }
    }

    fn made(&mut self, kernel: &mut Kernel, id: u64, time_ns: u64, change: &CgroupChange) {
        let parent = change.parent.and_then(|parent| self.cgroups.get(&parent));
        if let Some(parent) = parent {
            let start = parent.start;
            if self.cgroups.len() < CGROUPS {
                self.cgroups.insert(id, Member { start, key: None });
            }
            return;
        }
        let Some(place) = workload::place(&change.path) else {
            return;
        };
        if self.cgroups.len() >= CGROUPS {
            self.not_learned("too_many_cgroups");
            return;
        }
        let not_learned = self.watch(kernel, id);
        let blind_ns = monotonic_ns().saturating_sub(time_ns);
        let began = Instant::now()
            .checked_sub(Duration::from_nanos(blind_ns))
            .unwrap_or_else(Instant::now);
        let start = Start {
            cgroup: id,
            place: place.clone(),
            began,
            began_ns: time_ns,
            began_ms: now_ms().saturating_sub(blind_ns / 1_000_000),
            signal: "cgroup",
            notice: Duration::ZERO,
            identity: Identity::Pending,
            warming: Warming::Unknown,
            not_learned: not_learned.unwrap_or(""),
            blind_ns,
            collector: Collector::default(),
            phase: Phase::default(),
            over: None,
            lost: 0,
        };
        *self.workloads.totals.starts.entry("cgroup").or_default() += 1;
        self.cgroups.insert(
            id,
            Member {
                start: Some(id),
                key: None,
            },
        );
        self.starts.insert(id, start);
        self.dirty = true;
        if !self.jobs.identify(id, place) {
            self.take(Done::Identified(id, None));
            self.not_learned("queue_full");
        }
    }

    /// Watches a cgroup's touches; why not, where that can't be.
    fn watch(&mut self, kernel: &mut Kernel, id: u64) -> Option<&'static str> {
        let settings = self.shared.settings().clone();
        if !kernel.hooks.can_learn() {
            return Some("no_hooks");
        }
        let learning = self.starts.values().filter(|s| s.not_learned.is_empty());
        if learning.count() >= settings.learn_at_once {
            return Some("too_many_starts");
        }
        if self.starts.is_empty() && kernel.hooks.share() > settings.hook_share {
            return Some("hook_share");
        }
        if let Err(error) = kernel.probes.watch_beside(id) {
            tracing::debug!(%error, "a start is not learned");
            return Some("slot_taken");
        }
        if !kernel.hooks.attach(&mut kernel.probes) {
            return Some("no_hooks");
        }
        None
    }

    fn not_learned(&mut self, why: &'static str) {
        let counts = &mut self.workloads.totals.starts_not_learned;
        *counts.entry(why).or_default() += 1;
    }

    fn gone(&mut self, id: u64) {
        let Some(member) = self.cgroups.remove(&id) else {
            return;
        };
        self.dirty = true;
        if let Some(key) = &member.key {
            self.workloads.gone(key);
        }
        if self.starts.contains_key(&id) {
            self.finish(id, Over::Gone);
        }
    }

    /// A start is over: no more of it is recorded, and what is still to be warmed is not.
    fn finish(&mut self, id: u64, over: Over) {
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        if start.over.is_none() {
            start.over = Some((over, start.began.elapsed()));
            // One that fades may yet need what is read for it.
            if let (Over::Gone, Warming::Running(cancel)) = (over, &start.warming) {
                cancel.cancel();
            }
            if start.not_learned.is_empty()
                && let Some(kernel) = &mut self.probes
                && let Err(error) = kernel.probes.unwatch(id)
            {
                tracing::warn!(%error, "a cgroup stays watched");
            }
        }
        self.learn_if_ripe(id);
    }

    fn learn_if_ripe(&mut self, id: u64) {
        if !self.starts.get(&id).is_some_and(Start::is_ripe) {
            return;
        }
        let Some(start) = self.starts.remove(&id) else {
            return;
        };
        for member in self.cgroups.values_mut().filter(|m| m.start == Some(id)) {
            member.start = None;
        }
        if !self.jobs.learn(start) {
            self.not_learned("queue_full");
        }
    }

    pub(super) fn take(&mut self, done: Done) {
        self.dirty = true;
        match done {
            Done::Recognised(id, workload, runs, bytes) => {
                if let (Some(member), Some(workload)) = (self.cgroups.get_mut(&id), workload) {
                    member.key = workload.keys.0.first().cloned();
                    self.workloads.exists(&workload, runs, bytes);
                }
            }
            Done::Identified(id, workload) => self.identified(id, workload),
            Done::Warmed(id, key, result) => self.warmed(id, &key, *result),
            Done::Learned(learned) => self.learned(*learned),
            Done::Ordered(order) => self.ordered(order),
            Done::Notified(key, result) => match result {
                Ok(carried) => self.count(&carried.results()),
                Err(refused) => self.workloads.warmed(&key, Some(&refused)),
            },
        }
    }

    fn identified(&mut self, id: u64, workload: Option<Box<Workload>>) {
        let Some(start) = self.starts.get_mut(&id) else {
            return;
        };
        let Some(workload) = workload else {
            start.identity = Identity::Unknown;
            start.warming = Warming::Over(None);
            self.learn_if_ripe(id);
            return;
        };
        let key = workload.keys.0.first().cloned();
        let notified = key.as_ref().and_then(|key| self.notified.remove(key));
        if let Some(when) = notified.filter(|when| when.elapsed() < NOTIFIED_HOLDS) {
            start.signal = "notify";
            start.notice = start.began.saturating_duration_since(when);
        }
        self.workloads.starts(&workload, start);
        if let Some(member) = self.cgroups.get_mut(&id) {
            member.key.clone_from(&key);
        } else if let Some(key) = &key {
            self.workloads.gone(key);
        }
        let key = key.unwrap_or_default();
        let refused = match self.shared.wants_warming(&workload.keys) {
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
            self.workloads.warmed(&key, Some(&refused));
            self.learn_if_ripe(id);
            return;
        }
        let cancel = crate::warm::Cancel::new();
        start.warming = Warming::Running(cancel.clone());
        let submitted = self.jobs.warm(id, &workload, start.began, cancel);
        start.identity = Identity::Known(workload);
        if !submitted {
            start.warming = Warming::Over(None);
            self.workloads
                .warmed(&key, Some(&NotWarmed::Throttled("queue_full")));
        }
    }

    fn warmed(&mut self, id: u64, key: &str, result: Result<super::start::Carried, NotWarmed>) {
        self.workloads.warmed(key, result.as_ref().err());
        if let Ok(carried) = &result {
            self.count(&carried.results());
        }
        if let Some(start) = self.starts.get_mut(&id) {
            start.warming = Warming::Over(result.ok().map(Box::new));
            self.workloads.refresh(key, start);
        }
        self.learn_if_ripe(id);
    }

    fn count(&mut self, results: &std::collections::BTreeMap<&'static str, u64>) {
        for (result, bytes) in results {
            *self
                .workloads
                .totals
                .warmed_bytes
                .entry(result)
                .or_default() += bytes;
        }
    }

    fn learned(&mut self, learned: Learned) {
        if !learned.key.is_empty() && !learned.not_kept.is_empty() {
            tracing::debug!(
                key = learned.key,
                why = learned.not_kept,
                "a start is not kept"
            );
        }
        self.workloads.learned(learned);
    }

    /// Every half second: which starts are over?
    fn look(&mut self) {
        let limits = self.shared.settings().learn;
        let mut over = Vec::new();
        for (id, start) in &mut self.starts {
            if start.over.is_none()
                && let Some(why) = start.phase.look(start.began.elapsed(), &limits)
            {
                over.push((*id, why));
            }
        }
        for (id, why) in over {
            self.finish(id, why);
        }
        let learning = self.starts.values().any(|start| start.over.is_none());
        if let (false, Some(kernel)) = (learning, &mut self.probes) {
            kernel.hooks.detach(&mut kernel.probes);
        }
        self.notified
            .retain(|_, when| when.elapsed() < NOTIFIED_HOLDS);
        self.dirty |= !self.starts.is_empty();
    }

    fn ordered(&mut self, order: Order) {
        match order {
            Order::Notify { workload, reply } => {
                let called = self.workloads.called(&workload);
                self.jobs.notify(workload, called, reply);
            }
            Order::Notified(key) => {
                *self.workloads.totals.starts.entry("notify").or_default() += 1;
                self.notified.insert(key, Instant::now());
            }
        }
    }

    /// What can be told, for whoever asks.
    fn publish(&mut self) {
        let mut view = self.base.clone();
        view.alive_ms = now_ms();
        view.ready = self.ready;
        let totals = &mut self.workloads.totals;
        totals.uptime_seconds = self.began.elapsed().as_secs_f64();
        if let Some(kernel) = &mut self.probes {
            totals.hooks_attached_seconds = kernel.hooks.attached_for().as_secs_f64();
            if let Ok(counters) = kernel.probes.counters() {
                totals.records_lost = counters.get(Stage::Ring, Outcome::Lost);
                totals.signals_lost = counters.get(Stage::Signal, Outcome::Lost);
                view.totals.stages = counters.stages();
            }
        }
        let stages = std::mem::take(&mut view.totals.stages);
        view.totals = totals.clone();
        view.totals.stages.splice(0..0, stages);
        view.cgroups = self.cgroups.values().filter(|m| m.key.is_some()).count() as u64;
        view.learning = self.starts.values().filter(|s| s.over.is_none()).count() as u64;
        let running = |s: &&Start| matches!(s.warming, Warming::Running(_));
        view.warming = self.starts.values().filter(running).count() as u64;
        if self.dirty {
            for start in self.starts.values() {
                if let Some(key) = start.workload().and_then(|w| w.keys.0.first()) {
                    self.workloads.refresh(key, start);
                }
            }
            view.workloads = self.workloads.views();
            self.dirty = false;
        } else {
            view.workloads.clone_from(&self.handle.view().workloads);
        }
        self.handle.publish(view);
    }

    /// The configuration in use, for the view.
    pub(super) fn base(&mut self) -> &mut View {
        &mut self.base
    }

    /// What is under way is given up; starts that were learned so far are kept.
    fn end(&mut self) {
        let ids: Vec<u64> = self.starts.keys().copied().collect();
        for start in self.starts.values() {
            if let Warming::Running(cancel) = &start.warming {
                cancel.cancel();
            }
        }
        for id in &ids {
            self.finish(*id, Over::Long);
        }
        let until = Instant::now() + Duration::from_secs(5);
        while !self.starts.is_empty() && Instant::now() < until {
            match self.done.recv_timeout(Duration::from_millis(50)) {
                Ok(done) => self.take(done),
                Err(_) => continue,
            }
        }
        self.jobs.end();
        while let Ok(done) = self.done.try_recv() {
            self.take(done);
        }
        self.ready = false;
        self.publish();
    }
}

fn tell(handle: &Handle, start: &Start, record: &Record, since_start_ns: u64) {
    let (inode, page, pages, maybe) = match &record.what {
        What::Touch(touch) if touch.pages != 0 => (
            touch.inode,
            touch.base_page + u64::from(touch.pages.trailing_zeros()),
            touch.pages.count_ones(),
            false,
        ),
        What::Fault(fault) => (
            fault.inode,
            fault.start,
            (fault.last - fault.start + 1) as u32,
            true,
        ),
        _ => return,
    };
    let key = start
        .workload()
        .and_then(|workload| workload.keys.0.first());
    handle.tell(&Touched {
        workload: key.cloned().unwrap_or_default(),
        since_start_ns,
        path: start
            .collector
            .path(&inode)
            .map(<[u8]>::to_vec)
            .unwrap_or_default(),
        page,
        pages,
        maybe,
    });
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What a start is of; for the log.
impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place: &Place = &self.place;
        f.debug_struct("Start")
            .field("cgroup", &self.cgroup)
            .field("place", place)
            .finish_non_exhaustive()
    }
}
