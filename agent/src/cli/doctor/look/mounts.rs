//! File systems that matter, from the text of `/proc/self/mountinfo`.

use std::path::PathBuf;

use super::super::snapshot::Cgroups;

/// One line: where, which type, which options of the superblock.
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn parse(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        Some(Mount {
            point,
            kind: right.next()?,
            options: right.nth(1).unwrap_or_default(),
        })
    })
}

/// Where the first file system of this type is mounted.
pub(super) fn first_of_type(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    parse(mountinfo)
        .find(|m| m.kind == kind)
        .map(|m| m.point.into())
}

/// The cgroup trees, with the controllers that v1 ones have.
pub(super) fn cgroups(mountinfo: &str) -> Cgroups {
    Cgroups {
        v2: first_of_type(mountinfo, "cgroup2"),
        reachable: crate::run::existing_cgroups().is_ok(),
        v1_controllers: v1_controllers(mountinfo),
        v2_memory: crate::run::has_memory_controller().map_err(|e| e.to_string()),
    }
}

/// In a v1 mount's options the controllers stand among ordinary flags.
fn v1_controllers(mountinfo: &str) -> Vec<String> {
    const KNOWN: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "blkio",
        "io",
        "devices",
        "freezer",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
    ];
    let mut found: Vec<String> = parse(mountinfo)
        .filter(|m| m.kind == "cgroup")
        .flat_map(|m| m.options.split(','))
        .filter(|option| KNOWN.contains(option))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 1 0:20 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
25 22 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
26 1 0:24 / /sys/fs/bpf rw - bpf bpf rw,mode=700
";

    #[test]
    fn types_and_controllers() {
        assert_eq!(first_of_type(HYBRID, "bpf"), Some("/sys/fs/bpf".into()));
        assert_eq!(first_of_type(HYBRID, "tracefs"), None);
        assert_eq!(v1_controllers(HYBRID), ["cpu", "cpuacct", "memory"]);
        assert_eq!(cgroups(HYBRID).v2, Some("/sys/fs/cgroup/unified".into()));
    }
}
