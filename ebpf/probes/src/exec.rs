//! Programs executed.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use headstart_abi::{MAX_PATH, Outcome, RecordKind, Stage};

use crate::config::{field, peek};
use crate::count::enter;
use crate::names;

/// A program replaced the task's image. Its file, its interpreter and its
/// libraries follow as touches; this gives the name it was called by.
///
/// match-proto:v5.10:include/trace/events/sched.h:sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
///
/// # Minimum kernel
/// 5.5, where kernel memory got a helper of its own (`bpf_probe_read_kernel`).
/// # Cost
/// One record an exec.
/// # Does not see
/// Failed executions, which `names::name_cwd` sees.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn process_exec(ctx: RawTracePointContext) -> i32 {
    let Some((entry, tally)) = enter(Stage::Exec) else {
        return 0;
    };
    let bprm: u64 = ctx.arg(2);
    let Some(name) = peek::<u64>(bprm, field!(bprm_filename)) else {
        tally.one(Outcome::Unreadable);
        return 0;
    };
    let Some(scratch) = names::NAME_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own scratch space; tracepoints run with preemption off.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: the helper checks the source and writes at most MAX_PATH bytes.
    let len = unsafe {
        bpf_probe_read_kernel_str(
            scratch.path.as_mut_ptr().cast(),
            MAX_PATH as u32,
            name as *const _,
        )
    };
    if len < 0 {
        tally.one(Outcome::Unreadable);
    } else if len <= 1 {
        tally.one(Outcome::Nameless);
    } else {
        let len = len as usize - 1;
        tally.one(names::send(
            scratch,
            RecordKind::Exec,
            entry.cgroup,
            None,
            0,
            len,
        ));
    }
    0
}
