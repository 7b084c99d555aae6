//! What the probes count, per CPU: for each stage what came in and what became
//! of it, so that in = the sum of all the other outcomes.

/// A part of the probes that takes something in. What happens in cgroups that
/// nobody watches comes into none of them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Buffered reads, by chunk of [`super::CHUNK_PAGES`] pages that one looks at.
    Read = 0,
    /// Windows of pages mapped around a fault.
    Window = 1,
    /// Faults on one page.
    Fault = 2,
    /// Folios that came into the page cache.
    Insert = 3,
    /// System calls that returned.
    Call = 4,
    /// Programs executed.
    Exec = 5,
    /// Faulting addresses, kept for [`Stage::Window`] and [`Stage::Fault`].
    Address = 6,
    /// Cgroups made below watched ones.
    Cgroup = 7,
    /// Inodes that the stages above met in what they sent.
    Inode = 8,
    /// Records for the ring buffer, from all stages above.
    Ring = 9,
    /// Cgroups made and removed on the whole machine, told in the ring of signals.
    Signal = 10,
}

/// Number of stages.
pub const STAGES: usize = 11;

/// What becomes of what came in: for each, exactly one of those after
/// [`Outcome::In`]. A stage's are 64 bytes, which lie in one cache line or two.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came in.
    In = 0,
    /// It went on: its record is in the ring buffer (for [`Stage::Address`]: in
    /// its map, for [`Stage::Cgroup`]: watched).
    Out = 1,
    /// The ring buffer was full (for [`Stage::Cgroup`]: its slot was taken).
    Lost = 2,
    /// It was sent before, says the map of what was sent.
    Known = 3,
    /// Not what is recorded: a file's page brought in, a call that names no
    /// file, a read of nothing.
    Other = 4,
    /// Memory of the kernel or the process could not be read, or held what can't be.
    Unreadable = 5,
    /// It has no name: an inode without dentry (block devices, anonymous), an
    /// empty path.
    Nameless = 6,
    /// Past what one event may hold: chunks of a very long read, a path longer
    /// than [`super::MAX_PATH`].
    TooLong = 7,
}

/// Number of outcomes, [`Outcome::In`] among them.
pub const OUTCOMES: usize = 8;

/// Counted beside the outcomes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Slots of the map of pages sent that were taken over from another chunk,
    /// whose pages are sent again.
    EvictedPages = 0,
    /// The same for paths of inodes.
    EvictedPaths = 1,
    /// The same for names.
    EvictedNames = 2,
    /// Slots for a faulting address taken over from another thread.
    EvictedAddresses = 3,
    /// Paths sent without their beginning, because they are too long or too deep.
    PathCut = 4,
    /// Windows sent without the address that faulted.
    NoAddress = 5,
}

/// Number of notes, and room for some.
pub const NOTES: usize = 8;

/// All counters of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`Stage`], then [`Outcome`].
    pub stages: [[u64; OUTCOMES]; STAGES],
    /// By [`Note`].
    pub notes: [u64; NOTES],
    /// Where the probes make a number of a pointer; nothing to anybody else.
    pub room: u64,
}

const _: () = super::assert_size::<Counts, { 8 * (STAGES * OUTCOMES + NOTES + 1) }>();

#[cfg(feature = "user")]
// SAFETY: repr(C), only u64 fields, no padding (size asserted above).
unsafe impl aya::Pod for Counts {}
