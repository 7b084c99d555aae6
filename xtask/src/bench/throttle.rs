//! Slow storage: a cgroup in which reads from one device are limited.
//!
//! Works with cgroup v1 (blkio) and with v2 (`io.max`). The cgroup goes away
//! with the guard.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::disk::Disk;

/// How much may be read a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Requests.
    pub requests: Option<u64>,
}

/// A limited cgroup, which is removed when this is dropped.
#[derive(Debug)]
pub struct Throttle {
    cgroup: PathBuf,
    tree: Tree,
    disk: String,
}

/// Where cgroups with some controller are made: the root of a version's tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tree {
    V1(PathBuf),
    V2(PathBuf),
}

impl Throttle {
    /// Limits reads from the disk on which `path` lies.
    pub fn new(path: &Path, limits: Limits) -> Result<Self> {
        let disk = Disk::of(path)?.numbers()?;
        let tree = Tree::of(BLOCK)?;
        let guard = Self {
            cgroup: tree.make()?,
            tree,
            disk,
        };
        for (file, line) in settings(&guard.tree, &guard.disk, limits) {
            let file = guard.cgroup.join(file);
            fs::write(&file, &line)
                .with_context(|| format!("writing `{line}` to {}", file.display()))?;
        }
        Ok(guard)
    }

    /// Reads from the disk that the cgroup made since it is there, as its limit
    /// counts them: before neighbours are merged.
    pub fn reads(&self) -> Result<u64> {
        let file = self.cgroup.join(match self.tree {
            Tree::V1(_) => "blkio.throttle.io_serviced",
            Tree::V2(_) => "io.stat",
        });
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        Ok(count_in(&text, &self.disk, "rios="))
    }

    /// Bytes of them.
    pub fn bytes_read(&self) -> Result<u64> {
        let file = self.cgroup.join(match self.tree {
            Tree::V1(_) => "blkio.throttle.io_service_bytes",
            Tree::V2(_) => "io.stat",
        });
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        Ok(count_in(&text, &self.disk, "rbytes="))
    }

    /// A command that runs in the cgroup from its first instruction on.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command_in(&self.cgroup, program)
    }

    /// The cgroup's directory.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

/// A command that runs in a cgroup from its first instruction on.
pub fn command_in(cgroup: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
        .arg(cgroup.join("cgroup.procs"))
        .arg(program);
    command
}

impl Drop for Throttle {
    fn drop(&mut self) {
        remove(&self.cgroup);
    }
}

/// Removes a cgroup.
pub(super) fn remove(cgroup: &Path) {
    // A child that was just waited for may still be counted.
    for _ in 0..20 {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(50));
            }
            _ => return,
        }
    }
    eprintln!("warning: {} is still in use and stays", cgroup.display());
}

/// A controller's names in v1 and v2.
pub(super) type Controller = (&'static str, &'static str);

const BLOCK: Controller = ("blkio", "io");

impl Tree {
    /// The tree that has a controller.
    pub(super) fn of(controller: Controller) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading mounts")?;
        let has = |root: &Path| {
            fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|word| word == controller.1))
        };
        let (v1, v2) = controller;
        find_tree(&mounts, v1, has)
            .with_context(|| format!("no cgroup tree has the controller {v1} or {v2}"))?
            .hand_on(v2)
    }

    /// Has children of the root get a controller.
    fn hand_on(self, v2: &str) -> Result<Self> {
        if let Tree::V2(root) = &self {
            fs::write(root.join("cgroup.subtree_control"), format!("+{v2}"))
                .with_context(|| format!("giving the {v2} controller to children"))?;
        }
        Ok(self)
    }

    /// Makes a cgroup for a measurement.
    pub(super) fn make(&self) -> Result<PathBuf> {
        let (Tree::V1(root) | Tree::V2(root)) = self;
        for number in 0..100 {
            let name = format!("headstart-bench-{}-{number}", std::process::id());
            let cgroup = root.join(name);
            match fs::create_dir(&cgroup) {
                Ok(()) => return Ok(cgroup),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context(format!("making {}", cgroup.display())),
            }
        }
        bail!("too many cgroups of measurements in {}", root.display())
    }
}

