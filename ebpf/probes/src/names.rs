//! Names given to system calls, successful or not, and directories listed.
//!
//! The path is read when the call returns: by then the kernel itself has read
//! it, so its memory is present. The arguments are taken from the saved
//! registers.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_task, bpf_probe_read_user, bpf_probe_read_user_str, bpf_send_signal_thread,
    },
    macros::{btf_tracepoint, map},
    maps::{Array, PerCpuArray},
    programs::BtfTracePointContext,
};
use headstart_abi::{
    MAP_SIGNAL, MAX_PATH, NameRecord, Note, Outcome, RecordKind, SYSCALL_AT, SYSCALL_LENGTH,
    SYSCALL_LIST, SYSCALL_MAP, SYSCALL_SECOND, SYSCALL_SLOTS, SYSCALL_SOCKET, Stage, TrackEntry,
};

use crate::config::{Follow, Pointer, field, peek, peek_or_zero};
use crate::count::{Tally, enter, note};
use crate::inode::{self, Identity};
use crate::{call, emit, track};

const AT_FDCWD: i32 = -100;
/// Of a `sockaddr_un` (unix(7)): all of it, and its family.
const ADDRESS_BYTES: u32 = 110;
const FAMILY_BYTES: u32 = 2;
/// In the hash of a name that was opened. What it changes of a hash is not what
/// another path of the same length would.
const OPENED: u64 = 0x6f70_656e_6564_9e37;
const SEEN: u32 = 1 << 16;
/// Words of a path at most. All take part in its hash: paths of one length that
/// differ in their middle only are common below deep directories.
const PATH_WORDS: usize = MAX_PATH / 8;
/// Words that are hashed together: the verifier goes through the loop so much less often.
const BLOCK: usize = 8;

/// Hashes of names sent, direct-mapped: an evicted one is sent again.
#[map]
static SEEN_NAMES: Array<u64> = Array::with_max_entries(SEEN, 0);

#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) record: NameRecord,
    pub(crate) path: [u8; MAX_PATH],
    /// For the last block of the longest path: see [`hash_path`].
    room: [u64; 2 * BLOCK],
}

#[map]
pub(crate) static NAME_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What to do with a system call, by its number: filled in by the agent.
#[map]
static SYSCALLS: Array<u32> = Array::with_max_entries(SYSCALL_SLOTS, 0);

/// A system call returns. Those that name a file are looked at:
/// [`SYSCALL_AT`] (directory descriptor and path: `openat`, `statx`, …),
/// [`SYSCALL_PATH`] (path only: `open`, `stat`, a failed `execve`, …),
/// [`SYSCALL_SECOND`] (path behind something else: `inotify_add_watch`),
/// [`SYSCALL_SOCKET`] (`connect` and `bind` to a path) and [`SYSCALL_LIST`] (`getdents64`).
///
/// match-proto:v5.10:include/trace/events/syscalls.h:sys_exit(struct pt_regs *regs, long ret)
///
/// # Minimum kernel
/// 5.5, for the type of its argument.
/// # Cost
/// See docs/benchmarks.md, "Probe cost". While it is attached every system call
/// of the machine takes the kernel's slower exit path, and is asked for its number.
/// # Does not see
/// Names looked up by io_uring, by 32-bit programs, or inside the kernel.
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let regs = Pointer(ctx.arg(0));
    // The number is asked for first: of all that the machine's tasks do, few calls
    // name files.
    let number: u32 = regs.load(field!(regs_number));
    let class = SYSCALLS.get(number).copied().unwrap_or(0);
    if class == 0 {
        return 0;
    }
    let Some((entry, tally)) = enter(Stage::Call) else {
        return 0;
    };
    if class == SYSCALL_MAP {
        tally.one(Outcome::Other);
        stop_at_map(regs.load(field!(regs_arg4)));
        return 0;
    }
    let (first, second) = (regs.load(field!(regs_arg0)), regs.load(field!(regs_arg1)));
    // Five arguments at most: an address' length travels with the class.
    let class = match class {
        SYSCALL_SOCKET => class | address_length(regs.load(field!(regs_arg2))) << 16,
        _ => class,
    };
    call(first, second, class, ctx.arg(1), entry.cgroup)
}

