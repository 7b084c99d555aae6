//! Fixed-layout records shared by the probes and the agent.
//!
//! Every type here is `repr(C)`, holds only fixed-width integers and arrays of
//! them, and has no padding: the asserts at the end of each module fail the
//! build otherwise. A change of any layout bumps [`ABI_VERSION`], which the
//! agent compares before it attaches anything.
#![no_std]

mod counters;
mod layout;
mod record;
mod track;

pub use counters::{Counts, NOTES, Note, OUTCOMES, Outcome, STAGES, Stage};
pub use layout::{KernelLayout, NO_OFFSET};
pub use record::{
    CHUNK_PAGES, CgroupRecord, FaultRecord, Header, INODE_TRUNCATED, InodeRecord, MAX_PATH,
    NameRecord, PATH_COMPONENTS, RecordKind, TouchRecord,
};
pub use track::{
    FaultSlot, MAP_SIGNAL, READ_AT, READ_ON, READ_OUT, READ_TO, READ_VECTOR, READ_VECTOR_AT,
    REFILLS_MAX, SYSCALL_AT, SYSCALL_LENGTH, SYSCALL_LIST, SYSCALL_MAP, SYSCALL_PATH,
    SYSCALL_SECOND, SYSCALL_SLOTS, SYSCALL_SOCKET, TRACK_SLOTS, TrackEntry, track_slot,
};

/// Version of the layouts in this crate; also in the probes' `CONFIG`.
pub const ABI_VERSION: u32 = 11;

/// Fails the build if `T` does not have exactly `SIZE` bytes.
const fn assert_size<T, const SIZE: usize>() {
    assert!(core::mem::size_of::<T>() == SIZE);
    assert!(core::mem::align_of::<T>() == 8);
}
