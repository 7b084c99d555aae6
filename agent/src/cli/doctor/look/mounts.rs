//! File systems that matter, from the mount table.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::super::snapshot::Cgroups;
use crate::attribute::mountinfo::Mount;

/// Where the first file system of this type is mounted.
pub(super) fn first_of_type(mounts: &[Mount], kind: &str) -> Option<PathBuf> {
    let found = mounts.iter().find(|mount| mount.fs_type == kind)?;
    Some(OsStr::from_bytes(&found.mount_point).into())
}

/// The cgroup trees, with the controllers that v1 ones have.
pub(super) fn cgroups(mounts: &[Mount]) -> Cgroups {
    Cgroups {
        v2: first_of_type(mounts, "cgroup2"),
        reachable: crate::run::existing_cgroups().is_ok(),
        v1_controllers: v1_controllers(mounts),
        v2_memory: crate::run::has_memory_controller().map_err(|e| e.to_string()),
    }
}

/// In a v1 mount's options the controllers stand among ordinary flags.
fn v1_controllers(mounts: &[Mount]) -> Vec<String> {
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
    let v1 = mounts.iter().filter(|mount| mount.fs_type == "cgroup");
    let options = v1.flat_map(|mount| mount.super_options.split(|&byte| byte == b','));
    let mut found: Vec<String> = options
        .filter_map(|option| std::str::from_utf8(option).ok())
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
    use crate::attribute::mountinfo::parse;

    const HYBRID: &str = "\
22 1 0:20 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755
23 22 0:21 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
24 22 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
25 22 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
26 1 0:24 / /sys/fs/bpf rw - bpf bpf rw,mode=700
";

    #[test]
    fn types_and_controllers() {
        let mounts = parse(HYBRID.as_bytes()).expect("a mount table");
        assert_eq!(first_of_type(&mounts, "bpf"), Some("/sys/fs/bpf".into()));
        assert_eq!(first_of_type(&mounts, "tracefs"), None);
        assert_eq!(v1_controllers(&mounts), ["cpu", "cpuacct", "memory"]);
        assert_eq!(cgroups(&mounts).v2, Some("/sys/fs/cgroup/unified".into()));
    }
}
