//! Reads in flight: how many, and what comes of each.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::files::Source;
use super::pace::Flight;
use super::{Lead, WarmOptions, sys};
use crate::model::{DeviceCost, PAGE_SIZE};

/// Most pages of a failed step that are tried one by one.
pub(super) const MAX_RETRIES: usize = 64;

/// Most threads of an execution that keeps to a [`super::Pace`]: each has some in flight.
const PACED_THREADS: usize = 4;

/// A device that answers within this is near: a local one.
const NEAR_NS: f64 = 1e6;

/// How much to keep in flight, over all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) ops: usize,
    pub(super) bytes: u64,
}

/// Limits of data: before look-ups that are needed earlier, and after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) before_names: Limits,
    pub(super) after_names: Limits,
}

impl Depth {
    /// Look-ups read one block after another, and each would wait behind all
    /// that is in flight, so that is little as long as there are some that are
    /// needed earlier. After them it is, beside a start, as much as half of a
    /// readahead window that the program itself would put there: what is in
    /// flight it waits for, and does not read once more with all that is around
    /// it. (On a disk throttled to 100 MB/s, with windows of 8 MiB, half a window
    /// made rustc start in 0.97 s, two windows in 1.05, 512 KiB in 1.9.)
    pub(super) fn of(cost: &DeviceCost, lead: Lead) -> Self {
        let half_window_ns = cost.readahead_bytes as f64 / 2.0 / cost.bytes_per_s * 1e9;
        let (before_names, after_names) = match lead {
            Lead::Ahead => (20e6, 20e6),
            Lead::Beside => (5e6, half_window_ns.max(5e6)),
        };
        Self {
            before_names: Limits::of(cost, before_names),
            after_names: Limits::of(cost, after_names),
        }
    }

    /// One thread's share.
    pub(super) fn share(self, threads: usize) -> Self {
        Self {
            before_names: self.before_names.share(threads),
            after_names: self.after_names.share(threads),
        }
    }
}

impl Limits {
    /// Enough to keep the device busy, and no more than it clears in the time
    /// that someone else's read may have to wait behind it.
    fn of(cost: &DeviceCost, wait_ns: f64) -> Self {
        // A float out of range saturates, NaN becomes 0: the clamps hold.
        let busy = (cost.latency_ns / cost.read_ns * 2.0) as usize;
        let ops = ((wait_ns / cost.read_ns) as usize).max(busy);
        let filled = cost.bytes_per_s * cost.latency_ns / 1e9 * 2.0;
        let bytes = (cost.bytes_per_s * wait_ns / 1e9).max(filled) as u64;
        Self {
            ops: ops.clamp(4, 256),
            bytes: bytes.clamp(512 << 10, 64 << 20),
        }
    }

    /// Threads that repay themselves: metadata is read one block a thread.
    /// Beside a start, where reads take little time, no more than there are
    /// processors: the program needs those too.
    pub(super) fn threads(self, options: &WarmOptions) -> usize {
        let near = options.lead == Lead::Beside && options.cost.latency_ns < NEAR_NS;
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let most = if near { processors.clamp(2, 8) } else { 8 };
        let threads = match options.threads {
            0 => (self.ops / 2).clamp(2, most),
            n => n.min(64),
        };
        match options.pace_to_keep() {
            Some(_) => threads.min(PACED_THREADS),
            None => threads,
        }
    }

    /// No more than so many bytes.
    pub(super) fn within(self, bytes: u64) -> Self {
        Self {
            bytes: self.bytes.min(bytes),
            ..self
        }
    }

    fn share(self, threads: usize) -> Self {
        Self {
            ops: (self.ops / threads).max(1),
            bytes: (self.bytes / threads as u64).max(64 << 10),
        }
    }

