//! Which cgroups are watched.

use aya_ebpf::{helpers::generated::bpf_get_current_cgroup_id, macros::map, maps::Array};
use headstart_abi::{TRACK_SLOTS, TrackEntry, track_slot};

/// Written by the agent and, for children of watched cgroups, by `cgroup_mkdir`.
#[map]
pub(crate) static TRACK: Array<TrackEntry> = Array::with_max_entries(TRACK_SLOTS, 0);

/// The current task's entry, if its cgroup is watched.
#[inline(always)]
pub(crate) fn current() -> Option<TrackEntry> {
    // SAFETY: the helper has no arguments and can't fail.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    entry(cgroup)
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
