//! The loop: signals and records in, jobs for the workers out. Nothing in it waits for a
//! disk or for another process.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use headstart_abi::{Outcome, Stage};
use rustix::event::{EventfdFlags, eventfd};

use super::admit::NOTIFIED_HOLDS;
use super::existing::Missed;
use super::expected::{Expected, is_ticket};
use super::handle::Handle;
use super::hooks::Hooks;
use super::jobs::{Done, Jobs, Outbox};
use super::narrow::Narrower;
use super::options::Heeded;
use super::phase::Over;
use super::pool::FIRST;
use super::prepare::Shared;
use super::signals::Signals;
use super::spare::Processors;
use super::start::{Start, Warming};
use super::tracked::Workloads;
use super::view::{Feature, STORE, View};
use crate::model::StageCounts;
use crate::probe::{Probes, Reader, Record, What, decode, wait};
use crate::run::{Tree, now_ms};
use crate::warm::be_nice;
use crate::workload::Place;

/// How often the rings are emptied while something is learned, and while nothing is.
const LEARNING: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(250);

/// How often starts are looked at, and the view is made.
const TICK: Duration = Duration::from_millis(500);

/// How often the kernel is asked what its programs cost.
const MEASURE: Duration = Duration::from_secs(5);

/// Records kept of one start: some 30 MB.
const RECORDS: u64 = 300_000;

/// Records kept of all starts: some 200 MB.
const ALL_RECORDS: u64 = 2_000_000;

/// Records that wait for the signal of their cgroup; more are counted as nobody's.
const EARLY: usize = 4096;

/// A cgroup that belongs to a workload.
#[derive(Default)]
pub(super) struct Member {
    /// The start that it is part of, or was: ids don't come again.
    pub(super) start: Option<u64>,
    /// The workload's key, once it is known, where it is the workload's own cgroup.
    pub(super) key: Option<String>,
}