    /// Longest step for a source, in pages: two fit into the window, and one
    /// readahead call reaches its end.
    pub(super) fn step_pages(self, source: &Source) -> u32 {
        let bytes = source.window.min(self.bytes / 2).min(2 << 20);
        (bytes / PAGE_SIZE).max(1) as u32
    }
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) source: Arc<Source>,
    pub(super) start_page: u64,
    pub(super) pages: u32,
    /// When it was asked for, µs since the execution began.
    pub(super) asked_us: u32,
    /// Where it keeps a pace: what that has in flight.
    pub(super) _flight: Option<Flight>,
}

/// Pages of a step that failed alike.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) start_page: u64,
    pub(super) pages: u64,
    pub(super) errno: Errno,
}

/// What came of a step, in pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) read: u64,
    pub(super) gone: u64,
    pub(super) failed: Vec<Failed>,
}

impl Outcome {
    /// So many pages were read, and nothing is known of others.
    pub(super) fn read(pages: u64) -> Self {
        Self {
            read: pages,
            ..Self::default()
        }
    }
}

impl Step {
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE
    }

    /// Asks for the pages. Where the filesystem has no readahead, they are
    /// read here and now.
    pub(super) fn start(&self) -> Option<Outcome> {
        let fd = self.source.fd();
        match sys::readahead(fd, self.start_page * PAGE_SIZE, self.bytes()) {
            Ok(()) => None,
            Err(_) => Some(self.read_through()),
        }
    }

    /// Whether the last page is there; waits for nothing. `false` where the filesystem
    /// can't tell without waiting.
    fn is_there(&self) -> bool {
        let last = self.start_page + u64::from(self.pages) - 1;
        sys::is_there(self.source.fd(), last * PAGE_SIZE)
    }

    /// Waits until the last page is there. Pages of one step are asked for in
    /// order and end nearly together; the final check sees the others.
    pub(super) fn wait(&self) -> Outcome {
        let last = self.start_page + u64::from(self.pages) - 1;
        match sys::pread(self.source.fd(), &mut [0; 1], last * PAGE_SIZE) {
            Ok(1..) => Outcome::read(self.pages.into()),
            // It has shrunk, or cannot be read: find out how much.
            Ok(0) | Err(_) => self.page_by_page(),
        }
    }

    /// Whether all of it is there, without waiting: pages that are.
    pub(super) fn peek(&self) -> u64 {
        let mut vector = Vec::new();
        let source = &self.source;
        match source.sight.up_to_date(
            source.fd(),
            self.start_page,
            self.pages as usize,
            &mut vector,
        ) {
            Ok(()) => vector.iter().map(|&r| u64::from(r)).sum(),
            Err(_) => 0,
        }
    }

    fn page_by_page(&self) -> Outcome {
        let mut vector = Vec::new();
        let source = &self.source;
        let seen = source.sight.up_to_date(
            source.fd(),
            self.start_page,
            self.pages as usize,
            &mut vector,
        );
        if seen.is_err() {
            vector.clear();
            vector.resize(self.pages as usize, 0);
        }
        read_missing(source, self.start_page, &vector, MAX_RETRIES)
    }

    /// Reads into a buffer that is thrown away.
    fn read_through(&self) -> Outcome {
        let mut buffer = vec![0; 128 << 10];
        let mut at = 0;
        while at < self.bytes() {
            let length = (self.bytes() - at).min(buffer.len() as u64) as usize;
            let offset = self.start_page * PAGE_SIZE + at;
            match sys::pread(self.source.fd(), &mut buffer[..length], offset) {
                Ok(n) if n == length => at += n as u64,
                Ok(n) => {
                    let read = (at + n as u64).div_ceil(PAGE_SIZE);
                    return Outcome {
                        read,
                        gone: u64::from(self.pages) - read,
                        failed: Vec::new(),
                    };
                }
                Err(errno) => {
                    let read = at / PAGE_SIZE;
                    return Outcome {
                        read,
                        gone: 0,
                        failed: vec![Failed {
                            start_page: self.start_page + read,
                            pages: u64::from(self.pages) - read,
                            errno,
                        }],
                    };
                }
            }
        }
        Outcome::read(self.pages.into())
    }
}

