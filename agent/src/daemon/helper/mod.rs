//! Processes of our own that warm in another cgroup than the agent's: what they read is
//! charged to that one.
//!
//! Invariants: a helper dies with its agent; what goes wrong with one costs the plans that
//! it had, and no start.

mod messages;
mod serve;
pub mod wire;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use self::serve::next_frame;
use self::wire::Terms;
use super::lock;
use crate::model::Plan;
use crate::run::Servant;
use crate::warm::{Cancel, Dues, WarmReport};

pub use serve::{ServeError, serve};

/// The command that a helper is.
pub const COMMAND: &std::ffi::CStr = c"warm-helper";

/// How often one that waits for a report looks around.
const LOOK: Duration = Duration::from_millis(20);

/// How long a helper may take to take a plan, and to stop one.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Longest that a plan may take; a helper that takes longer is not alive any more.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Pause before a helper that died is started again; twice as long each time.
const BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(64);

/// Why a helper did not carry a plan out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotCarried {
    /// It never had the plan.
    NotThere(String),
    /// It died, or stopped answering, with the plan: what killed it may be the plan.
    Died,
}

/// Who waits for which report; `None` when none will come any more.
type Waiting = Arc<Mutex<Option<HashMap<u64, SyncSender<WarmReport>>>>>;

/// A helper that runs, and the way to it. Ends it when dropped.
pub(super) struct Link {
    requests: Mutex<UnixStream>,
    /// To end the connection by, whoever writes.
    hang_up: UnixStream,
    waiting: Waiting,
    next: AtomicU64,
    servant: Arc<Mutex<Servant>>,
}

