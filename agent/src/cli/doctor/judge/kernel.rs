//! The kernel and what it was built with; the probes in this binary; cgroups.

use std::path::PathBuf;

use super::super::snapshot::{Cgroups, Snapshot, Tried};
use super::{Group, Need, Row, Status, ok_or};
use crate::model::PAGE_SIZE;

pub(super) fn rows(seen: &Snapshot) -> Vec<Row> {
    vec![
        version(seen),
        page_size(seen),
        btf(seen),
        lockdown(seen),
        exact(seen),
        probes(seen),
        cgroups(&seen.cgroups),
        warm_cgroup(&seen.cgroups),
        runtimes(&seen.runtimes),
        early(&seen.runtimes),
    ]
}

/// The ring buffer came with 5.8. docs/kernels.md says which kernels are tested.
fn version(seen: &Snapshot) -> Row {
    let status = match seen.version() {
        (0..=4, _) | (5, 0..=7) => Status::Missing,
        (5, 8..=9) => Status::Degraded,
        _ => Status::Ok,
    };
    Row::ok(Group::Kernel, "version", &seen.release)
        .is(status)
        .costs("before 5.8 nothing is recorded; before 5.10 nothing is tested")
        .fix("run Linux 5.10 or later")
        .needed_for(Need::Record)
}

fn page_size(seen: &Snapshot) -> Row {
    let row = Row::ok(
        Group::Kernel,
        "page size",
        format!("{} KiB", seen.page_size / 1024),
    );
    if seen.page_size == PAGE_SIZE {
        return row;
    }
    row.is(Status::Missing)
        .costs("the probes count in pages of 4 KiB: nothing is recorded; imports are warmed")
        .fix("run a kernel with pages of 4 KiB")
        .needed_for(Need::Record)
}

fn btf(seen: &Snapshot) -> Row {
    let (found, status) = match &seen.btf {
        Ok(bytes) => (
            format!("/sys/kernel/btf/vmlinux, {} KiB", bytes / 1024),
            Status::Ok,
        ),
        Err(error) => (format!("/sys/kernel/btf/vmlinux: {error}"), Status::Missing),
    };
    Row::ok(Group::Kernel, "type information", found)
        .is(status)
        .costs("the probes can't learn this kernel's structures: nothing is recorded")
        .fix("use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and let the agent read the file")
        .needed_for(Need::Record)
}

fn lockdown(seen: &Snapshot) -> Row {
    let mode = seen.lockdown.as_deref().unwrap_or("none known");
    let row = Row::ok(Group::Kernel, "lockdown", mode).needed_for(Need::Record);
    match mode {
        "none" | "none known" => row,
        "confidentiality" => row
            .is(Status::Missing)
            .costs("probes may not read kernel memory: nothing is recorded")
            .fix("boot with lockdown=integrity or without lockdown"),
        _ => row
            .is(Status::Degraded)
            .costs(
                "debugfs is closed: first runs are traced instead of narrowing fault_around_bytes, and one of another size than 64 KiB goes unnoticed",
            )
            .fix("nothing, where `exact recording` says that runs can be traced"),
    }
}

/// How first runs are learned without maybe pages.
fn exact(seen: &Snapshot) -> Row {
    let (found, good) = match (&seen.fault_around, &seen.tracing) {
        (Ok(()), _) => ("by fault_around_bytes".to_owned(), true),
        (Err(error), Ok(())) => (format!("by tracing ({error})"), true),
        (Err(error), Err(other)) => (format!("no: {error}; {other}"), false),
    };
    Row::ok(Group::Kernel, "exact recording", found)
        .is(ok_or(good, Status::Degraded))
        .costs("which pages of a window of up to 16 a program used stays unknown: more is read than needed")
        .fix("run as root without lockdown, or on x86-64 with Linux 6.7 or later")
}

fn probes(seen: &Snapshot) -> Row {
    let (found, status) = match seen.probes {
        Some(bytes) => (format!("in this binary, {} KiB", bytes / 1024), Status::Ok),
        None => ("not in this binary".to_owned(), Status::Missing),
    };
    Row::ok(Group::Kernel, "probes", found)
        .is(status)
        .costs("nothing is recorded")
        .fix("build with `cargo xtask build`")
        .needed_for(Need::Record)
}

fn cgroups(seen: &Cgroups) -> Row {
    let mode = match (&seen.v2, seen.v1_controllers.is_empty()) {
        (Some(root), true) => format!("v2 at {}", root.display()),
        (Some(root), false) => {
            format!(
                "hybrid: v2 at {}, v1: {}",
                root.display(),
                seen.v1_controllers.join(" ")
            )
        }
        (None, true) if seen.reachable => "v2, mounted nowhere here: it need not be".to_owned(),
        (None, false) if seen.reachable => format!(
            "v1: {}; v2 is mounted nowhere: commands that are recorded get one of their own",
            seen.v1_controllers.join(" ")
        ),
        (None, false) => format!("v1 only: {}", seen.v1_controllers.join(" ")),
        (None, true) => "none mounted".to_owned(),
    };
    Row::ok(Group::Cgroups, "hierarchy", mode)
        .is(ok_or(seen.v2.is_some() || seen.reachable, Status::Missing))
        .costs("what was read can't be told apart by workload")
        .fix("mount -t cgroup2 none /sys/fs/cgroup/unified (beside v1), or boot with v2")
        .needed_for(Need::Record)
}

