//! Which cgroups are watched.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
    },
    macros::map,
    maps::Array,
};
use headstart_abi::{NO_OFFSET, TRACK_SLOTS, TrackEntry, track_slot};

use crate::config::{Follow, Pointer, field};

/// Written by the agent and, for children of watched cgroups, by `cgroup_mkdir`.
#[map]
pub(crate) static TRACK: Array<TrackEntry> = Array::with_max_entries(TRACK_SLOTS, 0);

/// The current task's entry, if its cgroup is watched.
#[inline(always)]
pub(crate) fn current() -> Option<TrackEntry> {
    // SAFETY: the helper has no arguments and can't fail.
    of_task(unsafe { bpf_get_current_cgroup_id() })
}

/// The same for programs that run with each read: it does what the helper does, without
/// the calls that it makes. Where returning from one is dear (a CPU with Safe RET), they
/// are much of what a read pays. But each pointer that is followed has the verifier
/// search all types of the kernel, which adds 2 ms to the loading of a program.
#[inline(always)]
pub(crate) fn current_inline() -> Option<TrackEntry> {
    let path = [
        field!(task_cgroups),
        field!(set_cgroup),
        field!(cgroup_kn),
        field!(kn_id),
    ];
    if path.contains(&NO_OFFSET) {
        return current();
    }
    // SAFETY: the helper has no arguments and can't fail.
    let mut at = Pointer(unsafe { bpf_get_current_task_btf() } as u64);
    for offset in path {
        at = at.follow(offset);
    }
    of_task(at.0)
}

/// The entry of `cgroup`, which is the current task's, if it is watched and the task not
/// one to be passed over.
#[inline(always)]
pub(crate) fn of_task(cgroup: u64) -> Option<TrackEntry> {
    let entry = entry(cgroup)?;
    if entry.except != 0 {
        // SAFETY: the helper has no arguments and can't fail.
        let thread_group = unsafe { bpf_get_current_pid_tgid() } >> 32;
        if thread_group == entry.except {
            return None;
        }
    }
    Some(entry)
}

/// The entry of `cgroup`, if it is watched.
#[inline(always)]
pub(crate) fn entry(cgroup: u64) -> Option<TrackEntry> {
    let entry = TRACK.get_ptr(track_slot(cgroup))?;
    // SAFETY: a pointer into the map's value, aligned; the agent may write at
    // the same time, so what is read is checked against `cgroup`.
    let entry = unsafe { entry.read_volatile() };
    (entry.cgroup == cgroup && cgroup != 0).then_some(entry)
}
