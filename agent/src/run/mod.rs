//! One command on one machine: started in a cgroup of its own, recorded,
//! warmed for, measured.
//!
//! Invariant: the command never waits for anything but its own exec.

mod beside;
mod blocks;
mod cgroup;
mod child;
mod compare;
mod device;
mod exact;
mod fault_around;
mod feedback;
mod lockdown;
mod mapped;
mod memory_limit;
mod mount;
pub mod procfs;
mod record;
mod spawn;
mod summary;
mod warm_cgroup;
mod warmup;

pub use beside::{Beside, run_beside};
pub use blocks::fill_blocks;
pub use cgroup::{
    Cgroup, CgroupError, Swept, Tree, existing_cgroups, existing_paths, read as read_of_cgroup,
};
pub use child::{Child, Ended, LaunchError, Output};
pub use compare::{CompareError, Start, WAYS, Way, drop_caches, in_order, start};
pub use device::{
    device_cost, doubt, is_doubtful, kept_cost, main_volume, main_volume_of, measure_and_keep,
    measured_cost, now_ms, run_id,
};
pub use exact::{Traced, may_trace};
pub use fault_around::{
    FaultAround, FaultAroundError, Left, Narrowed, Narrowing, may_narrow, put_back_left,
};
pub use feedback::{Feedback, FileFeedback, feedback, feedback_by_file};
pub use lockdown::lockdown;
pub use memory_limit::{MemoryLimits, MemoryRoom};
pub use mount::detached_mount;
pub use record::{RING_BYTES, RecordError, Recorder, Recording, maybe_pages, sees_pages};
pub use spawn::Servant;
pub use summary::{Summary, summarize};
pub use warm_cgroup::{
    WarmCgroup, WarmCgroupError, cgroup_by_id, has_memory_controller, remove_left_cgroups,
};
pub use warmup::Warmup;
