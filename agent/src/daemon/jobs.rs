//! What is done beside the loop, and what comes of it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};

use super::handle::{Notified, Order, OrderError};
use super::learn::{Learned, learn};
use super::pool::Pool;
use super::prepare::{Known, NotWarmed, Shared};
use super::start::{Carried, Start};
use crate::plan::Timing;
use crate::warm::Cancel;
use crate::workload::{Identified, Place, Workload};

/// Starts that wait to be identified, warmed for and learned.
const QUEUE: usize = 1024;

/// What a job came to.
pub(super) enum Done {
    /// An older cgroup's workload.
    Recognised(u64, Option<Box<Known>>),
    /// A start's workload.
    Identified(u64, Option<Box<Known>>),
    /// A start's plan was carried out, or why not; with the workload's key.
    Warmed(u64, String, Box<Result<Carried, NotWarmed>>),
    /// A start that is over was learned from.
    Learned(Box<Learned>),
    /// Who a container is that is expected, by its id.
    Foreseen(String, Option<Box<Known>>),
    /// What was warmed for it, or why nothing; with the workload's key.
    WarmedExpected(String, String, Box<Result<Carried, NotWarmed>>),
    /// Somebody asks for something.
    Ordered(Order),
    /// A notification's plan was carried out; with the profile's key.
    Notified(String, Result<Box<Carried>, NotWarmed>),
}

/// Where what came of jobs goes; it wakes the loop.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) done: Sender<Done>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Outbox {
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
    warm: Option<Pool>,
    /// Processor time that nobody waits for.
    learn: Option<Pool>,
}

impl Jobs {
    pub(super) fn new(
        shared: Arc<Shared>,
        done: Outbox,
        plans_at_once: usize,
    ) -> std::io::Result<Self> {
        Ok(Self {
            shared,
            done,
            identify: Some(Pool::new("identify", 2, QUEUE)?),
            foresee: Some(Pool::new("foresee", 1, QUEUE)?),
            warm: Some(Pool::new("warm", plans_at_once.max(1), QUEUE)?),
            learn: Some(Pool::new("learn", 1, QUEUE)?),
        })
    }

    fn submit(pool: &Option<Pool>, job: impl FnOnce() + Send + 'static) -> bool {
        pool.as_ref().is_some_and(|pool| pool.submit(job))
    }

    /// Finds out what an older cgroup is.
    pub(super) fn recognise(&self, id: u64, place: Place) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        Self::submit(&self.learn, move || {
            let known = match shared.look_up(&place) {
                Identified::Workload(workload) => Some(Box::new(shared.recall(*workload))),
                Identified::Sandbox | Identified::Unknown => None,
            };
            // Where nobody listens the daemon is about to end.
            done.send(Done::Recognised(id, known));
        })
    }

    /// Finds out what starts.
    pub(super) fn identify(&self, id: u64, place: Place) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        Self::submit(&self.identify, move || {
            let workload = shared.identify(&place);
            let known = workload.map(|workload| Box::new(shared.recall(workload)));
            done.send(Done::Identified(id, known));
        })
    }

    /// Finds out what will start.
    pub(super) fn foresee(&self, id: String, namespace: Option<String>) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        Self::submit(&self.foresee, move || {
            let workload = shared.foresee(&id, namespace.as_deref());
            let known = workload.map(|workload| Box::new(shared.recall(workload)));
            done.send(Done::Foreseen(id, known));
        })
    }

    /// Warms for a container that is expected.
    pub(super) fn warm_expected(&self, id: String, workload: &Workload, cancel: Cancel) -> bool {
        let done = self.done.clone();
        self.warm_for(workload, cancel, move |key, result| {
            done.send(Done::WarmedExpected(id, key, Box::new(result)));
        })
    }

    /// Warms beside a start.
    pub(super) fn warm(&self, id: u64, workload: &Workload, cancel: Cancel) -> bool {
        let done = self.done.clone();
        self.warm_for(workload, cancel, move |key, result| {
            done.send(Done::Warmed(id, key, Box::new(result)));
        })
    }

    fn warm_for(
        &self,
        workload: &Workload,
        cancel: Cancel,
        tell: impl FnOnce(String, Result<Carried, NotWarmed>) + Send + 'static,
    ) -> bool {
        let shared = self.shared.clone();
        let (keys, volumes) = (workload.keys.clone(), workload.volumes.clone());
        Self::submit(&self.warm, move || {
            let key = keys.0.first().cloned().unwrap_or_default();
            let result = match shared.profile(&keys) {
                Ok(Some((_, profile))) => shared.warm(profile, &volumes, Timing::Beside, &cancel),
                Ok(None) => Err(NotWarmed::For("no_profile")),
                Err(error) => Err(NotWarmed::Store(error.to_string())),
            };
            tell(key, result);
        })
    }

    /// Warms ahead of a start that somebody tells of: `called` are the keys of workloads
    /// of that key or name.
    pub(super) fn notify(
        &self,
        text: String,
        called: Vec<String>,
        reply: SyncSender<Result<Notified, OrderError>>,
    ) {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        let refused = reply.clone();
        let submitted = Self::submit(&self.warm, move || {
            let key = match &called[..] {
                [] => text.clone(),
                [key] => key.clone(),
                _ => {
                    let _ = reply.send(Err(OrderError::Ambiguous(text)));
                    return;
                }
            };
            let found = shared.wants_warming(&key, &BTreeMap::new());
            if let Err(NotWarmed::For(reason) | NotWarmed::Throttled(reason)) = found {
                let workload = key;
                let _ = reply.send(Err(OrderError::NotWarmed { workload, reason }));
                return;
            }
            let profile = match shared.store.get(&key) {
                Ok(Some(profile)) => profile,
                Ok(None) => {
                    let _ = reply.send(Err(OrderError::Unknown(text)));
                    return;
                }
                Err(error) => {
                    let _ = reply.send(Err(OrderError::Store(error.to_string())));
                    return;
                }
            };
            let planned = shared.planned(&profile);
            let volumes = shared.stored(&profile);
            let notified = Notified {
                key: key.clone(),
                planned,
            };
            done.send(Done::Ordered(Order::Notified(key.clone())));
            let _ = reply.send(Ok(notified));
            let result = shared.warm(profile, &volumes, Timing::Ahead, &Cancel::new());
            done.send(Done::Notified(key, result.map(Box::new)));
        });
        if !submitted {
            let _ = refused.send(Err(OrderError::Busy("too many plans wait")));
        }
    }

    /// Learns from a start that is over.
    pub(super) fn learn(&self, start: Start) -> bool {
        let (shared, done) = (self.shared.clone(), self.done.clone());
        Self::submit(&self.learn, move || {
            let records = start.collector.records();
            let learned = Learned {
                records,
                ..learn(start, &shared)
            };
            done.send(Done::Learned(Box::new(learned)));
        })
    }

    /// Ends the workers, each after what it does now; starts that wait to be learned
    /// are.
    pub(super) fn end(&mut self) {
        self.identify = None;
        self.foresee = None;
        self.warm = None;
        if let Some(pool) = self.learn.take() {
            pool.finish();
        }
    }
}