/// v1 first: where its tree has the controller, the v2 tree has not.
fn find_tree(mounts: &str, v1: &str, v2_has: impl Fn(&Path) -> bool) -> Option<Tree> {
    let of_type = |kind: &'static str| {
        mounts.lines().filter_map(move |line| {
            let words: Vec<&str> = line.split(' ').collect();
            (*words.get(2)? == kind).then(|| (PathBuf::from(words[1]), words[3].to_owned()))
        })
    };
    let old = of_type("cgroup").find(|(_, options)| options.split(',').any(|o| o == v1));
    let new = || of_type("cgroup2").find(|(root, _)| v2_has(root));
    old.map(|(root, _)| Tree::V1(root))
        .or_else(|| new().map(|(root, _)| Tree::V2(root)))
}

/// Files and the lines that go into them.
fn settings(tree: &Tree, disk: &str, limits: Limits) -> Vec<(&'static str, String)> {
    match tree {
        Tree::V1(_) => [
            ("blkio.throttle.read_bps_device", limits.bytes),
            ("blkio.throttle.read_iops_device", limits.requests),
        ]
        .into_iter()
        .filter_map(|(file, limit)| limit.map(|limit| (file, format!("{disk} {limit}"))))
        .collect(),
        Tree::V2(_) => {
            let text = |limit: Option<u64>| limit.map_or("max".to_owned(), |l| l.to_string());
            let line = format!(
                "{disk} rbps={} riops={}",
                text(limits.bytes),
                text(limits.requests)
            );
            vec![("io.max", line)]
        }
    }
}

/// `MAJOR:MINOR Read N` of v1, `MAJOR:MINOR … KEY=N …` of v2; 0 where nothing is said of
/// the disk yet.
fn count_in(text: &str, disk: &str, key: &str) -> u64 {
    let line_reads = |line: &str| {
        let mut words = line.split(' ');
        if words.next()? != disk {
            return None;
        }
        let mut after_read = false;
        words.find_map(|word| {
            let count = match word.strip_prefix(key) {
                Some(count) => count.parse().ok(),
                None if after_read => word.parse().ok(),
                None => None,
            };
            after_read = word == "Read";
            count
        })
    };
    text.lines().find_map(line_reads).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/blkio cgroup rw,relatime,blkio 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
";

    #[test]
    fn the_tree_with_the_controller_is_found() {
        let blkio = Tree::V1("/sys/fs/cgroup/blkio".into());
        assert_eq!(find_tree(HYBRID, "blkio", |_| false), Some(blkio));
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(
            find_tree(pure, "blkio", |_| true),
            Some(Tree::V2("/sys/fs/cgroup".into()))
        );
        assert_eq!(find_tree(pure, "blkio", |_| false), None);
    }

    #[test]
    fn limits_are_written_as_each_tree_wants_them() {
        let limits = Limits {
            bytes: Some(1000),
            requests: None,
        };
        let v1 = settings(&Tree::V1("/x".into()), "8:0", limits);
        assert_eq!(
            v1,
            [("blkio.throttle.read_bps_device", "8:0 1000".to_owned())]
        );
        let v2 = settings(&Tree::V2("/x".into()), "8:0", limits);
        assert_eq!(v2, [("io.max", "8:0 rbps=1000 riops=max".to_owned())]);
    }

    #[test]
    fn reads_are_counted_for_the_disk_alone() {
        let v1 = "8:0 Write 7\n254:0 Write 5\n254:0 Read 42\n254:0 Sync 3\nTotal 60\n";
        assert_eq!(count_in(v1, "254:0", "rios="), 42);
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n254:0 rbytes=9 wbytes=0 rios=42 wios=0\n";
        assert_eq!(count_in(v2, "254:0", "rios="), 42);
        assert_eq!(count_in(v2, "254:0", "rbytes="), 9);
        assert_eq!(count_in("", "254:0", "rios="), 0);
    }
}
