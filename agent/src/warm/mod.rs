//! Plan → resident bytes and names, verified.
//!
//! Invariants: a start never waits for anything here; no file is opened before
//! it is known to be a regular one; every planned byte ends in exactly one of
//! the report's counts.
//!
//! Data is brought in by `readahead(2)`, which copies nothing and leaves pages
//! on the inactive list, unreferenced: the workload's own use is their first.
//! (`read`, `sendfile` and populated mappings were measured too. All of them
//! mark pages as used, so that the workload's first use makes them active, and
//! active page cache counts as memory in use.) The call is asynchronous and
//! stops silently after one readahead window, so it is made in steps of at most
//! that; a step is waited for by reading the first byte of its last page, which
//! marks that one page as used.

mod arrivals;
mod cursor;
mod disks;
mod dues;
mod engine;
mod files;
mod huge;
mod lookup;
mod measure;
mod names;
mod others;
mod pace;
mod planned;
mod progress;
mod rate;
mod report;
mod residency;
mod roots;
mod submit;
mod sys;
mod verify;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::{DeviceCost, Plan};

pub use dues::Dues;
pub use measure::{MeasureError, is_idle, measure};
pub use others::{DiskUse, disk_use};
pub use pace::Pace;
pub use progress::Progress;
pub use rate::{Rate, monotonic_ns};
pub use report::{Arrival, ByteCounts, Failure, FailureKind, MAX_FAILURES, WarmReport};
pub use roots::{VolumeError, VolumeRoot, VolumeRoots};
pub(crate) use sys::cachestat;
pub use sys::{be_nice, give_way};

/// Priority of the I/O, as `ioprio_set(2)` knows it. Schedulers other than BFQ
/// and mq-deadline ignore it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoClass {
    /// As the process has it.
    #[default]
    Default,
    /// Best effort, 0 (first) to 7 (last).
    BestEffort(u8),
    /// Only when nobody else reads.
    Idle,
}

/// When the workload starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lead {
    /// Later: the disk may be kept busy.
    #[default]
    Ahead,
    /// It has started: its own reads must not queue behind ours for long, and
    /// the CPU is its own.
    Beside,
}

/// How to carry a plan out.
#[derive(Clone, Debug)]
pub struct WarmOptions {
    /// Give up what is left at this time.
    pub deadline: Option<Instant>,
    /// Priority of the I/O.
    pub io_class: IoClass,
    /// Whether to look names up and read metadata blocks.
    pub metadata: bool,
    /// When the workload starts.
    pub lead: Lead,
    /// Number of threads; 0 for as many as the device repays.
    pub threads: usize,
    /// Whether to check at the end that the pages are there (`mincore`), if
    /// anything had to be read.
    pub verify: bool,
    /// A volume that completes nothing for so long, while somebody waits for
    /// it, has stopped answering and is given up. Should be longer than what a
    /// disk takes to time a command out (30 s).
    pub stall: Duration,
    /// What reads cost on the device; decides how many are kept in flight.
    pub cost: DeviceCost,
    /// Bounds on bytes a second, all of which hold; none: as many as the device gives.
    pub rates: Vec<Arc<Rate>>,
    /// Shared with others that read ahead of starts, of devices that others read too. It
    /// does not hold beside a start. `None`: as much in flight as keeps the device busy.
    pub pace: Option<Arc<Pace>>,
}

impl WarmOptions {
    /// What is shared with other executions; nothing beside a start.
    fn pace_to_keep(&self) -> Option<&Arc<Pace>> {
        let pace = self.pace.as_ref();
        pace.filter(|_| self.lead == Lead::Ahead)
    }
}

impl Default for WarmOptions {
    fn default() -> Self {
        Self {
            deadline: None,
            io_class: IoClass::Default,
            metadata: true,
            lead: Lead::Ahead,
            threads: 0,
            verify: true,
            stall: Duration::from_secs(35),
            cost: DeviceCost::UNMEASURED,
            rates: Vec::new(),
            pace: None,
        }
    }
}

/// Stops an execution from another thread, or from a signal handler.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A handle that nobody has pulled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops what was given a clone of this handle, soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Carries `plan` out and says what came of it.
///
/// Returns when everything is done, at the deadline or soon after a cancel
/// (both at most a quarter of a second late), or when the rest lies on volumes
/// that have stopped answering (see [`WarmOptions::stall`]). A thread that is stuck in a
/// system call on such a volume is left behind; it ends when the call does.
pub fn execute(
    plan: &Arc<Plan>,
    roots: &Arc<VolumeRoots>,
    options: &WarmOptions,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> WarmReport {
    engine::execute(plan, roots, options, progress, cancel)
}
