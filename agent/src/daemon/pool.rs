//! Threads that take work from a bounded queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Something to be done.
type Job = Box<dyn FnOnce() + Send>;

/// Some threads, and what waits for them. Dropping it ends them after what they do now;
/// what waits is forgotten.
pub(super) struct Pool {
    jobs: Option<SyncSender<Job>>,
    waiting: Arc<Mutex<Receiver<Job>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` of this name; at most `queue` jobs wait.
    pub(super) fn new(name: &str, threads: usize, queue: usize) -> std::io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(queue);
        let waiting = Arc::new(Mutex::new(waiting));
        let spawn = |_| {
            let waiting = waiting.clone();
            let work = move || {
                while let Some(job) = next(&waiting) {
                    // A panic is a bug, told by the panic hook; the node's other starts
                    // are not to suffer from it.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            };
            std::thread::Builder::new().name(name.into()).spawn(work)
        };
        let threads = (0..threads).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self {
            jobs: Some(jobs),
            waiting,
            threads,
        })
    }

    /// Ends the threads after all that waits is done.
    pub(super) fn finish(mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Has a job done; `false` where too many wait already.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let jobs = self.jobs.as_ref();
        jobs.is_some_and(|jobs| jobs.try_send(Box::new(job)).is_ok())
    }
}

fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.recv().ok()
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        {
            // Who waits for a job holds the lock only while there is none.
            let waiting = self.waiting.try_lock();
            if let Ok(waiting) = waiting {
                while waiting.try_recv().is_ok() {}
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_are_done_and_a_full_queue_says_so() {
        let pool = Pool::new("test", 1, 1).expect("threads");
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
        let pool = Pool::new("test", 1, 8).expect("threads");
        let (done, each) = channel();
        assert!(pool.submit(|| panic!("on purpose")));
        assert!(pool.submit(move || done.send(1).expect("listens")));
        assert_eq!(each.recv(), Ok(1));
    }
}