impl Link {
    /// Starts a helper in a cgroup; `prepare` gets its process id before it runs.
    pub(super) fn start(
        cgroup: BorrowedFd<'_>,
        dues: &Dues,
        prepare: &mut dyn FnMut(u32) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let servant = Servant::start(
            &[COMMAND],
            Some(cgroup),
            theirs.as_fd(),
            dues.as_fd(),
            prepare,
        )?;
        drop(theirs);
        ours.set_write_timeout(Some(ANSWERS_WITHIN))?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let servant = Arc::new(Mutex::new(servant));
        let (mut answers, theirs, process) = (ours.try_clone()?, waiting.clone(), servant.clone());
        std::thread::Builder::new()
            .name("helper".into())
            .spawn(move || {
                listen(&mut answers, &theirs);
                let mut process = lock(&process);
                process.kill();
                // Where a disk keeps it, it is forgotten with the link.
                let _ = process.wait(Duration::from_secs(1));
            })?;
        Ok(Self {
            hang_up: ours.try_clone()?,
            requests: Mutex::new(ours),
            waiting,
            next: AtomicU64::new(1),
            servant,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        lock(&self.servant).pid()
    }

    fn is_alive(&self) -> bool {
        lock(&self.waiting).is_some()
    }

    /// Has a plan carried out, and waits for the report. While it does, `go_on` is asked
    /// now and then; where it says no, the helper is ended.
    pub(super) fn carry(
        &self,
        plan: &Plan,
        terms: &Terms,
        cancel: &Cancel,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<WarmReport, NotCarried> {
        let not_there = |why: String| NotCarried::NotThere(why);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = wire::carry(id, plan, terms).map_err(|e| not_there(e.to_string()))?;
        let (sender, report) = sync_channel(1);
        match &mut *lock(&self.waiting) {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(not_there("the helper has ended".to_owned())),
        };
        if let Err(error) = self.send(&frame) {
            // Half of it may be there: nothing more can be said to this one.
            self.end();
            return Err(not_there(format!("the helper takes no plan: {error}")));
        }
        let mut ends = Instant::now() + LONGEST;
        let mut is_cancelled = false;
        loop {
            match report.recv_timeout(LOOK) {
                Ok(report) => return Ok(report),
                Err(RecvTimeoutError::Disconnected) => return Err(NotCarried::Died),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if cancel.is_cancelled() && !is_cancelled {
                is_cancelled = true;
                ends = Instant::now() + ANSWERS_WITHIN;
                let told = wire::cancel(id).map_err(io::Error::other);
                if told.and_then(|frame| self.send(&frame)).is_err() {
                    ends = Instant::now();
                }
            }
            if Instant::now() >= ends || !go_on() {
                self.end();
                return Err(NotCarried::Died);
            }
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        lock(&self.requests).write_all(frame)
    }

    /// Ends the helper, now.
    pub(super) fn end(&self) {
        lock(&self.servant).kill();
        // Gone is as good.
        let _ = self.hang_up.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

/// Hands reports to those who wait for them, until the helper has ended.
fn listen(answers: &mut UnixStream, waiting: &Waiting) {
    loop {
        let answer = match next_frame(answers) {
            Ok(Some((kind, message))) => wire::decode_answer(kind, &message),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a helper is not heard any more");
                break;
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, "a helper is not understood");
                break;
            }
        };
        let sender = lock(waiting).as_mut().and_then(|w| w.remove(&answer.id));
        if let Some(sender) = sender {
            // Who does not wait any more has been told that it died.
            let _ = sender.try_send(answer.report);
        }
    }
    // Whoever waits finds out that nothing will come.
    *lock(waiting) = None;
    let _ = answers.shutdown(std::net::Shutdown::Both);
}

/// The helper in the warm cgroup: started with the agent, and again when it died.
pub(super) struct Helper {
    cgroup: OwnedFd,
    dues: Arc<Dues>,
    state: Mutex<State>,
    /// How often it had to be started again: told without waiting for one that is.
    restarts: AtomicU64,
}

struct State {
    link: Option<Arc<Link>>,
    started: Instant,
    /// In a row.
    failures: u32,
    not_before: Instant,
}

impl Helper {
    /// Starts it.
    pub(super) fn new(cgroup: BorrowedFd<'_>, dues: Arc<Dues>) -> io::Result<Self> {
        let link = Link::start(cgroup, &dues, &mut |_| Ok(()))?;
        let now = Instant::now();
        Ok(Self {
            cgroup: cgroup.try_clone_to_owned()?,
            dues,
            state: Mutex::new(State {
                link: Some(Arc::new(link)),
                started: now,
                failures: 0,
                not_before: now,
            }),
            restarts: AtomicU64::new(0),
        })
    }

    /// How often it had to be started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// As [`Link::carry`].
    pub(super) fn carry(
        &self,
        plan: &Plan,
        terms: &Terms,
        cancel: &Cancel,
    ) -> Result<WarmReport, NotCarried> {
        self.link()?.carry(plan, terms, cancel, &mut || true)
    }

    fn link(&self) -> Result<Arc<Link>, NotCarried> {
        let mut state = lock(&self.state);
        if let Some(link) = &state.link {
            if link.is_alive() {
                return Ok(link.clone());
            }
            state.link = None;
            if state.started.elapsed() > LONGEST_BACK_OFF {
                state.failures = 0;
            }
            state.fails("it has ended");
        }
        if Instant::now() < state.not_before {
            let why = "the helper died, and is not started again yet";
            return Err(NotCarried::NotThere(why.to_owned()));
        }
        self.restarts.fetch_add(1, Ordering::Relaxed);
        match Link::start(self.cgroup.as_fd(), &self.dues, &mut |_| Ok(())) {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(link.clone());
                state.started = Instant::now();
                Ok(link)
            }
            Err(error) => {
                state.fails(&error.to_string());
                Err(NotCarried::NotThere(format!("starting a helper: {error}")))
            }
        }
    }
}

impl State {
    fn fails(&mut self, why: &str) {
        let pause = BACK_OFF * 2u32.saturating_pow(self.failures.min(16));
        let pause = pause.min(LONGEST_BACK_OFF);
        self.failures += 1;
        self.not_before = Instant::now() + pause;
        tracing::warn!(
            why,
            seconds = pause.as_secs(),
            "the helper is gone; it is started again when it is needed"
        );
    }
}