/// For the agent. Whether its own cgroup has the controller depends on how it is started.
fn warm_cgroup(seen: &Cgroups) -> Row {
    let found = match &seen.v2_memory {
        Ok(()) => "the memory controller is there; `headstart status` says whether the agent \
                   has it"
            .to_owned(),
        Err(reason) => reason.clone(),
    };
    Row::ok(Group::Cgroups, "warm cgroup", found)
        .is(ok_or(seen.v2_memory.is_ok(), Status::Degraded))
        .costs("what the agent warms is charged to its own cgroup, and a limit on that pushes it out again")
        .fix("boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=memory; give the agent's service `Delegate=memory`")
}

/// For the agent: whose containers it knows. None is no fault: units are there.
fn runtimes(seen: &[(PathBuf, Tried)]) -> Row {
    let one = |(path, asked): &(PathBuf, Tried)| match asked {
        Ok(()) => path.display().to_string(),
        Err(reason) => format!("{} ({reason})", path.display()),
    };
    let found = match seen {
        [] => "none: the agent learns units".to_owned(),
        some => some.iter().map(one).collect::<Vec<_>>().join(", "),
    };
    let all_answer = seen.iter().all(|(_, asked)| asked.is_ok());
    Row::ok(Group::Cgroups, "container runtimes", found)
        .is(ok_or(all_answer, Status::Degraded))
        .costs("image layers of that runtime are known by their directory on this node, not by what they hold: profiles of its containers don't travel")
        .fix("start containerd, or mount its socket where the agent runs")
}

/// For the agent: by what it knows of a container before that has a cgroup.
fn early(seen: &[(PathBuf, Tried)]) -> Row {
    let is_mute = seen.iter().any(|(_, asked)| asked.is_err());
    let found = match (seen, is_mute) {
        ([], _) => "none: no container runtime",
        (_, false) => {
            "by the bundles that runtimes write, and by containerd's events where it runs"
        }
        (_, true) => "by the bundles that runtimes write; a containerd tells no events",
    };
    Row::ok(Group::Cgroups, "early signals of containers", found)
        .is(ok_or(!is_mute, Status::Degraded))
        .costs("there is less time to warm a container's files before it starts")
        .fix("start containerd, or mount its socket where the agent runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fall_into_three_classes() {
        let status = |release: &str| {
            let seen = Snapshot {
                release: release.to_owned(),
                ..super::super::tests::good()
            };
            version(&seen).status
        };
        assert_eq!(status("4.19.0-26-amd64"), Status::Missing);
        assert_eq!(status("5.7.19"), Status::Missing);
        assert_eq!(status("5.8"), Status::Degraded);
        assert_eq!(status("5.10.0-32-amd64"), Status::Ok);
        assert_eq!(status("6.12.0"), Status::Ok);
        assert_eq!(status("7.0-rc1"), Status::Ok);
    }

    #[test]
    fn pages_are_learned_exactly_in_one_of_two_ways() {
        let seen = |fault_around: Result<(), &str>, tracing: Result<(), &str>| Snapshot {
            fault_around: fault_around.map_err(str::to_owned),
            tracing: tracing.map_err(str::to_owned),
            ..super::super::tests::good()
        };
        let both = exact(&seen(Ok(()), Ok(())));
        assert_eq!(both.found, "by fault_around_bytes");
        let traced = exact(&seen(Err("closed"), Ok(())));
        assert_eq!(traced.found, "by tracing (closed)");
        assert_eq!(traced.status, Status::Ok);
        let neither = exact(&seen(Err("closed"), Err("old")));
        assert_eq!(neither.found, "no: closed; old");
        assert_eq!(neither.status, Status::Degraded);
    }

    #[test]
    fn hybrid_hierarchies_are_told_from_pure_ones() {
        let seen = Cgroups {
            v2: Some("/sys/fs/cgroup/unified".into()),
            reachable: true,
            v1_controllers: vec!["memory".to_owned()],
            v2_memory: Err("no memory controller".to_owned()),
        };
        let row = warm_cgroup(&seen);
        assert_eq!(row.status, Status::Degraded);
        assert_eq!(row.found, "no memory controller");
        let row = cgroups(&seen);
        assert_eq!(row.status, Status::Ok);
        assert_eq!(
            row.found,
            "hybrid: v2 at /sys/fs/cgroup/unified, v1: memory"
        );
    }

    #[test]
    fn a_runtime_that_is_silent_is_named() {
        let silent = (PathBuf::from("/run/x"), Err("refused".to_owned()));
        let row = runtimes(&[(PathBuf::from("/var/y"), Ok(())), silent]);
        assert_eq!(row.status, Status::Degraded);
        assert_eq!(row.found, "/var/y, /run/x (refused)");
        assert_eq!(runtimes(&[]).status, Status::Ok);
        let silent = (PathBuf::from("/run/x"), Err("refused".to_owned()));
        assert_eq!(early(&[silent]).status, Status::Degraded);
        assert_eq!(early(&[]).status, Status::Ok);
    }
}
