//! Cgroups made, removed and filled again, on the whole machine: the earliest that a node
//! knows of a start. They have a ring of their own, which touches can't fill, and each wakes
//! the agent.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel_str, bpf_ringbuf_output},
    macros::{map, raw_tracepoint},
    maps::{HashMap, PerCpuArray, RingBuf},
    programs::RawTracePointContext,
};
use headstart_abi::{CgroupRecord, MAX_PATH, NO_OFFSET, Outcome, REFILLS_MAX, RecordKind, Stage};

use crate::cgroup::id;
use crate::config::{field, peek};
use crate::count::Tally;
use crate::emit::{FORCE_WAKEUP, header, outcome};

/// Some 2,000 cgroups with usual paths.
#[map]
static SIGNALS: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

/// A record with room for its path.
#[repr(C)]
struct Scratch {
    record: CgroupRecord,
    path: [u8; MAX_PATH],
}

#[map]
static SIGNAL_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Ids of cgroups of which it is to be told, once, that somebody comes into them again.
/// Allocated whole: before 6.1 the kernel warns of programs that have it allocate.
#[map]
static REFILLS: HashMap<u64, u8> = HashMap::with_max_entries(REFILLS_MAX, 0);

/// A cgroup was made. `mkdir` returns only after this, so nothing has run in it yet.
///
/// match-proto:v5.10:include/trace/events/cgroup.h:cgroup_mkdir(struct cgroup *cgrp, const char *path)
///
/// # Minimum kernel
/// 5.5, where cgroup ids became kernfs ids.
/// # Cost
/// One record and one wake-up a cgroup made.
/// # Does not see
/// Cgroups of v1 hierarchies.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(crate) fn signal_mkdir(ctx: RawTracePointContext) -> i32 {
    signal(ctx.arg(0), ctx.arg(1), RecordKind::CgroupMade)
}

/// A cgroup was removed.
///
/// match-proto:v5.10:include/trace/events/cgroup.h:cgroup_rmdir(struct cgroup *cgrp, const char *path)
///
/// # Minimum kernel
/// 5.5, as [`signal_mkdir`].
/// # Cost
/// As [`signal_mkdir`].
/// # Does not see
/// As [`signal_mkdir`].
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub(crate) fn signal_rmdir(ctx: RawTracePointContext) -> i32 {
    signal(ctx.arg(0), ctx.arg(1), RecordKind::CgroupGone)
}

/// Somebody came into a cgroup in which nobody was, or nobody is left in one. The first comes
/// before it executes anything there.
///
/// match-proto:v5.10:include/trace/events/cgroup.h:cgroup_notify_populated(struct cgroup *cgrp, const char *path, int val)
///
/// # Minimum kernel
/// 5.5, as [`signal_mkdir`].
/// # Cost
/// One look-up a cgroup that becomes or stops being empty, and the kernel's making of its
/// path; one record and one wake-up where it was asked for.
/// # Does not see
/// Cgroups of v1 hierarchies. Who comes while others are there.
#[raw_tracepoint(tracepoint = "cgroup_notify_populated")]
pub(crate) fn signal_fill(ctx: RawTracePointContext) -> i32 {
    let (cgroup, path): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let populated: u64 = ctx.arg(2);
    // An `int`: the upper half of its register is anything.
    let populated = populated as u32 != 0;
    let Some(id) = id(cgroup).filter(|_| populated) else {
        return 0;
    };
    // Whoever takes it out tells, and no other.
    if REFILLS.remove(id).is_err() {
        return 0;
    }
    signal(cgroup, path, RecordKind::CgroupFilled)
}

#[inline(always)]
fn signal(cgroup: u64, path: u64, kind: RecordKind) -> i32 {
    let Some(tally) = Tally::of(Stage::Signal) else {
        return 0;
    };
    tally.one(Outcome::In);
    tally.one(told(cgroup, path, kind));
    0
}

#[inline(always)]
fn told(cgroup: u64, path: u64, kind: RecordKind) -> Outcome {
    if !is_v2(cgroup) {
        return Outcome::Other;
    }
    let Some(scratch) = SIGNAL_SCRATCH.get_ptr_mut(0) else {
        return Outcome::Unreadable;
    };
    // SAFETY: this CPU's own scratch space; tracepoints run with preemption off.
    let scratch = unsafe { &mut *scratch };
    let Some(cgroup_id) = id(cgroup) else {
        return Outcome::Unreadable;
    };
    // SAFETY: the helper checks the source and writes at most MAX_PATH bytes.
    let len = unsafe {
        bpf_probe_read_kernel_str(
            scratch.path.as_mut_ptr().cast(),
            MAX_PATH as u32,
            path as *const _,
        )
    };
    if len < 1 {
        return Outcome::Unreadable;
    }
    let len = (len as usize - 1) & (MAX_PATH - 1);
    let parent = peek::<u64>(cgroup, field!(cgroup_parent)).and_then(id);
    scratch.record = CgroupRecord {
        header: header(kind, cgroup_id),
        parent: parent.unwrap_or(0),
        path_len: len as u32,
        reserved: 0,
    };
    let size = core::mem::size_of::<CgroupRecord>() + len;
    // SAFETY: the scratch space holds that many initialised bytes, which the verifier
    // checks as well.
    let sent = unsafe {
        bpf_ringbuf_output(
            &raw const SIGNALS as *mut _,
            (&raw const *scratch) as *mut _,
            size as u64,
            FORCE_WAKEUP,
        )
    };
    outcome(sent == 0)
}

/// Whether a cgroup is of the unified hierarchy; where the kernel's layout does not tell,
/// the agent finds out by the path.
#[inline(always)]
fn is_v2(cgroup: u64) -> bool {
    let (root, hierarchy) = (field!(cgroup_root), field!(root_hierarchy));
    if root == NO_OFFSET || hierarchy == NO_OFFSET {
        return true;
    }
    let Some(root) = peek::<u64>(cgroup, root) else {
        return false;
    };
    peek::<i32>(root, hierarchy) == Some(0)
}
