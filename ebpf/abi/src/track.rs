//! Which cgroups are watched, and where a page fault's address waits.

/// Slots of the tracked-cgroup table.
pub const TRACK_SLOTS: u32 = 1024;

/// Cgroups that can wait at a time for somebody to come into them again.
pub const REFILLS_MAX: u32 = 16384;

/// Slot in which a cgroup is looked for: one place only, so that a miss costs
/// one comparison. The id's low bits are the inode number, which counts up.
pub const fn track_slot(cgroup: u64) -> u32 {
    (cgroup % TRACK_SLOTS as u64) as u32
}

/// Slots of the table that says what to do with a system call, by its number.
pub const SYSCALL_SLOTS: u32 = 512;
/// A call with a directory descriptor and a path.
pub const SYSCALL_AT: u32 = 1;
/// A call with a path only.
pub const SYSCALL_PATH: u32 = 2;
/// A call that lists a directory.
pub const SYSCALL_LIST: u32 = 3;
/// A call with a socket, an address that may be a path (`AF_UNIX`), and its length.
pub const SYSCALL_SOCKET: u32 = 5;
/// A call whose second argument is a path, and whose first has nothing to do with it.
pub const SYSCALL_SECOND: u32 = 6;
/// With a class that names a path: what it returns when it succeeds is more
/// than 0 and yet no descriptor.
pub const SYSCALL_LENGTH: u32 = 8;
/// A call that maps memory: the thread gets [`MAP_SIGNAL`] if it mapped a file.
pub const SYSCALL_MAP: u32 = 4;

/// A call that reads a file from where its descriptor is, as much as its third argument
/// says: `read`.
pub const READ_ON: u32 = 1;
/// From its fourth argument on: `pread64`.
pub const READ_AT: u32 = 2;
/// From what its second argument points to, or from where its descriptor is, as much as its
/// fifth says: `splice`.
pub const READ_TO: u32 = 3;
/// The same with the descriptor as second argument, and the pointer and the length behind
/// it: `sendfile`.
pub const READ_OUT: u32 = 4;
/// From where its descriptor is into a vector: `readv`.
pub const READ_VECTOR: u32 = 5;
/// From its fourth argument on, or from where its descriptor is if that is −1: `preadv2`.
pub const READ_VECTOR_AT: u32 = 6;

/// `SIGURG`: ignored unless somebody asks for it, so that it does nothing where
/// no tracer takes it.
pub const MAP_SIGNAL: u32 = 23;

/// A watched cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackEntry {
    /// Cgroup id; 0: nobody.
    pub cgroup: u64,
    /// What a touch's key starts with: generation << 56 | slot << 40. The agent
    /// raises the generation, of all that it watches, whenever it begins to watch a
    /// cgroup, and at no other time: what was sent before is sent again then. It
    /// wraps after 256.
    pub key: u64,
    /// Thread group (process) in the initial pid namespace that is passed over: a helper
    /// of the agent's; 0: none.
    pub except: u64,
}

/// The last page fault of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSlot {
    /// Thread id | thread group id << 32.
    pub thread: u64,
    /// Faulting virtual address.
    pub address: u64,
}

const _: () = {
    super::assert_size::<TrackEntry, 24>();
    super::assert_size::<FaultSlot, 16>();
};

#[cfg(feature = "user")]
// SAFETY: repr(C), only u64 fields, no padding (size asserted above).
unsafe impl aya::Pod for TrackEntry {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for FaultSlot {}