/// A call that names files, with its first two arguments.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn call(
    first: u64,
    second: u64,
    class: u32,
    result: u64,
    cgroup: u64,
) -> i32 {
    let (Some(tally), Some(entry)) = (Tally::of(Stage::Call), track::of_task(cgroup)) else {
        return 0;
    };
    // SAFETY: a helper without arguments that can't fail.
    let task = unsafe { bpf_get_current_task() };
    let result = if class & SYSCALL_LENGTH == 0 {
        result as i64
    } else {
        0
    };
    let (fd, path, most) = match class as u8 as u32 & !SYSCALL_LENGTH {
        SYSCALL_LIST => {
            tally.one(list(task, first as u32, &entry));
            return 0;
        }
        SYSCALL_AT => (first as i32, second, MAX_PATH as u32),
        SYSCALL_SECOND => (AT_FDCWD, second, MAX_PATH as u32),
        SYSCALL_SOCKET => {
            let (path, most) = socket_path(second, class >> 16);
            (AT_FDCWD, path, most)
        }
        _ => (AT_FDCWD, first, MAX_PATH as u32),
    };
    tally.one(name(task, fd, path, most, result, &entry));
    0
}

/// The length of a socket's address, as far as it matters.
#[inline(always)]
fn address_length(length: u64) -> u32 {
    let length = length as u32;
    if length < ADDRESS_BYTES {
        length
    } else {
        ADDRESS_BYTES
    }
}

/// Where the path of a socket's address is, and how many bytes it takes with a NUL behind it;
/// none where the address is another family's. One in the abstract name space begins with a
/// NUL, and is no path (unix(7)).
#[inline(always)]
fn socket_path(address: u64, length: u32) -> (u64, u32) {
    const AF_UNIX: u16 = 1;
    let mut family = 0u16;
    // SAFETY: the helper writes two bytes to a local variable, and checks the source itself.
    let read =
        unsafe { bpf_probe_read_user((&raw mut family).cast(), FAMILY_BYTES, address as *const _) };
    match read == 0 && family == AF_UNIX && length > FAMILY_BYTES {
        // The kernel takes it for a string that ends at the address' end or before.
        true => (address + u64::from(FAMILY_BYTES), length - FAMILY_BYTES + 1),
        false => (0, 1),
    }
}

/// Has a thread that mapped a file stop for its tracer before it can touch the
/// mapping: see `run/exact` in the agent. A signal that nobody traces is ignored.
#[inline(always)]
fn stop_at_map(fd: u64) {
    if fd as i32 >= 0 {
        // SAFETY: a helper that takes a number; sent to the current thread.
        unsafe { bpf_send_signal_thread(MAP_SIGNAL) };
    }
}

#[inline(always)]
fn list(task: u64, fd: u32, entry: &TrackEntry) -> Outcome {
    let inode = directory_of_fd(task, fd);
    if inode == 0 {
        return Outcome::Unreadable;
    }
    let hash = mix(at_address(inode), 0x6c69_7374 ^ entry.key);
    if is_seen(hash) {
        return Outcome::Known;
    }
    let Some((base, path)) = inode::ensure(inode, entry.cgroup) else {
        return Outcome::Unreadable;
    };
    let sent = emit::send_fixed(&record(RecordKind::List, entry.cgroup, Some(&base), 0, 0));
    if sent && path {
        remember(hash);
    }
    emit::outcome(sent)
}

#[inline(always)]
fn name(task: u64, fd: i32, path: u64, most: u32, result: i64, entry: &TrackEntry) -> Outcome {
    let Some(scratch) = NAME_SCRATCH.get_ptr_mut(0) else {
        return Outcome::Unreadable;
    };
    // SAFETY: this CPU's own scratch space; tracepoints run with preemption off.
    let scratch = unsafe { &mut *scratch };
    if path == 0 {
        return Outcome::Nameless;
    }
    // SAFETY: the helper checks the source and writes at most MAX_PATH bytes.
    let len = unsafe {
        bpf_probe_read_user_str(
            scratch.path.as_mut_ptr().cast(),
            if most < MAX_PATH as u32 {
                most
            } else {
                MAX_PATH as u32
            },
            path as *const _,
        )
    };
    if len < 0 {
        return Outcome::Unreadable;
    }
    // An empty path names the descriptor itself: nothing was looked up.
    let len = len as usize;
    if len <= 1 {
        return Outcome::Nameless;
    }
    if len > MAX_PATH {
        return Outcome::TooLong;
    }
    let base = if scratch.path[0] == b'/' {
        task_directory(task, field!(fs_root))
    } else if fd == AT_FDCWD {
        task_directory(task, field!(fs_pwd))
    } else {
        directory_of_fd(task, fd as u32)
    };
    // A name that was only asked about is told of again when it is opened: of a
    // file with several names that says by which it is used.
    let opened = if result > 0 { OPENED } else { 0 };
    // The root's inode stays where it is.
    let from = if scratch.path[0] == b'/' {
        base
    } else {
        at_address(base)
    };
    let hash = hash_path(len as u64, from ^ entry.key.rotate_left(8) ^ opened);
    if is_seen(hash) {
        return Outcome::Known;
    }
    let base = inode::ensure(base, entry.cgroup);
    let became = send(
        scratch,
        RecordKind::Name,
        entry.cgroup,
        base.as_ref().map(|(base, _)| base),
        result,
        len - 1,
    );
    if became == Outcome::Out && base.is_none_or(|(_, path)| path) {
        remember(hash);
    }
    became
}

