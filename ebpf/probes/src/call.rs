//! The system call that the current task is in: where it began to read.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_task_btf, bpf_probe_read_user, bpf_task_pt_regs},
    macros::map,
    maps::Array,
};
use headstart_abi::{READ_AT, READ_ON, READ_OUT, READ_TO, SYSCALL_SLOTS};

use crate::config::{field, peek};

const POSITION_BYTES: u32 = 8;

/// From where on a system call reads, by its number: filled in by the agent.
#[map]
static READS: Array<u32> = Array::with_max_entries(SYSCALL_SLOTS, 0);

/// Byte at which the current system call began to read the file of `mapping`.
///
/// None in calls that are not in [`READS`], of 32-bit programs, and for another file than
/// the call's. A file that the kernel reads in another's stead (overlayfs, FUSE's
/// passthrough) has the same bytes at the same places, and so the same size: that is all
/// they have in common.
#[inline(always)]
pub(crate) fn position(mapping: u64) -> Option<u64> {
    // SAFETY: helpers that can't fail: the task is the current one.
    let (task, regs) = unsafe {
        let task = bpf_get_current_task_btf();
        (task as *const _ as u64, bpf_task_pt_regs(task) as u64)
    };
    let number = peek::<u32>(regs, field!(regs_number))?;
    let class = READS.get(number).copied()?;
    let first = peek::<u64>(regs, field!(regs_arg0))?;
    let second = peek::<u64>(regs, field!(regs_arg1))?;
    let (fd, pointer) = match class {
        READ_ON | READ_AT => (first, 0),
        READ_TO => (first, second),
        READ_OUT => (second, peek::<u64>(regs, field!(regs_arg2))?),
        _ => return None,
    };
    let file = file_of(task, fd as u32)?;
    if !stands_for(peek::<u64>(file, field!(file_mapping))?, mapping) {
        return None;
    }
    if pointer != 0 {
        return at_user(pointer);
    }
    let own = peek::<u64>(file, field!(file_position))?;
    if class == READ_AT {
        let given = peek::<u64>(regs, field!(regs_arg3))?;
        return Some(if given == u64::MAX { own } else { given });
    }
    Some(own)
}

/// Whether what is read of `mapping` is of the file with the mapping `named`.
#[inline(always)]
fn stands_for(named: u64, mapping: u64) -> bool {
    let size = |of| {
        peek::<u64>(of, field!(mapping_host)).and_then(|host| peek::<u64>(host, field!(inode_size)))
    };
    named == mapping || size(named).is_some_and(|named| size(mapping) == Some(named))
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