/// Everything that the loop owns.
pub(super) struct Watch {
    pub(super) probes: Option<Kernel>,
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: Jobs,
    pub(super) narrower: Narrower,
    pub(super) processors: Processors,
    /// Asked who is in a cgroup; `None` where it can't be.
    pub(super) tree: Option<Tree>,
    done: Receiver<Done>,
    /// Can be read when something is done.
    wake: Arc<OwnedFd>,
    handle: Handle,
    /// By the id of its first cgroup.
    pub(super) starts: HashMap<u64, Start>,
    pub(super) cgroups: HashMap<u64, Member>,
    pub(super) workloads: Workloads,
    /// Key → when somebody said that it will start.
    pub(super) notified: HashMap<String, Instant>,
    /// What runtimes tell; `None` where nobody can listen.
    pub(super) signals: Option<Signals>,
    /// Containers that are about to start, by id.
    pub(super) expected: HashMap<String, Expected>,
    /// Those that there were, and those for whom there was no room.
    pub(super) expected_so_far: u64,
    pub(super) expected_lost: u64,
    /// Cgroups of which it is not told when they are filled again: too many are waited for.
    pub(super) not_awaited: u64,
    pub(super) missed: Missed,
    /// Older cgroups that nobody has looked at yet.
    pub(super) older: VecDeque<(u64, Place)>,
    /// Records that are kept, of all starts.
    pub(super) held: u64,
    early: Vec<Record>,
    /// When the kernel was asked last what its programs cost.
    measured: Option<Instant>,
    /// Starts that nobody has time to look at.
    pub(super) unidentified: Vec<u64>,
    /// Records of nobody that is learned: of a start that is over already.
    not_ours: u64,
    undecodable: u64,
    routed: u64,
    /// Records that were given to none: theirs had too many, or all together.
    no_room: u64,
    ready: bool,
    began: Instant,
    base: View,
    last_tick: Instant,
    pub(super) dirty: bool,
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
        heeded: Heeded,
        base: View,
        narrower: Narrower,
    ) -> std::io::Result<(Self, Outbox)> {
        let (sender, done) = channel();
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let outbox = Outbox {
            done: sender,
            wake: Arc::new(wake),
        };
        let wake = outbox.wake.clone();
        let jobs = Jobs::new(shared.clone(), outbox.clone(), plans_at_once)?;
        let signals = Signals::listen(heeded, &shared.runtimes, wake.clone());
        let signals = signals
            .inspect_err(|error| tracing::warn!(%error, "runtimes are not listened to"))
            .ok();
        let watch = Self {
            probes: kernel,
            shared,
            jobs,
            narrower,
            processors: Processors::default(),
            tree: Tree::open().ok(),
            done,
            wake,
            handle,
            starts: HashMap::new(),
            cgroups: HashMap::new(),
            workloads: Workloads::default(),
            notified: HashMap::new(),
            signals,
            expected: HashMap::new(),
            expected_so_far: 0,
            expected_lost: 0,
            not_awaited: 0,
            missed: Missed::default(),
            older: VecDeque::new(),
            held: 0,
            early: Vec::new(),
            not_ours: 0,
            undecodable: 0,
            routed: 0,
            no_room: 0,
            measured: None,
            unidentified: Vec::new(),
            ready: false,
            began: Instant::now(),
            base,
            last_tick: Instant::now(),
            dirty: true,
        };
        Ok((watch, outbox))
    }

    /// Goes on until `stop` can be read.
    pub(super) fn run(&mut self, stop: BorrowedFd<'_>, tick: &mut dyn FnMut(&mut Self)) {
        self.ready = true;
        // What starts is not waited for, so that a loop that has to wait for the processor
        // sees the less of it.
        be_nice(FIRST);
        loop {
            let pause = if self.starts.is_empty() {
                IDLE
            } else {
                LEARNING
            };
            if self.wait(pause, stop) {
                break;
            }
            // Before cgroups: who was told of is known by then.
            self.hear();
            self.drain();
            while let Ok(done) = self.done.try_recv() {
                self.take(done);
            }
            if self.last_tick.elapsed() >= TICK {
                self.last_tick = Instant::now();
                self.look();
                self.catch_up();
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
        let mut gone = Vec::new();
        for record in changes {
            match record.what {
                What::CgroupMade(change) => {
                    self.made(&mut kernel, record.cgroup, record.time_ns, &change);
                }
                What::CgroupFilled(change) => {
                    self.filled(&mut kernel, record.cgroup, record.time_ns, &change);
                }
                What::CgroupGone(_) => gone.push(record.cgroup),
                _ => {}
            }
        }
        let listened = self.handle.has_listeners();
        // Their cgroups were not known the last time: the signal came after the look.
        for record in std::mem::take(&mut self.early) {
            if self.route(record, listened).is_err() {
                self.not_ours += 1;
            }
        }
        let mut taken = 0;
        kernel.records.drain(|bytes| {
            taken += 1;
            match decode(bytes).map(|record| self.route(record, listened)) {
                Ok(Ok(())) => {}
                Ok(Err(record)) if self.early.len() < EARLY => self.early.push(record),
                Ok(Err(_)) => self.not_ours += 1,
                Err(error) => {
                    tracing::debug!(%error, "a record was not understood");
                    self.undecodable += 1;
                }
            }
        });
        self.workloads.totals.records += taken;
        self.probes = Some(kernel);
        for id in std::mem::take(&mut self.unidentified) {
            self.take(Done::Identified(id, None));
            self.not_learned("queue_full");
        }
        // After its last records.
        for id in gone {
            self.gone(id);
        }
    }

    /// Gives a record to the start that it is of; back, where nobody knows its cgroup.
    fn route(&mut self, record: Record, listened: bool) -> Result<(), Record> {
        let Some(member) = self.cgroups.get(&record.cgroup) else {
            return Err(record);
        };
        let start = member.start.and_then(|id| self.starts.get_mut(&id));
        let Some(start) = start.filter(|start| start.is_learned()) else {
            self.not_ours += 1;
            return Ok(());
        };
        let since = record.time_ns.saturating_sub(start.began_ns);
        let pages = match &record.what {
            What::Touch(touch) => u64::from(touch.pages.count_ones()),
            What::Fault(fault) => fault.last - fault.start + 1,
            _ => 0,
        };
        if pages > 0 {
            start.phase.touched(pages, Duration::from_nanos(since));
        }
        if listened && let Some(touched) = start.touched(&record, since) {
            self.handle.tell(&touched);
        }
        if start.collector.records() < RECORDS && self.held < ALL_RECORDS {
            self.held += 1;
            self.routed += 1;
            start.collector.take(record);
        } else {
            start.lost += 1;
            self.no_room += 1;
        }
        Ok(())
    }

    pub(super) fn take(&mut self, done: Done) {
        self.dirty = true;
        match done {
            Done::Recognised(id, known) => {
                // One that a signal came of meanwhile is known by its start.
                let member = self.cgroups.get_mut(&id);
                let member = member.filter(|m| m.start.is_none() && m.key.is_none());
                if let (Some(member), Some(known)) = (member, known) {
                    member.key = known.workload.keys.0.first().cloned();
                    self.workloads.exists(&known);
                    self.await_refill(id);
                }
            }
            Done::Identified(id, known) => self.identified(id, known),
            Done::Warmed(id, key, result) if is_ticket(id) => {
                self.warmed_expected(id, &key, *result);
            }
            Done::Warmed(id, key, result) => self.warmed(id, &key, *result),
            Done::Foreseen(id, known) => self.foreseen(&id, known),
            Done::Learned(learned) => {
                self.held = self.held.saturating_sub(learned.records);
                self.learned(*learned);
            }
            Done::Ordered(order) => self.ordered(order),
            Done::Keeps(why_not) => self.base.set_feature(STORE, why_not),
            Done::Notified(key, result) => match result {
                Ok(warmed) => {
                    self.count(&warmed.results());
                    if warmed.report.in_turns > 0 {
                        self.workloads.held_back("others");
                    }
                }
                Err(refused) => self.workloads.warmed(&key, Some(&refused)),
            },
            Done::Except(cgroup, process, reply) => {
                let probes = self.probes.as_mut().map(|kernel| &mut kernel.probes);
                let told = probes.is_none_or(|probes| probes.except(cgroup, process).is_ok());
                // Who does not wait any more goes on without.
                let _ = reply.try_send(told);
            }
        }
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
        self.spare();
        while let Some((id, place)) = self.older.pop_front() {
            if !self.jobs.recognise(id, place.clone()) {
                self.older.push_front((id, place));
                break;
            }
        }
        let learning = self.starts.values().any(|start| start.watched);
        if let (false, Some(kernel)) = (learning, &mut self.probes) {
            kernel.hooks.detach(&mut kernel.probes);
            self.narrower.want(false);
        }
        self.notified
            .retain(|_, when| when.elapsed() < NOTIFIED_HOLDS);
        self.forget_expected();
        self.dirty |= !self.starts.is_empty();
    }

    /// What can be told, for whoever asks.
    fn publish(&mut self) {
        let mut view = self.base.clone();
        view.alive_ms = now_ms();
        view.ready = self.ready;
        view.store = self.shared.store.notices();
        let settings = self.shared.settings().clone();
        view.features.extend(self.shared.charge.features(&settings));
        let stuck = self.jobs.relieve();
        view.features.push(Feature {
            name: "workers",
            live: stuck.is_empty(),
            reason: stuck,
        });
        if settings.narrow_fault_around {
            view.features.push(self.narrower.feature());
        }
        let mut stages = Vec::new();
        let totals = &mut self.workloads.totals;
        let charged = self.shared.charge.charged();
        totals.charged_bytes = charged.bytes;
        totals.charge_fallbacks = charged.fallbacks;
        totals.disk_measurements = self.jobs.survey.counts();
        totals.helper_restarts = self.shared.charge.restarts();
        totals.uptime_seconds = self.began.elapsed().as_secs_f64();
        if let Some(kernel) = &mut self.probes {
            if self.measured.is_none_or(|last| last.elapsed() >= MEASURE) {
                self.measured = Some(Instant::now());
                totals.programs = kernel.probes.programs();
            }
            totals.hooks_attached_seconds = kernel.hooks.attached_for().as_secs_f64();
            if let Ok(counters) = kernel.probes.counters() {
                totals.records_lost = counters.get(Stage::Ring, Outcome::Lost);
                let lost = counters.get(Stage::Signal, Outcome::Lost);
                totals.signals_lost = lost + self.not_awaited;
                self.missed.lost(lost, Instant::now());
                stages = counters.stages();
                totals.evictions = counters.evicted().into();
            }
        }
        if let Some(signals) = &self.signals {
            view.features.extend(signals.features());
            totals.runtime_signals_lost = signals.lost() + self.expected_lost;
        }
        stages.push(self.route_counts());
        stages.push(self.plan_counts());
        view.totals = self.workloads.totals.clone();
        view.totals.stages.splice(0..0, stages);
        view.cgroups = self.cgroups.values().filter(|m| m.key.is_some()).count() as u64;
        view.learning = self.starts.values().filter(|s| s.is_learned()).count() as u64;
        let (waiting, running) = self.jobs.warm.depths();
        (view.waiting, view.warming) = (waiting as u64, running as u64);
        if self.dirty {
            for start in self.starts.values() {
                if let Some(key) = start.workload().and_then(|w| w.keys.0.first()) {
                    self.workloads.refresh(key, start);
                }
            }
            view.workloads = Arc::new(self.workloads.views());
            self.dirty = false;
        } else {
            view.workloads.clone_from(&self.handle.view().workloads);
        }
        self.handle.publish(view);
    }

    /// What became of the records that were taken from the ring buffer.
    fn route_counts(&self) -> StageCounts {
        let mut counts = StageCounts::new("route", "records");
        counts.seen = self.workloads.totals.records - self.early.len() as u64;
        counts.out = self.routed;
        counts.lost = self.no_room;
        counts.filter("nobodys", self.not_ours);
        counts.filter("undecodable", self.undecodable);
        counts
    }

    /// What became of starts that could be warmed for.
    fn plan_counts(&self) -> StageCounts {
        let mut counts = self.workloads.plans.clone();
        let running = |s: &&Start| matches!(s.warming, Warming::Running);
        // Of those it is not known yet.
        counts.seen -= self.starts.values().filter(running).count() as u64;
        counts
    }

    /// The configuration in use, for the view.
    pub(super) fn base(&mut self) -> &mut View {
        &mut self.base
    }

    /// What is under way is given up; starts that were learned so far are kept.
    fn end(&mut self) {
        let ids: Vec<u64> = self.starts.keys().copied().collect();
        self.jobs.warm.close();
        for id in &ids {
            self.finish(*id, Over::Long);
        }
        self.narrower.want(false);
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
