//! What is done beside the loop, and what comes of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::handle::Order;
use super::learn::{Learned, learn};
use super::pool::{FIRST, Pool, Turn};
use super::prepare::{Known, NotWarmed, Shared};
use super::relief::Relieved;
use super::start::{Carried, Start, Warmed};
use super::survey::Survey;
use super::warmers::Warmers;
use crate::profile::Called;
use crate::workload::{Identified, Place};

/// Starts that wait to be identified, and to be learned.
const QUEUE: usize = 1024;

/// How long a runtime may take to write down what it starts, once it has made the cgroup.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the loop may take to answer.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// What a job came to.
pub(super) enum Done {
    /// An older cgroup's workload.
    Recognised(u64, Option<Box<Known>>),
    /// A start's workload.
    Identified(u64, Option<Box<Known>>),
    /// A plan was carried out, or why not, for a start or for one that is expected; with the
    /// workload's key.
    Warmed(u64, String, Box<Result<Carried, NotWarmed>>),
    /// A start that is over was learned from.
    Learned(Box<Learned>),
    /// Who a container is that is expected, by its id.
    Foreseen(String, Option<Box<Known>>),
    /// Somebody asks for something.
    Ordered(Order),
    /// Whether what is learned can be kept; empty: it can, else why not.
    Keeps(String),
    /// A notification's plan was carried out; with the profile's key.
    Notified(String, Result<Warmed, NotWarmed>),
    /// A process in a cgroup is ours, and to be passed over, or none any more.
    Except(u64, Option<u32>, SyncSender<bool>),
}

/// Where what came of jobs goes; it wakes the loop.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) done: Sender<Done>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Outbox {
    /// Has the loop tell the probes whom to pass over in a cgroup; whether they do.
    pub(super) fn except(&self, cgroup: u64, process: Option<u32>) -> bool {
        let (reply, told) = sync_channel(1);
        self.send(Done::Except(cgroup, process, reply))
            && told.recv_timeout(TOLD_WITHIN).unwrap_or(false)
    }

    /// Whether anybody still listens.
    pub(super) fn send(&self, done: Done) -> bool {
        let sent = self.done.send(done).is_ok();
        // Full of wake-ups is woken.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        sent
    }
}

/// The daemon's workers.
pub(super) struct Jobs {
    shared: Arc<Shared>,
    done: Outbox,
    /// Who is it: a few milliseconds each, and nobody is warmed for before.
    identify: Option<Pool>,
    /// Who will it be: apart, for a runtime that is slow is not to hold up who starts.
    foresee: Option<Pool>,
    /// As long as the disk takes.
    pub(super) warm: Warmers,
    /// Processor time that nobody waits for, and looks at what a start has used.
    learn: Option<Relieved>,
    pub(super) survey: Survey,
}

impl Jobs {
    pub(super) fn new(
        shared: Arc<Shared>,
        done: Outbox,
        plans_at_once: usize,
    ) -> std::io::Result<Self> {
        Ok(Self {
            identify: Some(Pool::new("identify", 2, QUEUE, FIRST)?),
            foresee: Some(Pool::new("foresee", 1, QUEUE, FIRST)?),
            warm: Warmers::new(shared.clone(), done.clone(), plans_at_once)?,
            learn: Some(Relieved::new("learn", QUEUE)?),
            survey: Survey::new(shared.clone())?,
            shared,
            done,
        })
    }

    fn beside(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.learn.as_ref().is_some_and(|pool| pool.submit(job))
    }

    /// Has others take over from workers that are stuck; says so where there are some.
    pub(super) fn relieve(&mut self) -> String {
        self.learn
            .as_mut()
            .map_or_else(String::new, Relieved::relieve)
    }

    /// Finds out what an older cgroup is.
    pub(super) fn recognise(&self, id: u64, place: Place) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        self.beside(move || {
            let known = match shared.look_up(&place) {
                Identified::Workload(workload) => Some(Box::new(shared.recall(*workload))),
                Identified::Sandbox | Identified::Unknown => None,
            };
            // Where nobody listens the daemon is about to end.
            done.send(Done::Recognised(id, known));
        })
    }

    /// Finds out what starts. A runtime may still be writing it down: until it has, others
    /// are looked for.
    pub(super) fn identify(&self, id: u64, place: Place) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        let now = Instant::now();
        let (until, mut next) = (now + WRITTEN_WITHIN, now);
        let turn = move || {
            // It is early only where nobody else waits.
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            let known = match shared.look_up(&place) {
                Identified::Workload(workload) => Some(Box::new(shared.recall(*workload))),
                Identified::Unknown if Instant::now() < until => {
                    next = Instant::now() + LOOK_EVERY;
                    return Turn::Again;
                }
                Identified::Sandbox | Identified::Unknown => None,
            };
            done.send(Done::Identified(id, known));
            Turn::Done
        };
        let pool = self.identify.as_ref();
        pool.is_some_and(|pool| pool.submit_turns(turn))
    }

    /// Finds out what will start.
    pub(super) fn foresee(&self, id: String, namespace: Option<String>) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        let pool = self.foresee.as_ref();
        pool.is_some_and(|pool| {
            pool.submit(move || {
                let known = match shared.foresee(&id, namespace.as_deref()) {
                    Identified::Workload(workload) => Some(Box::new(shared.recall(*workload))),
                    Identified::Sandbox | Identified::Unknown => None,
                };
                done.send(Done::Foreseen(id, known));
            })
        })
    }

    /// Learns from a start that is over, of a workload that is called so.
    pub(super) fn learn(&self, start: Start, called: Called) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        self.beside(move || {
            let records = start.collector.records();
            let learned = Learned {
                records,
                ..learn(start, &called, &shared)
            };
            done.send(Done::Learned(Box::new(learned)));
        })
    }

    /// Ends the workers, each after what it does now; starts that wait to be learned
    /// are, as far as there is time for that.
    pub(super) fn end(&mut self) {
        self.identify = None;
        self.foresee = None;
        self.survey.end();
        self.warm.end();
        if let Some(pool) = self.learn.take() {
            match pool.finish() {
                0 => {}
                starts => tracing::warn!(starts, "ended before they were learned"),
            }
        }
    }
}
