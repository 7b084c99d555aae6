//! The touches of one run.

use super::{FileVersion, NameKind, RelPath, Volume};

/// How sure a touch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Certainty {
    /// The page was read, or is the page that faulted.
    Certain,
    /// The kernel mapped the page along with its neighbour that faulted
    /// (fault-around); it may or may not have been used.
    Maybe,
}

/// A run of pages of one file, first used at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTouch {
    /// First page.
    pub start_page: u64,
    /// Number of pages, at least 1.
    pub pages: u32,
    /// How sure the use is.
    pub certainty: Certainty,
    /// First use, ns since the run's start.
    pub first_use_ns: u64,
}

/// All touches of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTouches {
    /// Index into [`Trace::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// Size and mtime when recorded.
    pub version: FileVersion,
    /// Touches in any order; ranges may overlap (a page can be `Maybe` first
    /// and `Certain` later).
    pub touches: Vec<PageTouch>,
}

/// A name that was looked up, read as a link or listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTouch {
    /// Index into [`Trace::volumes`].
    pub volume: u32,
    /// Path in the volume, no component of it a symbolic link but the last.
    pub path: RelPath,
    /// What it is.
    pub kind: NameKind,
    /// The directory was listed, not only passed through.
    pub listed: bool,
    /// First use, ns since the run's start.
    pub first_use_ns: u64,
}

/// Blocks of a volume's block device that hold metadata the run needed
/// (directory blocks, inode tables, extent trees, bitmaps), in 4 KiB pages of
/// the device. They hold for this filesystem on this device only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTouch {
    /// Index into [`Trace::volumes`].
    pub volume: u32,
    /// First page of the device.
    pub start_page: u64,
    /// Number of pages, at least 1.
    pub pages: u32,
    /// First use, ns since the run's start.
    pub first_use_ns: u64,
}

/// The touches of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Volumes that the other fields index.
    pub volumes: Vec<Volume>,
    /// Files read or mapped.
    pub files: Vec<FileTouches>,
    /// Names looked up.
    pub names: Vec<NameTouch>,
    /// Metadata blocks.
    pub blocks: Vec<BlockTouch>,
    /// Length of the recorded window in ns.
    pub duration_ns: u64,
    /// The probes saw everything from this time on, ns since the run's start;
    /// 0 where they were attached before the command started.
    pub blind_ns: u64,
    /// Records known to be lost (full ring, full map): the trace is incomplete
    /// if this is not 0.
    pub lost: u64,
}
