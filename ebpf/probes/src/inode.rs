//! Identity and path of an inode, sent at its first sight.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::map,
    maps::{Array, PerCpuArray},
};
use headstart_abi::{
    INODE_TRUNCATED, InodeRecord, MAX_PATH, NO_OFFSET, Note, Outcome, PATH_COMPONENTS, RecordKind,
    Stage,
};

use crate::config::{field, peek, peek_or_zero};
use crate::count::{Tally, note};
use crate::emit;
use crate::track;

/// What an inode is while it stays in memory.
#[derive(Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    pub(crate) ino: u64,
    pub(crate) generation: u32,
    pub(crate) dev: u32,
    pub(crate) mode: u32,
}

const SEEN: u32 = 1 << 15;

/// Direct-mapped: an evicted inode's path is sent again.
#[map]
static SEEN_INODES: Array<[u64; 2]> = Array::with_max_entries(SEEN, 0);

/// Room for one record: too large for the stack.
#[repr(C)]
struct Scratch {
    record: InodeRecord,
    path: [u8; MAX_PATH + 256],
}

/// Of one processor. Tracepoints and kprobes run with preemption off. Functions' programs
/// (fentry, fexit) don't from 5.12 on: where the kernel itself is preemptible
/// (`preempt=full`) one may run between two instructions of another, and a path be sent that
/// is neither's, which then names no file of that inode. See docs/kernels.md.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Reads the identity of the inode at `inode`, without sending anything.
#[inline(always)]
pub(crate) fn identify(inode: u64) -> Option<Identity> {
    if inode == 0 {
        return None;
    }
    let ino = peek::<u64>(inode, field!(inode_ino))?;
    let generation = peek::<u32>(inode, field!(inode_generation))?;
    let mode = peek::<u16>(inode, field!(inode_mode))? as u32;
    let sb = peek::<u64>(inode, field!(inode_sb))?;
    let dev = peek::<u32>(sb, field!(sb_dev))?;
    Some(Identity {
        inode,
        ino,
        generation,
        dev,
        mode,
    })
}

/// The identity of the inode at `inode`; its path is sent if it was not before.
///
/// False with it: the ring had no room for the path. Whoever sends a record of
/// this inode then does not remember it, so that both are sent at the next use:
/// a record whose path never comes is worth nothing.
#[inline(always)]
pub(crate) fn ensure(inode: u64, cgroup: u64) -> Option<(Identity, bool)> {
    let tally = Tally::of(Stage::Inode)?;
    tally.one(Outcome::In);
    let Some(id) = identify(inode) else {
        tally.one(Outcome::Unreadable);
        return None;
    };
    let hash = (id.inode ^ id.ino.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // To each watch anew, as pages are: by its slot and generation, not by its cgroup, which
    // may be watched again.
    let watch = track::entry(cgroup).map_or(0, |entry| entry.key);
    let tag = [id.inode, (id.ino << 24) ^ id.generation as u64 ^ watch];
    let seen = SEEN_INODES.get_ptr_mut((hash >> 49) as u32 & (SEEN - 1))?;
    // SAFETY: a pointer into the map's value; a race sends a path twice.
    let owner = unsafe { *seen };
    if owner == tag {
        tally.one(Outcome::Known);
        return Some((id, true));
    }
    let mode_cgroup = pack(id.mode, cgroup);
    match send_path(id.inode, id.ino, id.generation, id.dev, mode_cgroup) {
        SENT => {
            if owner[0] != 0 {
                note(Note::EvictedPaths);
            }
            // SAFETY: as above.
            unsafe { *seen = tag };
            Some((id, true))
        }
        LOST => Some((id, false)),
        _ => Some((id, true)),
    }
}

/// [`send_path`]'s results.
const SENT: i32 = 0;
const LOST: i32 = 1;
/// There is no path to send.
const NO_PATH: i32 = 2;

/// Five arguments at most: mode (16 bits) and cgroup id travel together.
#[inline(always)]
fn pack(mode: u32, cgroup: u64) -> u64 {
    (cgroup << 16) | (mode as u64 & 0xffff)
}

/// [`build_path`]'s result: the walk ended at the root.
const COMPLETE: u64 = 1 << 32;

/// Writes the path of an inode into the scratch space: inode → first dentry
/// alias → parents, up to the superblock's root, so that it is relative to that
/// root, whatever mount the task saw it through. Bytes written, and [`COMPLETE`].
///
/// A global function of its own: the verifier goes through its loop once, and
/// not once more for all that follows each way out of it.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn build_path(alias: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own scratch space: see [`SCRATCH`].
    let path = unsafe { (&raw mut (*scratch).path).cast::<u8>() };
    let mut dentry = alias.wrapping_sub(field!(dentry_alias) as u64);
    let mut used: usize = 0;
    for _ in 0..PATH_COMPONENTS {
        let parent = peek_or_zero::<u64>(dentry, field!(dentry_parent));
        if parent == dentry {
            return used as u64 | COMPLETE;
        }
        let [hash_len, name] = peek_or_zero::<[u64; 2]>(dentry, field!(dentry_name));
        if used > MAX_PATH - 256 || name == 0 {
            break;
        }
        let len = (hash_len >> 32) as usize & 0xff;
        // SAFETY: used <= MAX_PATH - 256 and len <= 255, and the buffer has
        // MAX_PATH + 256 bytes; the helper checks the source itself.
        unsafe { bpf_probe_read_kernel(path.add(used).cast(), len as u32, name as *const _) };
        used += len;
        // SAFETY: used <= MAX_PATH - 1 here.
        unsafe { *path.add(used) = 0 };
        used += 1;
        dentry = parent;
    }
    used as u64
}

/// Builds and sends the path of an inode: [`SENT`], [`LOST`] or [`NO_PATH`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn send_path(
    inode: u64,
    ino: u64,
    generation: u32,
    dev: u32,
    mode_cgroup: u64,
) -> i32 {
    let Some(tally) = Tally::of(Stage::Inode) else {
        return NO_PATH;
    };
    let alias = peek::<u64>(inode, field!(inode_dentry)).unwrap_or(0);
    if alias == 0 || field!(dentry_alias) == NO_OFFSET {
        tally.one(Outcome::Nameless);
        return NO_PATH;
    }
    let built = build_path(alias);
    let used = built as u32 as usize;
    let truncated = built & COMPLETE == 0;
    if truncated {
        note(Note::PathCut);
    }
    if used > MAX_PATH {
        tally.one(Outcome::TooLong);
        return NO_PATH;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return NO_PATH;
    };
    // SAFETY: this CPU's own scratch space: see [`SCRATCH`].
    let scratch = unsafe { &mut *scratch };
    scratch.record = InodeRecord {
        header: emit::header(RecordKind::Inode, mode_cgroup >> 16),
        inode,
        ino,
        generation,
        dev,
        mode: (mode_cgroup & 0xffff) as u32,
        flags: if truncated { INODE_TRUNCATED } else { 0 },
        path_len: used as u32,
        reserved: 0,
    };
    let sent = emit::send(
        (&raw const *scratch).cast(),
        core::mem::size_of::<InodeRecord>() + used,
    );
    tally.one(emit::outcome(sent));
    if sent { SENT } else { LOST }
}
