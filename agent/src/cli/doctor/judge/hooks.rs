//! Whether the hooks are in this kernel. Whether they attach is another
//! question, which `headstart doctor --hooks` answers.

use super::super::snapshot::Snapshot;
use super::{Group, Need, Row, Status, ok_or};

/// What a trace point that is not there means.
enum Without {
    /// No recording, unless a kprobe on the function behind it stands in.
    Record,
    /// Less is known.
    Less,
}

/// A trace point that the probes use.
struct Tracepoint {
    name: &'static str,
    without: Without,
    cost: &'static str,
}

const TRACEPOINTS: [Tracepoint; 8] = [
    Tracepoint {
        name: "filemap/mm_filemap_get_pages",
        without: Without::Record,
        cost: "reads are seen through a costlier hook or not at all",
    },
    Tracepoint {
        name: "filemap/mm_filemap_map_pages",
        without: Without::Record,
        cost: "mapped files are seen through a costlier hook or not at all",
    },
    Tracepoint {
        name: "filemap/mm_filemap_fault",
        without: Without::Record,
        cost: "page faults are seen through a costlier hook or not at all",
    },
    Tracepoint {
        name: "filemap/mm_filemap_add_to_page_cache",
        without: Without::Less,
        cost: "what had to be fetched from storage can't be told from what was there",
    },
    Tracepoint {
        name: "exceptions/page_fault_user",
        without: Without::Less,
        cost: "no page of a fault's window is certain: more is warmed than is used",
    },
    Tracepoint {
        name: "exceptions/page_fault_kernel",
        without: Without::Less,
        cost: "faults inside system calls make no page certain",
    },
    Tracepoint {
        name: "sched/sched_process_exec",
        without: Without::Less,
        cost: "starts of commands are seen late",
    },
    Tracepoint {
        name: "cgroup/cgroup_mkdir",
        without: Without::Less,
        cost: "the earliest sign of a container's start is missed: less time to warm",
    },
];

/// Names are looked up, and files opened, in these.
const SYSCALLS: [&str; 7] = [
    "syscalls/sys_exit_openat",
    "syscalls/sys_exit_openat2",
    "syscalls/sys_exit_newfstatat",
    "syscalls/sys_exit_statx",
    "syscalls/sys_exit_readlinkat",
    "syscalls/sys_exit_getdents64",
    "syscalls/sys_exit_execve",
];

/// Every trace point to look for, as `group/name`.
pub(in super::super) fn tracepoints() -> impl Iterator<Item = &'static str> {
    TRACEPOINTS.iter().map(|t| t.name).chain(SYSCALLS)
}

pub(super) fn rows(seen: &Snapshot) -> Vec<Row> {
    let mut rows = mounts(seen);
    rows.extend(TRACEPOINTS.iter().map(|point| tracepoint(seen, point)));
    rows.push(syscalls(seen));
    rows
}

fn mounts(seen: &Snapshot) -> Vec<Row> {
    let mount = |name, place: &Option<std::path::PathBuf>, cost, fix| {
        let found = match place {
            Some(place) => place.display().to_string(),
            None => "not mounted".to_owned(),
        };
        Row::ok(Group::Hooks, name, found)
            .is(ok_or(place.is_some(), Status::Degraded))
            .costs(cost)
            .fix(fix)
    };
    vec![
        mount(
            "tracefs",
            &seen.tracefs,
            "trace points of system calls can't be attached: names are not recorded",
            "mount -t tracefs nodev /sys/kernel/tracing",
        ),
        mount(
            "bpffs",
            &seen.bpffs,
            "nothing can be pinned: counters start again with the agent",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    ]
}

fn is_there(seen: &Snapshot, name: &str) -> bool {
    seen.tracepoints.get(name).copied().unwrap_or(false)
}

fn tracepoint(seen: &Snapshot, point: &Tracepoint) -> Row {
    let (found, status) = match point.without {
        _ if is_there(seen, point.name) => ("present", Status::Ok),
        Without::Record if seen.kprobes => {
            ("not in this kernel, which has kprobes", Status::Degraded)
        }
        Without::Record => ("not in this kernel, nor are kprobes", Status::Missing),
        Without::Less => ("not in this kernel", Status::Degraded),
    };
    let row = Row::ok(Group::Hooks, point.name, found)
        .is(status)
        .costs(point.cost)
        .fix("run Linux 6.12 or later, with CONFIG_TRACEPOINTS=y");
    match point.without {
        Without::Record => row.needed_for(Need::Record),
        Without::Less => row,
    }
}

fn syscalls(seen: &Snapshot) -> Row {
    let absent: Vec<&str> = SYSCALLS
        .iter()
        .filter(|name| !is_there(seen, name))
        .filter_map(|name| name.strip_prefix("syscalls/sys_exit_"))
        .collect();
    let found = match (absent.as_slice(), &seen.tracefs) {
        ([], _) => format!("all {} present", SYSCALLS.len()),
        (_, None) => "unknown until tracefs is mounted".to_owned(),
        (absent, _) => format!("absent: {}", absent.join(" ")),
    };
    Row::ok(Group::Hooks, "syscalls/sys_exit_*", found)
        .is(ok_or(absent.is_empty(), Status::Degraded))
        .costs("names looked up by these calls are not recorded, so dentries and inodes stay cold")
        .fix("mount tracefs; use a kernel built with CONFIG_FTRACE_SYSCALLS=y")
}
