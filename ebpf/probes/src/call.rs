//! The system call that the current task is in: where it began to read.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs},
    macros::map,
    maps::Array,
};
use headstart_abi::{
    CHUNK_PAGES, NO_OFFSET, READ_AT, READ_ON, READ_OUT, READ_TO, READ_VECTOR, READ_VECTOR_AT,
    SYSCALL_SLOTS,
};

use crate::config::{field, peek};

const POSITION_BYTES: u32 = 8;
/// include/linux/fs.h: MAX_RW_COUNT.
const MOST_BYTES: u64 = 0x7fff_f000;

/// From where on a system call reads, by its number: filled in by the agent.
#[map]
static READS: Array<u32> = Array::with_max_entries(SYSCALL_SLOTS, 0);

/// Byte at which the current system call began to read the file of `mapping`, of which the
/// kernel wants the pages up to `last`.
///
/// None in calls that are not in [`READS`] (nor are any of 32-bit programs), for another file
/// than the call's, and where the end is not the call's: registers may be those of a call that
/// is over, while io_uring does its own work before the thread returns from it. None for a
/// file that is read directly: what is left to the page cache then begins somewhere else. A
/// file that the kernel reads in another's stead (overlayfs, FUSE's passthrough) has the same
/// bytes at the same places in another file system, and so the same size: that is all they
/// have in common.
#[inline(always)]
pub(crate) fn position(mapping: u64, last: u64) -> Option<u64> {
    let known = [
        field!(regs_number),
        field!(regs_arg3),
        field!(file_position),
        field!(file_flags),
        field!(file_mapping),
        field!(inode_size),
        field!(fdt_fd),
    ];
    if known.contains(&NO_OFFSET) {
        return None;
    }
    // SAFETY: helpers that can't fail: the task is the current one.
    let (task, regs) = unsafe {
        let task = bpf_get_current_task_btf();
        (task as *const _ as u64, bpf_task_pt_regs(task) as u64)
    };
    let number = peek::<u32>(regs, field!(regs_number))?;
    let class = READS.get(number).copied()?;
    let second = peek::<u64>(regs, field!(regs_arg1))?;
    let third = peek::<u64>(regs, field!(regs_arg2))?;
    let (fd, pointer) = match class {
        READ_OUT => (second, third),
        READ_TO => (peek::<u64>(regs, field!(regs_arg0))?, second),
        READ_ON | READ_AT | READ_VECTOR | READ_VECTOR_AT => {
            (peek::<u64>(regs, field!(regs_arg0))?, 0)
        }
        _ => return None,
    };
    let file = file_of(task, fd as u32)?;
    let is_direct = peek::<u32>(file, field!(file_flags))? & field!(direct_flag) != 0;
    if is_direct || !stands_for(peek::<u64>(file, field!(file_mapping))?, mapping) {
        return None;
    }
    let own = peek::<u64>(file, field!(file_position))?;
    let fourth = peek::<u64>(regs, field!(regs_arg3))?;
    let from = match class {
        READ_AT => fourth,
        READ_VECTOR_AT if fourth != u64::MAX => fourth,
        READ_TO | READ_OUT if pointer != 0 => at_user(pointer)?,
        _ => own,
    };
    // Pages between the call's end and the last that is wanted.
    let beyond = |length| (from.wrapping_add(length).wrapping_sub(1) >> 12).wrapping_sub(last);
    let is_its_own = match class {
        // As far as it says: the kernel may want the rest of a folio too.
        READ_ON | READ_AT => {
            let length = if third < MOST_BYTES {
                third
            } else {
                MOST_BYTES
            };
            beyond(length).wrapping_neg() < CHUNK_PAGES
        }
        // In pieces.
        READ_OUT => beyond(fourth) < u64::MAX / 2,
        READ_TO => beyond(peek::<u64>(regs, field!(regs_arg4))?) < u64::MAX / 2,
        _ => true,
    };
    is_its_own.then_some(from)
}

/// Whether what is read of `mapping` is of the file with the mapping `named`.
#[inline(always)]
fn stands_for(named: u64, mapping: u64) -> bool {
    if named == mapping {
        return true;
    }
    let of = |mapping| {
        let host = peek::<u64>(mapping, field!(mapping_host))?;
        Some((
            peek::<u64>(host, field!(inode_size))?,
            peek::<u64>(host, field!(inode_sb))?,
        ))
    };
    match (of(named), of(mapping)) {
        (Some((size, sb)), Some((same, other))) => size == same && sb != other,
        _ => false,
    }
}

/// What the caller wrote there before it called: the kernel has read it since.
#[inline(always)]
fn at_user(pointer: u64) -> Option<u64> {
    let mut position = 0u64;
    // SAFETY: the helper writes eight bytes to a local variable, and checks the source itself.
    let read = unsafe {
        bpf_probe_read_user(
            (&raw mut position).cast(),
            POSITION_BYTES,
            pointer as *const _,
        )
    };
    (read == 0).then_some(position)
}

/// The file of an open descriptor of the task.
#[inline(always)]
pub(crate) fn file_of(task: u64, fd: u32) -> Option<u64> {
    let files = peek::<u64>(task, field!(task_files))?;
    let table = peek::<u64>(files, field!(files_fdt))?;
    if fd >= peek::<u32>(table, field!(fdt_max))? {
        return None;
    }
    let array = peek::<u64>(table, field!(fdt_fd))?;
    peek::<u64>(array + u64::from(fd) * 8, 0)
}
