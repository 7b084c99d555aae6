//! Threads that take work from a bounded queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::warm::be_nice;

/// Nice value of threads that each start's warming waits for, and that hardly do anything:
/// where hundreds of programs start at once, they would have their turn when it is too late.
pub(super) const FIRST: i32 = -10;

/// Nice value of threads that nobody waits for.
pub(super) const LAST: i32 = 10;

/// What becomes of a job after a turn at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is done.
    Done,
    /// It waits for something, and for another turn behind the others.
    Again,
}

/// Something to be done.
type Job = Box<dyn FnMut() -> Turn + Send>;

/// Some threads, and what waits for them. Dropping it ends them after what they do now;
/// what waits is forgotten.
pub(super) struct Pool {
    name: String,
    nice: i32,
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

struct Inner {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Jobs that wait at most; one that is not done waits again all the same.
    queue: usize,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// No more will come.
    ended: bool,
}

impl Pool {
    /// Starts `threads` of this name and nice value; at most `queue` jobs wait.
    pub(super) fn new(
        name: &str,
        threads: usize,
        queue: usize,
        nice: i32,
    ) -> std::io::Result<Self> {
        let inner = Arc::new(Inner {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            queue,
        });
        let mut pool = Self {
            name: name.to_owned(),
            nice,
            inner,
            threads: Vec::new(),
        };
        for _ in 0..threads {
            pool.grow()?;
        }
        Ok(pool)
    }

    /// Starts one more thread.
    pub(super) fn grow(&mut self) -> std::io::Result<()> {
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new().name(self.name.clone());
        let nice = self.nice;
        let work = move || {
            be_nice(nice);
            inner.work();
        };
        self.threads.push(thread.spawn(work)?);
        Ok(())
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Ends the threads after all that waits is done, or after `longest`, and leaves those
    /// alone that go on then or are stuck, of which there are so many. How many jobs were not
    /// begun.
    pub(super) fn finish_but(mut self, longest: Duration, stuck: impl Fn() -> usize) -> usize {
        self.inner.waiting().ended = true;
        self.inner.changed.notify_all();
        let began = Instant::now();
        let goes_on = |thread: &&JoinHandle<()>| !thread.is_finished();
        while self.threads.iter().filter(goes_on).count() > stuck() && began.elapsed() < longest {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.threads.retain(|thread| thread.is_finished());
        std::mem::take(&mut self.inner.waiting().jobs).len()
    }

    /// Has a job done; `false` where too many wait already.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut job = Some(job);
        self.submit_turns(move || {
            if let Some(job) = job.take() {
                job();
            }
            Turn::Done
        })
    }

    /// Has a job done that may take several turns; `false` where too many wait already.
    pub(super) fn submit_turns(&self, job: impl FnMut() -> Turn + Send + 'static) -> bool {
        let mut waiting = self.inner.waiting();
        if waiting.jobs.len() >= self.inner.queue || waiting.ended {
            return false;
        }
        waiting.jobs.push_back(Box::new(job));
        self.inner.changed.notify_one();
        true
    }

    fn end(&mut self) {
        self.inner.waiting().ended = true;
        self.inner.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut self.inner.waiting().jobs);
        drop(waiting);
        self.end();
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(mut job) = self.next() {
            // A panic is a bug, told by the panic hook; the node's other starts are not to
            // suffer from it.
            let turn = catch_unwind(AssertUnwindSafe(&mut job));
            if matches!(turn, Ok(Turn::Again)) {
                self.waiting().jobs.push_back(job);
                self.changed.notify_one();
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.ended {
                return None;
            }
            let waited = self.changed.wait(waiting);
            waiting = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_are_done_and_a_full_queue_says_so() {
        let pool = Pool::new("test", 1, 1, 0).expect("threads");
        let (go, wait) = channel::<()>();
        let (done, each) = channel();
        let first = done.clone();
        assert!(pool.submit(move || {
            first.send(0).expect("listens");
            let _ = wait.recv();
        }));
        assert_eq!(each.recv(), Ok(0));
        let second = done.clone();
        assert!(pool.submit(move || second.send(1).expect("listens")));
        assert!(!pool.submit(|| {}));
        go.send(()).expect("waits");
        assert_eq!(each.recv(), Ok(1));
        drop(pool);
    }

    #[test]
    fn a_panic_costs_its_own_job() {
        let pool = Pool::new("test", 1, 8, 0).expect("threads");
        let (done, each) = channel();
        assert!(pool.submit(|| panic!("on purpose")));
        assert!(pool.submit(move || done.send(1).expect("listens")));
        assert_eq!(each.recv(), Ok(1));
    }

    #[test]
    fn who_has_to_wait_lets_others_go_first() {
        let pool = Pool::new("test", 1, 8, 0).expect("threads");
        let (done, each) = channel();
        let (go, wait) = channel::<()>();
        let (first, second) = (done.clone(), done);
        let mut turns = 0;
        assert!(pool.submit_turns(move || {
            turns += 1;
            first.send(turns).expect("listens");
            if turns == 1 {
                let _ = wait.recv();
            }
            if turns < 3 { Turn::Again } else { Turn::Done }
        }));
        assert_eq!(each.recv(), Ok(1));
        assert!(pool.submit(move || second.send(10).expect("listens")));
        go.send(()).expect("waits");
        assert_eq!(pool.finish_but(Duration::MAX, || 0), 0);
        assert_eq!(each.iter().collect::<Vec<_>>(), [10, 2, 3]);
    }

    #[test]
    fn who_ends_it_waits_no_longer_than_it_wants() {
        let pool = Pool::new("test", 1, 8, 0).expect("threads");
        let (begun, began) = channel();
        let (go, wait) = channel::<()>();
        assert!(pool.submit(move || {
            begun.send(()).expect("listens");
            let _ = wait.recv();
        }));
        assert_eq!(began.recv(), Ok(()));
        for _ in 0..3 {
            assert!(pool.submit(|| panic!("it is never begun")));
        }
        assert_eq!(pool.finish_but(Duration::from_millis(20), || 0), 3);
        drop(go);
    }
}