/// Reads the pages that `vector` says are missing, one by one, to get each one's
/// error. After `retries` of them the rest is taken to have failed as the last
/// failure did.
pub(super) fn read_missing(
    source: &Source,
    start_page: u64,
    vector: &[u8],
    retries: usize,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut failures = 0;
    let mut last = Errno::IO;
    for (at, &resident) in vector.iter().enumerate() {
        let page = start_page + at as u64;
        if resident == 1 {
            outcome.read += 1;
            continue;
        }
        if failures < retries {
            match sys::pread(source.fd().as_fd(), &mut [0; 1], page * PAGE_SIZE) {
                Ok(0) => {
                    outcome.gone += 1;
                    continue;
                }
                Ok(_) => {
                    outcome.read += 1;
                    continue;
                }
                Err(errno) => last = errno,
            }
            failures += 1;
        }
        match outcome.failed.last_mut() {
            Some(run) if run.errno == last && run.start_page + run.pages == page => run.pages += 1,
            _ => outcome.failed.push(Failed {
                start_page: page,
                pages: 1,
                errno: last,
            }),
        }
    }
    outcome
}

/// One thread's reads in flight, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    steps: VecDeque<Step>,
    bytes: u64,
}

impl Window {
    /// The step to wait for before another of `bytes` may start.
    pub(super) fn must_wait(&mut self, bytes: u64, limits: Limits) -> Option<Step> {
        let full = self.steps.len() >= limits.ops || self.bytes + bytes > limits.bytes;
        if full { self.pop() } else { None }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.bytes += step.bytes();
        self.steps.push_back(step);
    }

    /// The oldest step, if it is there.
    pub(super) fn pop_if_there(&mut self) -> Option<Step> {
        if self.steps.front()?.is_there() {
            self.pop()
        } else {
            None
        }
    }

    pub(super) fn pop(&mut self) -> Option<Step> {
        let step = self.steps.pop_front()?;
        self.bytes -= step.bytes();
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_disk_gets_much_and_a_slow_one_little() {
        let cost = |read_ns, latency_ns, bytes_per_s| DeviceCost {
            read_ns,
            latency_ns,
            bytes_per_s,
            ..DeviceCost::UNMEASURED
        };
        let fast = Depth::of(&cost(10_000.0, 80_000.0, 3e9), Lead::Ahead);
        assert_eq!(fast.after_names.bytes, 60_000_000);
        let slow = cost(500_000.0, 500_000.0, 100e6);
        assert_eq!(Depth::of(&slow, Lead::Ahead).after_names.ops, 40);
        let beside = Depth::of(&slow, Lead::Beside);
        assert_eq!(beside.before_names.ops, 10);
        assert_eq!(beside.before_names.bytes, 512 << 10);
        let remote = Depth::of(&cost(100_000.0, 10e6, 1e9), Lead::Beside);
        assert_eq!(remote.before_names.ops, 200, "latency is hidden");
    }

    #[test]
    fn after_the_names_as_much_is_in_flight_as_the_programs_own_readahead() {
        let slow = DeviceCost {
            bytes_per_s: 100e6,
            readahead_bytes: 8 << 20,
            ..DeviceCost::UNMEASURED
        };
        let depth = Depth::of(&slow, Lead::Beside);
        assert_eq!(depth.after_names.bytes, 4 << 20);
        assert!(depth.before_names.bytes < 1 << 20);
    }

    #[test]
    fn nonsense_costs_give_usable_limits() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300] {
            let cost = DeviceCost {
                read_ns: bad,
                latency_ns: bad,
                bytes_per_s: bad,
                readahead_bytes: u64::MAX,
                measured_ms: 0,
            };
            let depth = Depth::of(&cost, Lead::Beside);
            for limits in [depth.before_names, depth.after_names] {
                assert!((4..=256).contains(&limits.ops), "{bad}: {limits:?}");
                assert!((512 << 10..=64 << 20).contains(&limits.bytes), "{bad}");
            }
        }
    }
}
