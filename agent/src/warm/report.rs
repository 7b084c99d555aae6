//! What came of a plan.

use std::time::Instant;

use serde::Serialize;

use crate::model::{Action, PAGE_SIZE, Plan};

/// How many failures a report names; the rest is only counted.
pub const MAX_FAILURES: usize = 64;

/// What became of a number of bytes: `planned` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByteCounts {
    /// Asked for by the plan.
    pub planned: u64,
    /// Resident already, or on the way because of somebody else's read.
    pub resident_before: u64,
    /// Brought in.
    pub read: u64,
    /// Not brought in because of an error.
    pub failed: u64,
    /// Not there any more: the file is missing or shorter.
    pub gone: u64,
    /// Were resident, but not at the end: memory is short.
    pub evicted: u64,
    /// Metadata blocks of a volume whose block device this process may not read:
    /// the names that need them are looked up all the same.
    pub skipped: u64,
    /// Not got to: cancelled, out of time, or on a volume that stopped answering.
    pub left: u64,
}

impl ByteCounts {
    /// All but what is left.
    pub(super) fn accounted(&self) -> u64 {
        self.resident_before + self.read + self.failed + self.gone + self.evicted + self.skipped
    }

    fn add(&mut self, other: &Self) {
        self.planned += other.planned;
        self.resident_before += other.resident_before;
        self.read += other.read;
        self.failed += other.failed;
        self.gone += other.gone;
        self.evicted += other.evicted;
        self.skipped += other.skipped;
        self.left += other.left;
    }

    /// Whether the counts add up.
    pub fn is_consistent(&self) -> bool {
        self.planned == self.accounted() + self.left
    }
}

/// Why something was not warmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The volume is not mounted here, or can't be opened.
    Volume,
    /// The volume has stopped answering.
    Stuck,
    /// The path leads out of the volume, by a symbolic link or a mount.
    Escapes,
    /// Not a regular file: never opened.
    NotRegular,
    /// No permission.
    Denied,
    /// The device or filesystem reported an error.
    Read,
    /// Metadata blocks of a volume without a block device of its own, or one
    /// that was not recognised by its id.
    NoDevice,
    /// Anything else.
    Other,
}

/// One thing that was not warmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Id of the volume.
    pub volume: String,
    /// Path in the volume, escaped; empty for the volume or its device.
    pub path: String,
    /// What kind of failure.
    pub kind: FailureKind,
    /// The system's words for it.
    pub error: String,
    /// First page of what was not read.
    pub start_page: u64,
    /// Bytes not read; 0 for a name.
    pub bytes: u64,
}

impl Failure {
    /// Whether both are of reads that failed alike, of pages that lie together.
    pub(super) fn joins(&self, other: &Self) -> bool {
        let place = (&self.volume, &self.path) == (&other.volume, &other.path);
        let way = (self.kind, &self.error) == (other.kind, &other.error);
        let end = |failure: &Self| failure.start_page.saturating_add(failure.bytes / PAGE_SIZE);
        let together = end(self) == other.start_page || end(other) == self.start_page;
        self.kind == FailureKind::Read && place && way && together
    }
}

/// Pages of a file of the plan that were brought in together, or were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Index of the file.
    pub file: u32,
    /// The first page.
    pub start_page: u64,
    /// How many.
    pub pages: u32,
    /// They were brought in, and not there already.
    pub read: bool,
    /// When they were asked for, µs since the execution began.
    pub asked_us: u32,
    /// When they were seen to be there, which may be a little after they were.
    pub there_us: u32,
}

/// What came of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WarmReport {
    /// File data.
    pub data: ByteCounts,
    /// Metadata blocks.
    pub blocks: ByteCounts,
    /// Bytes that the plan left out because its budget was spent; not in `data`.
    pub over_budget_bytes: u64,
    /// Names asked for.
    pub names_planned: u64,
    /// Looked up.
    pub names_warmed: u64,
    /// Looked up, and no longer what was profiled: there though it was missing,
    /// or missing though it was there.
    pub names_gone: u64,
    /// Not looked up because of an error.
    pub names_failed: u64,
    /// Not got to; or passed over beside a start, because the program was there before.
    pub names_left: u64,
    /// Files asked for.
    pub files_planned: u64,
    /// Of another size or mtime than profiled; read as far as extents lie in them.
    pub files_changed: u64,
    /// Not there any more.
    pub files_missing: u64,
    /// Refused, or not openable.
    pub files_failed: u64,
    /// Whether residency was checked (mincore): at the end where anything was read,
    /// else before. Without it, bytes that count as resident may be pages that another
    /// process is just reading, or failed to read.
    pub verified: bool,
    /// Bytes that can't be checked because the kernel does not tell this
    /// process about that file (not its owner, no CAP_FOWNER).
    pub unverified_bytes: u64,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// Whether the deadline came before the end.
    pub deadline_reached: bool,
    /// Threads left behind in a system call that does not return.
    pub stuck_threads: usize,
    /// Ids of the volumes they are stuck on.
    pub stuck_volumes: Vec<String>,
    /// Seconds until the last read was in or given up.
    pub warm_seconds: f64,
    /// Seconds of checking after that.
    pub verify_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Reads that were made one by one, with pauses between them, because
    /// somebody else used the node's disks.
    pub in_turns: u64,
    /// Volumes whose metadata blocks were left out, and why: no failures.
    pub without_device: Vec<Failure>,
    /// The first [`MAX_FAILURES`] failures.
    pub failures: Vec<Failure>,
    /// How many more there were.
    pub failures_unnamed: u64,
    /// When it began.
    #[serde(skip)]
    pub began: Option<Instant>,
    /// File data that was there at the end, by when it came. What is in the plan and not
    /// here was not read, or is gone again.
    #[serde(skip)]
    pub arrivals: Vec<Arrival>,
}

