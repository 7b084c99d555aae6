//! Threads that carry plans out, the most urgent first.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::handle::{FinishedSender, Notified, Order, OrderError};
use super::jobs::{Done, Outbox};
use super::prepare::{NotWarmed, Shared, Whom};
use super::priority::Priority;
use super::queue::{Dropped, Member, Next, Queue, Same, Wanted, Wish};
use super::start::Warmed;
use super::wishes::Wishes;
use crate::plan::Timing;
use crate::warm::Cancel;
use crate::workload::Workload;

/// Plans that wait.
const QUEUE: usize = 1024;

/// What was told of ahead is expected to start no sooner: what starts now goes first.
const AHEAD: Duration = Duration::from_secs(1);

/// Something that waits to be warmed.
#[derive(Debug)]
pub(super) enum Task {
    /// Beside starts of a workload, the first in this cgroup, where there is one yet.
    Beside(Option<u64>, Box<Workload>),
    /// Ahead of a start that somebody tells of.
    Ahead(Notice),
}

impl Task {
    fn is_ahead(&self) -> bool {
        matches!(self, Self::Ahead(_))
    }
}

/// What somebody told of.
#[derive(Debug)]
pub(super) struct Notice {
    /// What they called it.
    pub(super) text: String,
    /// The keys of workloads of that key or name.
    pub(super) called: Vec<String>,
    /// For what comes of it.
    pub(super) reply: SyncSender<Result<Notified, OrderError>>,
    /// For what has come of it, if anybody waits for that.
    pub(super) finished: Option<FinishedSender>,
}

/// The threads, and what waits for them. Dropping it ends them.
pub(super) struct Warmers {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    shared: Arc<Shared>,
    done: Outbox,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue<Task, Warmed>,
    ended: bool,
    /// Most plans ahead of starts at a time, which may take long: starts find a thread.
    most_ahead: usize,
    running_ahead: usize,
    /// What is being warmed for ahead of a start, by key.
    ahead: HashMap<String, GoesOn>,
}

impl Warmers {
    /// Starts so many threads.
    pub(super) fn new(
        shared: Arc<Shared>,
        done: Outbox,
        plans_at_once: usize,
    ) -> std::io::Result<Self> {
        // One of them at least is for starts.
        let threads = plans_at_once.max(2);
        let inner = Arc::new(Inner {
            shared,
            done,
            state: Mutex::new(State {
                queue: Queue::new(QUEUE),
                ended: false,
                most_ahead: threads - 1,
                running_ahead: 0,
                ahead: HashMap::new(),
            }),
            changed: Condvar::new(),
        });
        let mut warmers = Self {
            inner,
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let inner = warmers.inner.clone();
            let work = move || inner.work();
            let thread = std::thread::Builder::new()
                .name("warm".into())
                .spawn(work)?;
            warmers.threads.push(thread);
        }
        Ok(warmers)
    }

    /// Has something warmed beside a start, which is called `id` and in this cgroup, where
    /// there is one yet; its first need of it is expected at `due`. What comes of it is told.
    pub(super) fn beside(
        &self,
        id: u64,
        workload: &Workload,
        cgroup: Option<u64>,
        due: Instant,
        priority: Priority,
    ) {
        let keys = &workload.keys.0;
        let member = Member {
            start: id,
            key: keys.first().cloned().unwrap_or_default(),
        };
        let places = crate::workload::places(&workload.volumes).into_iter();
        let places = places.map(|(id, directory)| (id.to_owned(), directory.path.clone()));
        let same = Same {
            keys: keys.clone(),
            places: places.collect(),
        };
        self.want(Wish {
            whose: Some((member, same)),
            priority,
            due,
            task: Task::Beside(cgroup, Box::new(workload.clone())),
        });
    }

    /// Has something warmed that somebody told of.
    pub(super) fn ahead(&self, notice: Notice) {
        let key = notice.called.first().unwrap_or(&notice.text);
        let priority = Priority::of(key, &BTreeMap::new(), &self.inner.shared.settings());
        self.want(Wish {
            whose: None,
            priority,
            due: Instant::now() + AHEAD,
            task: Task::Ahead(notice),
        });
    }

    /// A start has come: what is still to be warmed for it is warmed beside it.
    pub(super) fn came(&self, key: &str) {
        if let Some(GoesOn { cancel, .. }) = self.inner.state().ahead.get(key) {
            cancel.cancel();
        }
    }

