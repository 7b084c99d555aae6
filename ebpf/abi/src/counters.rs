//! What the probes count, per CPU.

/// A counter's index in the `COUNTERS` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Records handed to the ring buffer.
    Sent = 0,
    /// Records the ring buffer had no room for.
    LostRing = 1,
    /// Calls of the slow path that turned out to hold nothing new.
    Known = 2,
    /// Pages past the longest read that one call looks at.
    Clipped = 3,
    /// Inodes without a path (no dentry: block devices, anonymous).
    NoPath = 4,
    /// Paths cut because they were too long or too deep.
    PathTruncated = 5,
    /// Paths of system calls that could not be read from the process' memory.
    NameUnreadable = 6,
    /// Faults whose address was not known.
    NoAddress = 7,
    /// Child cgroups that could not be tracked, because their slot was taken.
    TrackCollision = 8,
    /// A kernel structure could not be read.
    BadRead = 9,
    /// A touch slot was taken over by another chunk (its pages may be sent twice).
    SlotEvicted = 10,
    /// File pages that watched cgroups brought into the page cache (misses and readahead).
    Inserted = 11,
}

/// Number of counters.
pub const COUNTERS: u32 = 12;
