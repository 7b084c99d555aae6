//! What runs of a workload have in common.

use super::{FileVersion, NameKind, RelPath, Volume};

/// How many runs a profile remembers, newest first to stay: what none of them
/// saw is gone from the profile. The width of a [`RunMask`].
pub const MAX_RUNS: usize = 32;

/// Of runs that were seen from their start on at least so many of the newest stay: what is
/// used early only they know.
pub const MAX_WHOLE_RUNS: usize = 8;

/// A set of a profile's runs: bit `i` stands for `Profile::runs[i]`.
pub type RunMask = u32;

/// One recorded run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunInfo {
    /// When it started, ms since the epoch. First, so that runs sort by time.
    pub started_ms: u64,
    /// Random, so that merging the same run twice changes nothing.
    pub id: u64,
    /// Length of the recorded window, ns.
    pub duration_ns: u64,
    /// Recorded page by page: what it did not certainly use it hardly used.
    pub exact: bool,
    /// From its start on nothing was seen of it for this long, ns.
    pub blind_ns: u64,
}

/// A run of pages with the same history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First page.
    pub start_page: u64,
    /// Number of pages, at least 1.
    pub pages: u32,
    /// First use in the newest run of `seen`, ns since that run's start.
    pub first_use_ns: u64,
    /// Runs that certainly used these pages. A subset of `seen`.
    pub certain: RunMask,
    /// Runs that used them certainly or maybe.
    pub seen: RunMask,
}

/// One file of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFile {
    /// Index into [`Profile::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// As the newest run that used it saw it.
    pub version: FileVersion,
    /// The newest run that saw it at another version than this, as a mask of one
    /// bit; 0 where none did that is remembered. What that run and older ones tell
    /// of its pages may be of other contents.
    pub changed: RunMask,
    /// Sorted by `start_page`, disjoint. Those that older runs used may lie past
    /// the end of `version` (`profile::within_version` leaves them out).
    pub extents: Vec<Extent>,
}

/// One name of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// Index into [`Profile::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// As the newest run of `seen` found it.
    pub kind: NameKind,
    /// The newest run of `seen` listed the directory.
    pub listed: bool,
    /// First use in the newest run of `seen`, ns since that run's start.
    pub first_use_ns: u64,
    /// Runs that used it.
    pub seen: RunMask,
}

/// Metadata blocks of a volume's device; see [`super::BlockTouch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockExtent {
    /// Index into [`Profile::volumes`].
    pub volume: u32,
    /// First 4 KiB page of the device.
    pub start_page: u64,
    /// Number of pages, at least 1.
    pub pages: u32,
    /// First use in the newest run of `seen`, ns since that run's start.
    pub first_use_ns: u64,
    /// Runs that needed it.
    pub seen: RunMask,
}

/// What runs of one workload have in common. Merging is commutative,
/// associative and idempotent (`profile::merge`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// At most [`MAX_RUNS`], sorted by (`started_ms`, `id`).
    pub runs: Vec<RunInfo>,
    /// Sorted by id; the other fields index it.
    pub volumes: Vec<Volume>,
    /// Sorted by (volume, path).
    pub files: Vec<ProfileFile>,
    /// Sorted by (volume, path).
    pub names: Vec<NameRecord>,
    /// Sorted by (volume, `start_page`), disjoint.
    pub blocks: Vec<BlockExtent>,
}

impl Profile {
    /// Number of extents in all files.
    pub fn extent_count(&self) -> usize {
        self.files.iter().map(|f| f.extents.len()).sum()
    }
}