    fn want(&self, wish: Wish<Task>) {
        let wanted = self.inner.state().queue.want(wish, Instant::now());
        match wanted {
            Wanted::Taken(dropped) => {
                self.inner.changed.notify_one();
                if let Some(dropped) = dropped {
                    self.inner
                        .refuse(dropped, &NotWarmed::Throttled("queue_full"));
                }
            }
            Wanted::Had(member, warmed) => self.inner.tell(member, &Ok(warmed), true),
            Wanted::Full(dropped) => {
                self.inner
                    .refuse(dropped, &NotWarmed::Throttled("queue_full"));
            }
        }
    }

    /// A start is over, or `gone`. `true`: what it wanted waited, and nothing more will be
    /// told of it.
    pub(super) fn leave(&self, start: u64, gone: bool) -> bool {
        self.inner.state().queue.leave(start, gone)
    }

    /// Plans that wait, and that are being carried out.
    pub(super) fn depths(&self) -> (usize, usize) {
        let mut state = self.inner.state();
        // What it remembers is not to stay when nothing starts any more.
        state.queue.forget(Instant::now());
        state.queue.depths()
    }

    /// Gives back all that waits, cancels what is under way, and takes no more.
    pub(super) fn close(&self) {
        let dropped = self.inner.state().queue.close();
        for dropped in dropped {
            self.inner.refuse(dropped, &NotWarmed::For("agent_ends"));
        }
    }

    /// Ends the threads, each after what it does now, which is cancelled.
    pub(super) fn end(&mut self) {
        self.close();
        self.inner.state().ended = true;
        self.inner.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Warmers {
    fn drop(&mut self) {
        self.end();
    }
}

/// A plan ahead of a start.
struct GoesOn {
    cancel: Cancel,
    /// Who wants to know what came of it.
    waiting: Vec<FinishedSender>,
}

/// A plan ahead of a start of this key, as long as this lives.
struct GoingOn<'a> {
    inner: &'a Inner,
    key: String,
    cancel: Cancel,
}

impl<'a> GoingOn<'a> {
    /// `None`: there is one, and who waits will be told of that.
    fn new(
        inner: &'a Inner,
        key: &str,
        cancel: &Cancel,
        finished: Option<FinishedSender>,
    ) -> Option<Self> {
        let mut state = inner.state();
        let going_on = state.ahead.get_mut(key);
        if let Some(other) = going_on.filter(|other| !other.cancel.is_cancelled()) {
            other.waiting.extend(finished);
            return None;
        }
        // Who waited for one that was cancelled is told of this one.
        let cancelled = state.ahead.remove(key);
        let mut waiting = cancelled.map_or_else(Vec::new, |other| other.waiting);
        waiting.extend(finished);
        let goes_on = GoesOn {
            cancel: cancel.clone(),
            waiting,
        };
        state.ahead.insert(key.to_owned(), goes_on);
        Some(Self {
            inner,
            key: key.to_owned(),
            cancel: cancel.clone(),
        })
    }
}

impl GoingOn<'_> {
    /// Tells all who wait what came of it.
    fn tell(&self, warmed: &Result<Warmed, NotWarmed>) {
        for finished in self.over() {
            let told = match warmed {
                Ok(warmed) => Ok(warmed.report.clone()),
                Err(refused) => Err(refusal(self.key.clone(), refused)),
            };
            let _ = finished.send(told);
        }
    }

    /// It is no longer going on; who waited for it.
    fn over(&self) -> Vec<FinishedSender> {
        let mut state = self.inner.state();
        // After it was cancelled there may be another.
        let ahead = &mut state.ahead;
        let is_own = ahead
            .get(&self.key)
            .is_some_and(|of| of.cancel.is(&self.cancel));
        let own = is_own.then(|| ahead.remove(&self.key)).flatten();
        own.map(|own| own.waiting).unwrap_or_default()
    }
}

impl Drop for GoingOn<'_> {
    fn drop(&mut self) {
        self.over();
    }
}

