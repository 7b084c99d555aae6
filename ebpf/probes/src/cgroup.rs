//! Children of watched cgroups are watched too.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use headstart_abi::{Outcome, Stage, TrackEntry, track_slot};

use crate::config::{field, peek};
use crate::count::Tally;
use crate::track::{self, TRACK};

/// A cgroup was made. If its parent is watched, so is it, from its first task on.
///
/// match-proto:v5.10:include/trace/events/cgroup.h:cgroup_mkdir(struct cgroup *cgrp, const char *path)
///
/// # Minimum kernel
/// 5.5, where cgroup ids became kernfs ids.
/// # Cost
/// One look-up a cgroup made.
/// # Does not see
/// Cgroups older than the watch: the agent adds those.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(crate) fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    let Some(parent) = peek::<u64>(cgroup, field!(cgroup_parent)) else {
        return 0;
    };
    let Some(parent_id) = id(parent) else {
        return 0;
    };
    let Some(entry) = track::entry(parent_id) else {
        return 0;
    };
    let Some(tally) = Tally::of(Stage::Cgroup) else {
        return 0;
    };
    tally.one(Outcome::In);
    let Some(child) = id(cgroup) else {
        tally.one(Outcome::Unreadable);
        return 0;
    };
    let Some(slot) = TRACK.get_ptr_mut(track_slot(child)) else {
        return 0;
    };
    // SAFETY: a pointer into the map's value. The key is written first: an
    // entry counts from the moment its cgroup id is there.
    unsafe {
        if (*slot).cgroup != 0 && (*slot).cgroup != child {
            tally.one(Outcome::Lost);
            return 0;
        }
        slot.write_volatile(TrackEntry {
            cgroup: child,
            key: entry.key,
            except: 0,
        });
    }
    tally.one(Outcome::Out);
    0
}

/// A cgroup's id.
#[inline(always)]
pub(crate) fn id(cgroup: u64) -> Option<u64> {
    let node = peek::<u64>(cgroup, field!(cgroup_kn))?;
    peek::<u64>(node, field!(kn_id))
}
