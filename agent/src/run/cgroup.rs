//! A cgroup of its own for one command.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::mount::detached_mount;
use super::procfs;
use crate::attribute::mountinfo;

/// Magic of cgroup2 filesystems (linux/magic.h, `CGROUP2_SUPER_MAGIC`).
const MAGIC: u64 = 0x6367_7270;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The v2 hierarchy can't be reached.
    #[error(
        "reaching the cgroup v2 hierarchy: {0} (recording needs root and a kernel with cgroup v2)"
    )]
    Hierarchy(io::Error),
    /// The cgroup can't be made.
    #[error("making cgroup `{name}`: {source}")]
    Make {
        /// Its name.
        name: String,
        /// Cause.
        source: io::Error,
    },
}

/// A cgroup (v2) made for one command; removed when dropped.
pub struct Cgroup {
    parent: OwnedFd,
    directory: OwnedFd,
    name: CString,
    id: u64,
}

impl Cgroup {
    /// Makes `headstart-<pid>-<n>` below the cgroup that this process is in, with no
    /// controllers: nothing about how the command runs changes, and the limits that
    /// it would have had it has.
    pub fn create(n: u32) -> Result<Self, CgroupError> {
        let parent = own_directory().map_err(CgroupError::Hierarchy)?;
        let name = format!("headstart-{}-{n}", std::process::id());
        let make = |source: rustix::io::Errno| CgroupError::Make {
            name: name.clone(),
            source: source.into(),
        };
        match rustix::fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(make(error)),
        }
        let directory =
            rustix::fs::openat(&parent, &*name, DIRECTORY, Mode::empty()).map_err(make)?;
        // kernfs: the inode number is the cgroup's id on 64-bit machines.
        let id = rustix::fs::fstat(&directory).map_err(make)?.st_ino;
        let cgroup = Self {
            parent,
            directory,
            name: CString::new(&*name).unwrap_or_default(),
            id,
        };
        // No process can be born in one below a threaded cgroup. (5.10 knows the file.)
        match cgroup.read("cgroup.type") {
            Ok(kind) if kind.trim() != "domain" => Err(CgroupError::Make {
                source: io::Error::other(format!("it is {}", kind.trim())),
                name,
            }),
            _ => Ok(cgroup),
        }
    }

    /// What `bpf_get_current_cgroup_id` returns inside.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// For `CLONE_INTO_CGROUP`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// µs for which some task of the cgroup waited for I/O, since it was made;
    /// `None` where the kernel has no pressure accounting.
    pub fn io_stall_us(&self) -> Option<u64> {
        procfs::stall_us(&self.read("io.pressure").ok()?)
    }

    /// Whether processes are left in it or below; where that can't be read, yes.
    pub fn is_populated(&self) -> bool {
        !self.read("cgroup.events").is_ok_and(|text| is_empty(&text))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        read(&self.directory, file)
    }
}

/// The v2 hierarchy, for questions about cgroups that others make.
pub struct Tree(OwnedFd);

impl Tree {
    /// Opens it.
    ///
    /// # Errors
    /// There is none, or it can't be reached.
    pub fn open() -> io::Result<Self> {
        root_directory().map(Self)
    }

    /// Whether no process is in the cgroup at `path`, which is from the hierarchy's root,
    /// nor below it; where that can't be read, `false`.
    pub fn is_empty(&self, path: &[u8]) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let file = Path::new(OsStr::from_bytes(path)).join("cgroup.events");
        read(&self.0, file).is_ok_and(|text| is_empty(&text))
    }
}

/// What `cgroup.events` says.
fn is_empty(events: &str) -> bool {
    events.lines().any(|line| line == "populated 0")
}

/// Reads a file of a cgroup, or of one below it.
///
/// # Errors
/// It is not there, or can't be read: the cgroup may be gone.
pub fn read(directory: &OwnedFd, file: impl AsRef<Path>) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, file.as_ref(), flags, Mode::empty())?;
    io::read_to_string(std::fs::File::from(fd))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy where the command left processes behind: they stay in it.
        if let Err(error) = rustix::fs::unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR) {
            tracing::debug!(cgroup = ?self.name, %error, "cgroup stays");
        }
        let _ = sweep(&self.parent);
    }
}

/// What was found of cgroups whose makers are dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Removed.
    pub removed: usize,
    /// Left: processes are in them.
    pub in_use: usize,
}

/// Removes what earlier commands had to leave behind, where it is empty now.
pub(super) fn sweep(parent: &OwnedFd) -> Swept {
    let opened = rustix::fs::openat(parent, ".", DIRECTORY, Mode::empty());
    let Ok(entries) = opened.and_then(rustix::fs::Dir::new) else {
        return Swept::default();
    };
    let mut swept = Swept::default();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_left = maker(name.to_bytes())
            .is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        if !is_left {
            continue;
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => swept.removed += 1,
            Err(Errno::BUSY) => swept.in_use += 1,
            Err(_) => {}
        }
    }
    swept
}

/// The process that made a cgroup, from the cgroup's name.
pub(super) fn maker(name: &[u8]) -> Option<u32> {
    let rest = std::str::from_utf8(name).ok()?.strip_prefix("headstart-")?;
    rest.split_once('-')?.0.parse().ok()
}