/// A directory for a hash: its address and its number, for others may have been at
/// that address before, and what was sent of them hides nothing of this one.
#[inline(always)]
fn at_address(inode: u64) -> u64 {
    inode ^ peek_or_zero::<u64>(inode, field!(inode_ino)).rotate_left(40)
}

/// Sends the path in `scratch`, `len` bytes without NUL; what became of it.
#[inline(always)]
pub(crate) fn send(
    scratch: &mut Scratch,
    kind: RecordKind,
    cgroup: u64,
    base: Option<&Identity>,
    result: i64,
    len: usize,
) -> Outcome {
    if len >= MAX_PATH {
        return Outcome::TooLong;
    }
    scratch.record = record(kind, cgroup, base, result, len as u32);
    emit::outcome(emit::send(
        (&raw const *scratch).cast(),
        core::mem::size_of::<NameRecord>() + len,
    ))
}

#[inline(always)]
fn record(
    kind: RecordKind,
    cgroup: u64,
    base: Option<&Identity>,
    result: i64,
    path_len: u32,
) -> NameRecord {
    let (base, base_ino, base_generation, base_dev) =
        base.map_or((0, 0, 0, 0), |id| (id.inode, id.ino, id.generation, id.dev));
    NameRecord {
        header: emit::header(kind, cgroup),
        base,
        base_ino,
        base_generation,
        base_dev,
        result,
        path_len,
        reserved: 0,
    }
}

/// Inode of the task's root or current directory; 0 where it can't be read.
#[inline(always)]
fn task_directory(task: u64, which: u32) -> u64 {
    peek::<u64>(task, field!(task_fs))
        .and_then(|fs| peek::<u64>(fs, which))
        .and_then(|dentry| peek::<u64>(dentry, field!(dentry_inode)))
        .unwrap_or(0)
}

/// Inode of an open descriptor of the task; 0 where it can't be read.
#[inline(always)]
fn directory_of_fd(task: u64, fd: u32) -> u64 {
    call::file_of(task, fd)
        .and_then(|file| peek::<u64>(file, field!(file_dentry)))
        .and_then(|dentry| peek::<u64>(dentry, field!(dentry_inode)))
        .unwrap_or(0)
}

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Hash of the path in the scratch space, `len` bytes of it with its NUL. A
/// global function: verified once, not at every exit of its loop.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn hash_path(len: u64, seed: u64) -> u64 {
    let Some(scratch) = NAME_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own scratch space; the record before the path is 64 bytes, so
    // that words are aligned.
    let path = unsafe { (&raw mut (*scratch).path).cast::<u64>() };
    let last = len as usize / 8;
    if last > PATH_WORDS {
        return 0;
    }
    // What is behind the path in its last block is of an earlier one.
    // SAFETY: last + BLOCK is within the path and the room behind it.
    unsafe {
        *path.add(last) &= (1u64 << (len % 8 * 8)) - 1;
        for i in 1..BLOCK {
            path.add(last + i).write_volatile(0);
        }
    }
    let mut hash = mix(seed, len);
    for block in 0..=PATH_WORDS / BLOCK {
        if block > last / BLOCK {
            break;
        }
        for i in 0..BLOCK {
            // SAFETY: within the path and the room behind it.
            hash = mix(hash, unsafe { path.add(block * BLOCK + i).read() });
        }
    }
    hash
}

/// Mixed once more: what sets names of one directory apart is in the high bytes of
/// their last word, and [`mix`] leaves that in the low bits.
#[inline(always)]
fn slot(hash: u64) -> Option<*mut u64> {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SEEN_NAMES.get_ptr_mut((mixed >> 48) as u32 & (SEEN - 1))
}

/// Whether a name with this hash was sent.
#[inline(always)]
fn is_seen(hash: u64) -> bool {
    // SAFETY: a pointer into the map's value; a race sends a name twice.
    slot(hash).is_some_and(|seen| unsafe { *seen } == hash)
}

/// Remembers a name as sent. Not before it is: what the ring had no room for is
/// to be sent at its next use.
#[inline(always)]
fn remember(hash: u64) {
    let Some(seen) = slot(hash) else { return };
    // SAFETY: as in `is_seen`.
    unsafe {
        if *seen != 0 {
            note(Note::EvictedNames);
        }
        *seen = hash;
    }
}
