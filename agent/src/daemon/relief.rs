//! A pool whose threads may get stuck: a file system that does not answer holds whoever
//! looks at it, and nothing can be done about it. Another thread takes over then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pool::{LAST, Pool};

/// A job that takes longer is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// Service managers wait for 10 s, as deployed (`TimeoutStopSec`,
/// `terminationGracePeriodSeconds`), before they kill.
const LONGEST_END: Duration = Duration::from_secs(5);

/// Threads at most: when all of them are stuck nothing more is done.
const MOST: usize = 8;

/// One thread, and one more for each that is stuck.
pub(super) struct Relieved {
    pool: Pool,
    busy: Arc<Busy>,
    patience: Duration,
}

/// When the jobs that are being done were begun.
#[derive(Default)]
struct Busy(Mutex<(u64, BTreeMap<u64, Instant>)>);

impl Busy {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Begun<'_> {
        let mut busy = self.lock();
        busy.0 += 1;
        let number = busy.0;
        busy.1.insert(number, Instant::now());
        Begun(self, number)
    }

    fn longer_than(&self, patience: Duration) -> usize {
        let busy = self.lock();
        let stuck = busy.1.values().filter(|began| began.elapsed() > patience);
        stuck.count()
    }
}

/// A job that is being done.
struct Begun<'a>(&'a Busy, u64);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.lock().1.remove(&self.1);
    }
}

impl Relieved {
    /// A thread of this name; at most `queue` jobs wait.
    pub(super) fn new(name: &'static str, queue: usize) -> std::io::Result<Self> {
        Self::with_patience(name, queue, PATIENCE)
    }

    fn with_patience(
        name: &'static str,
        queue: usize,
        patience: Duration,
    ) -> std::io::Result<Self> {
        Ok(Self {
            pool: Pool::new(name, 1, queue, LAST)?,
            busy: Arc::default(),
            patience,
        })
    }

    /// Has a job done; `false` where too many wait already.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let busy = self.busy.clone();
        self.pool.submit(move || {
            let _begun = busy.begin();
            job();
        })
    }

    /// Sees to it that there is a thread that is not stuck. Why there is none, or why there
    /// are more than usual; empty where all is well.
    pub(super) fn relieve(&mut self) -> String {
        let stuck = self.busy.longer_than(self.patience);
        if stuck == 0 {
            return String::new();
        }
        if self.pool.threads() <= stuck
            && self.pool.threads() < MOST
            && let Err(error) = self.pool.grow()
        {
            tracing::warn!(%error, "no thread takes over from one that is stuck");
        }
        let rest = match stuck < MOST {
            true => "others have taken over",
            false => "nothing is learned any more",
        };
        format!("{stuck} of {MOST} threads wait for a file system that does not answer: {rest}")
    }

    /// Ends the threads after all that waits is done, but for those that are stuck, and for
    /// what would keep whoever ends us waiting for too long. How many jobs were not begun.
    pub(super) fn finish(self) -> usize {
        let (busy, patience) = (self.busy, self.patience);
        self.pool
            .finish_but(LONGEST_END, || busy.longer_than(patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn another_thread_takes_over_and_the_end_waits_for_nobody_stuck() {
        let patience = Duration::from_millis(1);
        let mut pool = Relieved::with_patience("test", 8, patience).expect("a thread");
        assert_eq!(pool.relieve(), "");
        let (answer, never) = channel::<()>();
        let (done, each) = channel();
        assert!(pool.submit(move || {
            let _ = never.recv();
        }));
        assert!(pool.submit(move || done.send(()).expect("listens")));
        let said = loop {
            let said = pool.relieve();
            if !said.is_empty() {
                break said;
            }
            std::thread::yield_now();
        };
        assert!(said.starts_with("1 of 8 threads wait"), "{said}");
        assert_eq!(each.recv(), Ok(()));
        assert_eq!(pool.finish(), 0);
        drop(answer);
    }
}
