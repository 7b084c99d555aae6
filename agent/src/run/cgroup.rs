//! A cgroup of its own for one command.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::mount::detached_mount;
use super::procfs;

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
    /// Makes `headstart-<pid>-<n>` at the root of the v2 hierarchy, with no
    /// controllers: nothing about how the command runs changes. The hierarchy
    /// is mounted apart, seen by nobody else.
    pub fn create(n: u32) -> Result<Self, CgroupError> {
        let parent = detached_mount("cgroup2").map_err(CgroupError::Hierarchy)?;
        let name = format!("headstart-{}-{n}", std::process::id());
        let make = |source: rustix::io::Errno| CgroupError::Make {
            name: name.clone(),
            source: source.into(),
        };
        match rustix::fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(make(error)),
        }
        let directory = rustix::fs::openat(
            &parent,
            &*name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(make)?;
        // kernfs: the inode number is the cgroup's id on 64-bit machines.
        let id = rustix::fs::fstat(&directory).map_err(make)?.st_ino;
        let name = CString::new(name).unwrap_or_default();
        Ok(Self {
            parent,
            directory,
            name,
            id,
        })
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
        let events = self.read("cgroup.events");
        !events.is_ok_and(|text| text.lines().any(|line| line == "populated 0"))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let fd = rustix::fs::openat(
            &self.directory,
            file,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        io::read_to_string(std::fs::File::from(fd))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy where the command left processes behind: they stay in it.
        if let Err(error) = rustix::fs::unlinkat(&self.parent, &*self.name, AtFlags::REMOVEDIR) {
            tracing::debug!(cgroup = ?self.name, %error, "cgroup stays");
        }
        sweep(&self.parent);
    }
}

/// Removes what earlier commands had to leave behind, where it is empty now.
fn sweep(parent: &OwnedFd) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, ".", flags, Mode::empty());
    let Ok(entries) = opened.and_then(rustix::fs::Dir::new) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_left = maker(name.to_bytes())
            .is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
        if is_left {
            // Refused while processes are in it.
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }
}

/// The process that made a cgroup, from the cgroup's name.
fn maker(name: &[u8]) -> Option<u32> {
    let rest = std::str::from_utf8(name).ok()?.strip_prefix("headstart-")?;
    rest.split_once('-')?.0.parse().ok()
}

/// Ids of the cgroups (v2) that exist now, the root included.
///
/// # Errors
/// The hierarchy can't be reached or read.
pub fn existing_cgroups() -> io::Result<Vec<u64>> {
    Ok(existing_paths()?.into_iter().map(|(id, _)| id).collect())
}

/// Ids of the cgroups (v2) that exist now, and their paths from the hierarchy's root (of
/// the cgroup namespace, where this process is in one); the root's is `/`.
///
/// # Errors
/// The hierarchy can't be reached or read.
pub fn existing_paths() -> io::Result<Vec<(u64, Vec<u8>)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The mount's own descriptor only names its place.
    let root = rustix::fs::openat(detached_mount("cgroup2")?, ".", flags, Mode::empty())?;
    let mut found = Vec::new();
    let mut ahead = vec![(root, b"/".to_vec())];
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
            // Gone since it was listed: nothing to watch.
            let child = rustix::fs::openat(&directory, name, flags, Mode::empty());
            let base = if path == b"/" { &b""[..] } else { &path };
            let below = [base, b"/", name.to_bytes()].concat();
            ahead.extend(child.ok().map(|child| (child, below)));
        }
    }
    Ok(found)
}