/// Why a workload is not warmed, for whoever asked for it.
fn refusal(workload: String, refused: &NotWarmed) -> OrderError {
    match refused {
        NotWarmed::For(reason) | NotWarmed::Throttled(reason) => {
            OrderError::NotWarmed { workload, reason }
        }
        NotWarmed::Store(error) => OrderError::Store(error.clone()),
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(next) = self.next() {
            let Next {
                number,
                task,
                cancel,
            } = next;
            let is_ahead = task.is_ahead();
            let run = || match task {
                Task::Beside(cgroup, workload) => self.beside(cgroup, &workload, &cancel),
                Task::Ahead(notice) => {
                    self.ahead(notice, &cancel);
                    Err(NotWarmed::For("no_start"))
                }
            };
            // A panic is a bug, told by the panic hook; the node's other starts are not to
            // suffer from it.
            let result = catch_unwind(AssertUnwindSafe(run));
            let result = result.unwrap_or(Err(NotWarmed::For("bug")));
            let kept = result.as_ref().ok().filter(|warmed| warmed.is_whole());
            let kept = kept.cloned();
            let members = {
                let mut state = self.state();
                state.running_ahead -= usize::from(is_ahead);
                state.queue.finish(number, kept, Instant::now())
            };
            for (at, member) in members.into_iter().enumerate() {
                self.tell(member, &result, at > 0);
            }
        }
    }

    fn next(&self) -> Option<Next<Task>> {
        let mut state = self.state();
        loop {
            if state.ended {
                return None;
            }
            let ahead_too = state.running_ahead < state.most_ahead;
            let may = |task: &Task| ahead_too || !task.is_ahead();
            if let Some(next) = state.queue.next(may) {
                state.running_ahead += usize::from(next.task.is_ahead());
                return Some(next);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn beside(
        &self,
        cgroup: Option<u64>,
        workload: &Workload,
        cancel: &Cancel,
    ) -> Result<Warmed, NotWarmed> {
        let whom = Whom {
            cgroup,
            volumes: &workload.volumes,
            wishes: Wishes::of(&workload.labels),
            except: &|cgroup, process| self.done.except(cgroup, process),
        };
        match self.shared.profile(&workload.keys) {
            Ok(Some((_, profile))) => self.shared.warm(profile, &whom, Timing::Beside, cancel),
            Ok(None) => Err(NotWarmed::For("no_profile")),
            Err(error) => Err(NotWarmed::Store(error.to_string())),
        }
    }

    fn ahead(&self, notice: Notice, cancel: &Cancel) {
        let Notice {
            text,
            called,
            reply,
            finished,
        } = notice;
        // Whoever asked may have gone.
        let refuse = |error| {
            let _ = reply.send(Err(error));
        };
        let key = match &called[..] {
            [] => text.clone(),
            [key] => key.clone(),
            _ => {
                let (name, keys) = (text, called.join(", "));
                return refuse(OrderError::Ambiguous { name, keys });
            }
        };
        let profile = match self.shared.store.get(&key) {
            Ok(Some(profile)) => profile,
            Ok(None) => return refuse(OrderError::Unknown(text)),
            Err(error) => return refuse(OrderError::Store(error.to_string())),
        };
        let found = self.shared.wants_warming(&key, &BTreeMap::new());
        if let Err(refused) = found {
            return refuse(refusal(key, &refused));
        }
        let notified = Notified {
            key: key.clone(),
            planned: self.shared.planned(&profile),
            queued: false,
        };
        let volumes = self.shared.stored(&profile);
        self.done.send(Done::Ordered(Order::Notified(key.clone())));
        let _ = reply.send(Ok(notified));
        let Some(going_on) = GoingOn::new(self, &key, cancel, finished) else {
            return;
        };
        // It has no cgroup yet, and nobody knows its labels.
        let whom = Whom {
            cgroup: None,
            volumes: &volumes,
            wishes: Wishes::default(),
            except: &|_, _| false,
        };
        let warmed = self.shared.warm(profile, &whom, Timing::Ahead, cancel);
        going_on.tell(&warmed);
        self.done.send(Done::Notified(key, warmed));
    }

    fn tell(&self, member: Member, result: &Result<Warmed, NotWarmed>, joined: bool) {
        let Member { start, key } = member;
        let result = match result {
            Ok(warmed) => Ok(warmed.carried(joined)),
            Err(refused) => Err(refused.clone()),
        };
        self.done.send(Done::Warmed(start, key, Box::new(result)));
    }

    fn refuse(&self, dropped: Dropped<Task>, why: &NotWarmed) {
        for member in dropped.members {
            self.tell(member, &Err(why.clone()), false);
        }
        if let Task::Ahead(notice) = dropped.task {
            let busy = OrderError::Busy("too many plans wait");
            let _ = notice.reply.send(Err(busy));
        }
    }
}
