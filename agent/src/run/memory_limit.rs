//! How much memory the cgroups that this process is in leave, where the memory controller
//! bounds them.
//!
//! A page of a file is charged to the cgroup of who brings it in, and to all above it. What
//! shares a bound with it pays for it: its pages are thrown out, used ones too.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::cgroup::{own_path, own_place};
use super::warm_cgroup::{cgroup_by_id, is_beside_warm};
use crate::attribute::mountinfo::{self, Mount};

/// Of a bound, one in so many bytes stays free.
const SPARE: u64 = 8;

/// Who has more than one in so many bytes of a bound beside us shares it. (In a pod of ours
/// there is a process of the kubelet's, which has next to nothing.)
const SHARED: u64 = 16;

/// What cgroups leave; `None` where nothing is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Bytes, by all bounds.
    pub all: Option<u64>,
    /// Bytes, by those that others share.
    pub shared: Option<u64>,
}

/// How the files of a version of the controller are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    bounds: &'static [&'static str],
    usage: &'static str,
    /// In `memory.stat`: bytes of files' pages, on the list of those that were not used twice
    /// and on that of the others.
    inactive: &'static str,
    active: &'static str,
}

const V1: Version = Version {
    bounds: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
    active: "total_active_file",
};

const V2: Version = Version {
    bounds: &["memory.max", "memory.high"],
    usage: "memory.current",
    inactive: "inactive_file",
    active: "active_file",
};

/// The cgroups that bound this process, innermost first.
#[derive(Clone, Debug, Default)]
pub struct MemoryLimits {
    cgroups: Vec<PathBuf>,
    version: Option<Version>,
}

impl MemoryLimits {
    /// Those that this process is in now, of the version that has the memory controller;
    /// none where they can't be seen.
    pub fn of_self() -> Self {
        let own = std::fs::read("/proc/self/cgroup").unwrap_or_default();
        let mounts = mountinfo::read().unwrap_or_default();
        let found = Self::found(&own, &mounts).or_else(Self::in_namespace);
        found.unwrap_or_default()
    }

    /// Of a process in a cgroup namespace which sees the whole hierarchy of version 2: where
    /// in it its own cgroup is, no file says.
    fn in_namespace() -> Option<Self> {
        let (own, _) = own_place().ok()?;
        let own = cgroup_by_id(rustix::fs::fstat(own).ok()?.st_ino).ok()?;
        let link = Path::new("/proc/self/fd").join(own.as_raw_fd().to_string());
        let path = std::fs::read_link(link).ok()?;
        let is_cgroup = |path: &&Path| path.join("cgroup.controllers").exists();
        let all = path.ancestors().take_while(is_cgroup);
        Some(Self {
            cgroups: all.map(Path::to_owned).collect(),
            version: Some(V2),
        })
    }

    fn found(own: &[u8], mounts: &[Mount]) -> Option<Self> {
        let (version, path) = place(own)?;
        let is_of = |mount: &&Mount| match version == V1 {
            true => mount.fs_type == "cgroup" && has_memory(&mount.super_options),
            false => mount.fs_type == "cgroup2",
        };
        let mount = mounts.iter().rev().find(is_of)?;
        let mount_point = Path::new(OsStr::from_bytes(&mount.mount_point));
        let root = Path::new(OsStr::from_bytes(&mount.root));
        // What is above the mount's own root can't be seen.
        let below = path.strip_prefix(root).ok()?;
        let all = below.ancestors().map(|below| mount_point.join(below));
        Some(Self {
            cgroups: all.collect(),
            version: Some(version),
        })
    }

    /// What can be brought in before something that is used is thrown out for it.
    pub fn room(&self) -> MemoryRoom {
        let Some(version) = self.version else {
            return MemoryRoom::default();
        };
        let read = |cgroup: &PathBuf, file: &str| std::fs::read_to_string(cgroup.join(file)).ok();
        let usage =
            |cgroup: &PathBuf| -> Option<u64> { read(cgroup, version.usage)?.trim().parse().ok() };
        // What is warmed is ours, too, in a cgroup beside the one that we are in then.
        let is_parted = self.cgroups.first().is_some_and(|own| is_beside_warm(own));
        let mut ours = self.cgroups.iter().skip(is_parted.into());
        let own = ours.find_map(usage).unwrap_or(0);
        let of_one = |cgroup: &PathBuf| {
            let bounds = version.bounds.iter().filter_map(|file| {
                let text = read(cgroup, file)?;
                text.trim().parse::<u64>().ok()
            });
            let bound = bounds.min()?;
            let usage = usage(cgroup)?;
            let stat = read(cgroup, "memory.stat")?;
            let inactive = line(&stat, version.inactive)?;
            let active = line(&stat, version.active)?;
            let is_shared = usage.saturating_sub(own) > bound / SHARED;
            Some((left(bound, usage, replaceable(inactive, active)), is_shared))
        };
        let all: Vec<_> = self.cgroups.iter().filter_map(of_one).collect();
        let shared = all.iter().filter(|(_, is_shared)| *is_shared);
        MemoryRoom {
            all: all.iter().map(|(bytes, _)| *bytes).min(),
            shared: shared.map(|(bytes, _)| *bytes).min(),
        }
    }
}

