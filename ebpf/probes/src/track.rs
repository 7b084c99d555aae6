//! Which cgroups are watched.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_task_btf},
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
    entry(unsafe { bpf_get_current_cgroup_id() })
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
    entry(at.0)
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
