//! Counts that move while a plan is carried out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::report::ByteCounts;

/// A counter that only says how many; it orders nothing.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes up to `n` off; how much it was.
    pub(super) fn take(&self, n: u64) -> u64 {
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |have| {
                Some(have.saturating_sub(n))
            })
            .unwrap_or_default();
        before.min(n)
    }
}

/// What becomes of bytes. Each planned one is added to one of the others, or
/// to none and is left.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) planned: Count,
    pub(super) resident_before: Count,
    pub(super) read: Count,
    pub(super) failed: Count,
    pub(super) gone: Count,
    pub(super) evicted: Count,
    pub(super) skipped: Count,
}

impl Bytes {
    fn done(&self) -> u64 {
        self.resident_before.get()
            + self.read.get()
            + self.failed.get()
            + self.gone.get()
            + self.evicted.get()
            + self.skipped.get()
    }

    /// Nothing had to be read, or could not be.
    pub(super) fn all_there(&self) -> bool {
        self.resident_before.get() + self.skipped.get() == self.planned.get()
    }

    /// Bytes counted as resident turned out not to be.
    pub(super) fn retract(&self, bytes: u64, to: &Count) {
        let mut moved = self.read.take(bytes);
        moved += self.resident_before.take(bytes - moved);
        to.add(moved);
    }

    pub(super) fn counts(&self) -> ByteCounts {
        let mut counts = ByteCounts {
            planned: self.planned.get(),
            resident_before: self.resident_before.get(),
            read: self.read.get(),
            failed: self.failed.get(),
            gone: self.gone.get(),
            evicted: self.evicted.get(),
            skipped: self.skipped.get(),
            left: 0,
        };
        counts.left = counts.planned.saturating_sub(counts.accounted());
        counts
    }
}

/// What an execution has done so far; read it from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) data: Bytes,
    pub(super) blocks: Bytes,
    pub(super) names_planned: Count,
    pub(super) names_warmed: Count,
    pub(super) names_gone: Count,
    pub(super) names_failed: Count,
    pub(super) files_planned: Count,
    pub(super) files_seen: Count,
    pub(super) files_changed: Count,
    pub(super) files_missing: Count,
    pub(super) files_failed: Count,
    pub(super) in_turns: Count,
}

impl Progress {
    /// File data and metadata blocks that the plan asks for.
    pub fn bytes_planned(&self) -> u64 {
        self.data.planned.get() + self.blocks.planned.get()
    }

    /// Of those, the bytes that are dealt with, well or not.
    pub fn bytes_done(&self) -> u64 {
        self.data.done() + self.blocks.done()
    }

    /// Bytes brought in from the device so far.
    pub fn bytes_read(&self) -> u64 {
        self.data.read.get() + self.blocks.read.get()
    }

    /// Files that the plan reads.
    pub fn files_planned(&self) -> u64 {
        self.files_planned.get()
    }

    /// Of those, the files opened, or found not to be openable.
    pub fn files_done(&self) -> u64 {
        self.files_seen.get()
    }

    /// Names that the plan looks up.
    pub fn names_planned(&self) -> u64 {
        self.names_planned.get()
    }

    /// Of those, the names looked up, well or not.
    pub fn names_done(&self) -> u64 {
        self.names_warmed.get() + self.names_gone.get() + self.names_failed.get()
    }
}