/// The version that has the memory controller, and this process's place in it.
fn place(own: &[u8]) -> Option<(Version, PathBuf)> {
    let v1 = own.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        let path = |path| Path::new(OsStr::from_bytes(path)).to_owned();
        has_memory(fields.next()?).then_some((V1, path(fields.next()?)))
    });
    v1.or_else(|| Some((V2, Path::new("/").join(own_path(own)?))))
}

/// Whether a list of names of version 1 has the controller.
fn has_memory(names: &[u8]) -> bool {
    names
        .split(|&byte| byte == b',')
        .any(|word| word == b"memory")
}

/// A line of `memory.stat`.
fn line(stat: &str, name: &str) -> Option<u64> {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

/// Of the inactive pages, bytes that can be replaced while the kernel leaves the active ones
/// alone: it does as long as the inactive are enough (mm/vmscan.c, `inactive_is_low`).
fn replaceable(inactive: u64, active: u64) -> u64 {
    let ratio = (inactive.saturating_add(active) >> 30).saturating_mul(10);
    inactive.saturating_sub(active / ratio.isqrt().max(1))
}

fn left(bound: u64, usage: u64, replaceable: u64) -> u64 {
    (bound - bound / SPARE).saturating_sub(usage.saturating_sub(replaceable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(text: &str) -> Vec<Mount> {
        mountinfo::parse(text.as_bytes()).expect("a mount table")
    }

    #[test]
    fn the_memory_controller_is_where_the_kernel_says() {
        let both = mounts(
            "30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             32 1 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        );
        let found = |own: &str, mounts: &[Mount]| {
            let limits = MemoryLimits::found(own.as_bytes(), mounts)?;
            let paths = limits.cgroups.iter().map(|path| path.display().to_string());
            Some((limits.version?, paths.collect::<Vec<_>>()))
        };
        let hybrid = "9:cpu:/other\n7:memory:/a/b\n0::/c\n";
        let of_v1 = [
            "/sys/fs/cgroup/memory/a/b",
            "/sys/fs/cgroup/memory/a",
            "/sys/fs/cgroup/memory/",
        ];
        assert_eq!(
            found(hybrid, &both),
            Some((V1, of_v1.map(str::to_owned).to_vec()))
        );
        let unified = mounts("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let of_v2 = ["/sys/fs/cgroup/c", "/sys/fs/cgroup/"];
        assert_eq!(
            found("0::/c\n", &unified),
            Some((V2, of_v2.map(str::to_owned).to_vec()))
        );
        let pod = mounts("30 1 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(found("0::/c\n", &pod), None);
        assert_eq!(found("0::/c\n", &[]), None);
        assert_eq!(found("", &both), None);
    }

    #[test]
    fn what_is_left_is_the_least_of_all_bounds() {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).expect("a directory");
        let limits = MemoryLimits {
            cgroups: vec![inner.clone(), directory.path().to_owned()],
            version: Some(V2),
        };
        assert_eq!(limits.room(), MemoryRoom::default());
        let write = |cgroup: &Path, file: &str, text: &str| {
            std::fs::write(cgroup.join(file), text).expect("written");
        };
        for (cgroup, max, high) in [
            (inner.as_path(), "max\n", "max\n"),
            (directory.path(), "1600\n", "800\n"),
        ] {
            write(cgroup, "memory.max", max);
            write(cgroup, "memory.high", high);
            write(cgroup, "memory.current", "600\n");
            write(
                cgroup,
                "memory.stat",
                "anon 1\ninactive_file 300\nactive_file 100\n",
            );
        }
        assert_eq!(limits.room().all, Some(300));
        write(&inner, "memory.max", "480\n");
        assert_eq!(limits.room().all, Some(20));
        write(&inner, "memory.current", "6000\n");
        assert_eq!(limits.room().all, Some(0));
        write(&inner, "memory.stat", "nothing that is known\n");
        assert_eq!(limits.room().all, Some(300));
        assert_eq!(MemoryLimits::default().room(), MemoryRoom::default());
        // Who else is in it, if anybody.
        assert_eq!(limits.room().shared, None);
        write(&inner, "memory.current", "500\n");
        assert_eq!(limits.room().shared, Some(300));
        let parted = directory.path().join("headstart-7-agent");
        let ours = MemoryLimits {
            cgroups: vec![parted, inner.clone(), directory.path().to_owned()],
            version: Some(V2),
        };
        assert_eq!(
            ours.room().shared,
            Some(300),
            "what is warmed is not others'"
        );
        write(&inner, "memory.current", "560\n");
        assert_eq!(limits.room().shared, None, "40 of 800 bytes");
    }

    #[test]
    fn what_is_used_is_left_alone_as_long_as_enough_is_not() {
        const GIB: u64 = 1 << 30;
        assert_eq!(replaceable(300, 100), 200);
        assert_eq!(replaceable(100, 300), 0);
        // Of 10 GiB a tenth is enough.
        assert_eq!(replaceable(2 * GIB, 8 * GIB), 2 * GIB - 8 * GIB / 10);
    }
}
