//! What is to be warmed: data only, no choice left to who carries it out.

use super::{FileVersion, NameKind, RelPath, Volume};

/// A file that a plan reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFile {
    /// Index into [`Plan::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// The version that was profiled. A file of another size or mtime is still
    /// read, as far as its extents lie within it, and is counted as changed.
    pub version: FileVersion,
}

/// A name that a plan looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanName {
    /// Index into [`Plan::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// What it was.
    pub kind: NameKind,
    /// Whether to list the directory.
    pub listed: bool,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring metadata blocks of a volume's device into its page cache.
    Blocks {
        /// Index into [`Plan::volumes`].
        volume: u32,
        /// First 4 KiB page of the device.
        start_page: u64,
        /// Number of pages.
        pages: u32,
    },
    /// Look a name up.
    Name {
        /// Index into [`Plan::names`].
        name: u32,
    },
    /// Bring pages of a file into the page cache.
    Read {
        /// Index into [`Plan::files`].
        file: u32,
        /// First page.
        start_page: u64,
        /// Number of pages.
        pages: u32,
        /// Of these, the pages read only because they lie between wanted ones.
        gap_pages: u32,
        /// Whether some run certainly used a page of it.
        certain: bool,
    },
}

/// An ordered list of actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Volumes that the other fields index.
    pub volumes: Vec<Volume>,
    /// Files to read.
    pub files: Vec<PlanFile>,
    /// Names to look up.
    pub names: Vec<PlanName>,
    /// In the order in which to start them.
    pub actions: Vec<Action>,
    /// What the plan adds up to.
    pub totals: PlanTotals,
}

/// Sums over a plan, in bytes where not said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanTotals {
    /// File data to be resident, gaps included.
    pub bytes: u64,
    /// Of `bytes`, used for certain by some run.
    pub certain_bytes: u64,
    /// Of `bytes`, maybe used.
    pub maybe_bytes: u64,
    /// Of `bytes`, read only because it lies between wanted pages.
    pub gap_bytes: u64,
    /// Metadata blocks.
    pub block_bytes: u64,
    /// Number of names.
    pub names: u64,
    /// Names left to the program: their neighbours bring in what it would wait
    /// for.
    pub names_left: u64,
    /// File data left to the program: it reads on and on through a file, and the
    /// kernel's own readahead keeps the device busy.
    pub sequential_bytes: u64,
    /// Left out because the budget was spent.
    pub over_budget_bytes: u64,
    /// Left out because too few runs saw it.
    pub unlikely_bytes: u64,
}