impl WarmReport {
    /// When it began, ns since `start`; negative: before it.
    pub fn began_since(&self, start: Instant) -> i64 {
        since(start, self.began.unwrap_or(start))
    }

    /// With the times of what arrived since another moment, none before it.
    pub fn as_of(mut self, began: Instant) -> Self {
        let later_us = self.began_since(began) / 1000;
        for arrival in &mut self.arrivals {
            for us in [&mut arrival.asked_us, &mut arrival.there_us] {
                let moved = (i64::from(*us) + later_us).max(0);
                *us = u32::try_from(moved).unwrap_or(u32::MAX);
            }
        }
        self.began = Some(began);
        self
    }

    /// Of a plan of which nothing is known but that it failed; whether its names and blocks
    /// were to be warmed, too.
    pub fn failed(plan: &Plan, metadata: bool, error: &str) -> Self {
        let mut report = Self {
            over_budget_bytes: plan.totals.over_budget_bytes,
            ..Self::default()
        };
        for action in &plan.actions {
            let (counts, pages) = match *action {
                Action::Read { pages, .. } => (&mut report.data, pages),
                Action::Blocks { pages, .. } if metadata => (&mut report.blocks, pages),
                Action::Name { .. } if metadata => {
                    report.names_planned += 1;
                    report.names_failed += 1;
                    continue;
                }
                Action::Blocks { .. } | Action::Name { .. } => continue,
            };
            counts.planned += u64::from(pages) * PAGE_SIZE;
            counts.failed += u64::from(pages) * PAGE_SIZE;
        }
        let bytes = report.data.failed + report.blocks.failed;
        report.failures.push(Failure {
            volume: String::new(),
            path: String::new(),
            kind: FailureKind::Other,
            error: error.to_owned(),
            start_page: 0,
            bytes,
        });
        report
    }

    /// Of two plans over the same files that were carried out side by side: what both came
    /// to. Both tell the times of what arrived since the same moment (see
    /// [`WarmReport::as_of`]).
    pub fn join(mut self, other: Self) -> Self {
        self.data.add(&other.data);
        self.blocks.add(&other.blocks);
        self.over_budget_bytes = self.over_budget_bytes.max(other.over_budget_bytes);
        self.names_planned += other.names_planned;
        self.names_warmed += other.names_warmed;
        self.names_gone += other.names_gone;
        self.names_failed += other.names_failed;
        self.names_left += other.names_left;
        self.files_planned += other.files_planned;
        self.files_changed += other.files_changed;
        self.files_missing += other.files_missing;
        self.files_failed += other.files_failed;
        self.verified &= other.verified;
        self.unverified_bytes += other.unverified_bytes;
        self.cancelled |= other.cancelled;
        self.deadline_reached |= other.deadline_reached;
        self.stuck_threads += other.stuck_threads;
        self.stuck_volumes.extend(other.stuck_volumes);
        self.warm_seconds = self.warm_seconds.max(other.warm_seconds);
        self.verify_seconds = self.verify_seconds.max(other.verify_seconds);
        self.seconds = self.seconds.max(other.seconds);
        self.in_turns += other.in_turns;
        self.without_device.extend(other.without_device);
        self.failures_unnamed += other.failures_unnamed;
        for failure in other.failures {
            match self.failures.len() < MAX_FAILURES {
                true => self.failures.push(failure),
                false => self.failures_unnamed += 1,
            }
        }
        self.arrivals.extend(other.arrivals);
        self
    }

    /// Whether every planned byte and name is resident.
    pub fn is_complete(&self) -> bool {
        let resident = |c: &ByteCounts| c.resident_before + c.read == c.planned;
        resident(&self.data)
            && resident(&self.blocks)
            && self.names_warmed + self.names_gone == self.names_planned
    }
}

/// From `start` to `then`, ns; negative: `then` was before.
fn since(start: Instant, then: Instant) -> i64 {
    let after = then.saturating_duration_since(start).as_nanos() as i64;
    let before = start.saturating_duration_since(then).as_nanos() as i64;
    after - before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_pages_that_lie_together_are_one_failure() {
        let failure = |path: &str, start_page, pages: u64| Failure {
            volume: "uuid:1".to_owned(),
            path: path.to_owned(),
            kind: FailureKind::Read,
            error: "Input/output error".to_owned(),
            start_page,
            bytes: pages * PAGE_SIZE,
        };
        let middle = failure("a", 10, 5);
        assert!(middle.joins(&failure("a", 15, 1)));
        assert!(middle.joins(&failure("a", 8, 2)));
        assert!(!middle.joins(&failure("a", 16, 1)));
        assert!(!middle.joins(&failure("b", 15, 1)));
        let name = Failure {
            kind: FailureKind::Denied,
            bytes: 0,
            ..middle.clone()
        };
        assert!(!name.joins(&name));
    }
}
