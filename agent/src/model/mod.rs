//! Plain types that the stages hand to one another.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number.
//! Units are in the names: `_ns` (nanoseconds), `_pages` and `page` (4 KiB file
//! pages, [`PAGE_SIZE`]), everything else in bytes.

mod causes;
mod device;
mod path;
mod plan;
mod profile;
pub mod ranges;
mod size;
mod stage;
mod trace;
mod volume;

pub use causes::with_causes;
pub use device::DeviceCost;
pub use path::{PathError, RelPath, escape};
pub use plan::{Action, Plan, PlanFile, PlanName, PlanTotals};
pub use profile::{
    BlockExtent, Extent, MAX_RUNS, MAX_WHOLE_RUNS, NameRecord, Profile, ProfileFile, RunInfo,
    RunMask,
};
pub use size::{number_and_unit, parse_size};
pub use stage::StageCounts;
pub use trace::{BlockTouch, Certainty, FileTouches, NameTouch, PageTouch, Trace};
pub use volume::{FileVersion, NameKind, Volume, VolumeId};

/// Size of a page cache page in bytes, as profiles count them.
///
/// A profile means the same on every node: those whose kernel has larger pages (arm64 with
/// 16 or 64 KiB) warm by these units too. Nothing is recorded there.
pub const PAGE_SIZE: u64 = 4096;

/// Pages of a huge page, where pages are of [`PAGE_SIZE`]: what one entry of a page table's
/// second level maps, 2 MiB.
pub const HUGE_PAGE_PAGES: u64 = 512;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