/// The root of the v2 hierarchy. In a cgroup namespace, as a container has one, all that is
/// mounted anew begins at the container's own cgroup: the whole is what was mounted outside
/// and handed in. Where nothing was, what can be seen.
pub(super) fn root_directory() -> io::Result<OwnedFd> {
    let seen = namespace_root();
    if seen.as_ref().is_ok_and(is_whole) {
        return seen;
    }
    let mounts = mountinfo::read().unwrap_or_default();
    let mounts = mounts.iter().filter(|mount| mount.fs_type == "cgroup2");
    let mut opened = mounts.filter_map(|mount| open(mount).ok());
    opened.find(is_whole).map_or(seen, Ok)
}

/// Whether a directory is the root of the whole hierarchy: the first inode that is numbered
/// (fs/kernfs/dir.c, `kernfs_create_root`).
fn is_whole(directory: &OwnedFd) -> bool {
    let is_cgroups = rustix::fs::fstatfs(directory).is_ok_and(|fs| fs.f_type as u64 == MAGIC);
    is_cgroups && rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_ino == 1)
}

/// Whether cgroups can be made below a directory, as far as its mount goes.
fn is_writable(directory: &OwnedFd) -> bool {
    use rustix::fs::StatVfsMountFlags;
    let mount = rustix::fs::fstatvfs(directory);
    mount.is_ok_and(|mount| !mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn open(mount: &mountinfo::Mount) -> io::Result<OwnedFd> {
    let path = Path::new(OsStr::from_bytes(&mount.mount_point));
    Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
}

/// The root of the v2 hierarchy, or of the cgroup namespace that this process is in: as it is
/// mounted here, where that is the whole of it and can be written to; else mounted apart, seen
/// by nobody else (which takes the kernel 3 to 20 ms); where that is not allowed whatever is
/// mounted here.
fn namespace_root() -> io::Result<OwnedFd> {
    let mounts = mountinfo::read().unwrap_or_default();
    // From within a cgroup namespace what was mounted outside begins above it (`/..`).
    let whole = |mount: &&mountinfo::Mount| mount.fs_type == "cgroup2" && mount.root == b"/";
    let mut mounted = mounts.iter().filter(whole);
    let mut opened = mounted.clone().filter_map(|mount| open(mount).ok());
    if let Some(root) = opened.find(|root| is_whole(root) && is_writable(root)) {
        return Ok(root);
    }
    let refused = match detached_mount("cgroup2") {
        // The mount's own descriptor only names its place.
        Ok(mount) => return Ok(rustix::fs::openat(mount, ".", DIRECTORY, Mode::empty())?),
        Err(error) => error,
    };
    open(mounted.next().ok_or(refused)?)
}

/// The directory of the cgroup that this process is in.
fn own_directory() -> io::Result<OwnedFd> {
    own_place().map(|(directory, _)| directory)
}

/// The same, and its path below the root of the hierarchy, or of the cgroup namespace.
pub(super) fn own_place() -> io::Result<(OwnedFd, PathBuf)> {
    let root = namespace_root()?;
    let text = std::fs::read("/proc/self/cgroup")?;
    let path = own_path(&text).ok_or_else(|| io::Error::other("this process is in none"))?;
    if path.is_empty() {
        return Ok((root, PathBuf::new()));
    }
    let directory = rustix::fs::openat(&root, path, DIRECTORY, Mode::empty())?;
    Ok((directory, path.into()))
}

/// The v2 cgroup in what `/proc/PID/cgroup` says, relative to the root.
pub(super) fn own_path(text: &[u8]) -> Option<&OsStr> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::/"))?;
    Some(OsStr::from_bytes(line))
}

/// Ids of the cgroups (v2) that exist now, the root included.
///
/// # Errors
/// The hierarchy can't be reached or read.
pub fn existing_cgroups() -> io::Result<Vec<u64>> {
    Ok(existing_paths()?.into_iter().map(|(id, _)| id).collect())
}

/// Ids of the cgroups (v2) that exist now, and their paths from the hierarchy's root (of
/// the cgroup namespace, where nothing more can be seen); the root's is `/`.
///
/// # Errors
/// The hierarchy can't be reached or read.
pub fn existing_paths() -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut ahead = vec![(root_directory()?, b"/".to_vec())];
    while let Some((directory, path)) = ahead.pop() {
        found.push((rustix::fs::fstat(&directory)?.st_ino, path.clone()));
        for entry in rustix::fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() != rustix::fs::FileType::Directory
                || matches!(name.to_bytes(), b"." | b"..")
            {
                continue;
            }
            let child = match rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty()) {
                Ok(child) => child,
                // Gone since it was listed: nothing to watch.
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(error) => return Err(error.into()),
            };
            let base = if path == b"/" { &b""[..] } else { &path };
            let below = [base, b"/", name.to_bytes()].concat();
            ahead.push((child, below));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_the_one_of_version_2() {
        let hybrid = b"4:memory:/a\n1:name=systemd:/b\n0::/pods/c d\n";
        assert_eq!(own_path(hybrid), Some(OsStr::new("pods/c d")));
        assert_eq!(own_path(b"0::/\n"), Some(OsStr::new("")));
        assert_eq!(own_path(b"4:memory:/a\n"), None);
    }
}
