//! Opening by path without leaving the volume, and looking names up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use rustix::path::DecInt;

use crate::model::{NameKind, PlanName, RelPath};

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// As profiled.
    Warmed,
    /// Looked up, and not what was profiled.
    Gone,
}

/// Which way of opening this kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    /// openat2(2), Linux 5.6.
    Kernel,
    /// One component at a time, each checked.
    Walk,
}

impl Opener {
    /// Asks the kernel. Old seccomp filters answer EPERM for calls they do not
    /// know.
    pub(super) fn detect() -> Self {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::empty()) {
            Err(Errno::NOSYS | Errno::PERM) => Self::Walk,
            _ => Self::Kernel,
        }
    }

    /// Opens `path` below `root` as a mere reference (`O_PATH`): no device,
    /// FIFO or socket is disturbed. A symbolic link at its end is opened
    /// itself.
    ///
    /// # Errors
    /// ELOOP for a symbolic link on the way, EXDEV for another mount.
    pub(super) fn open(self, root: BorrowedFd<'_>, path: &RelPath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bytes = if path.is_root() {
            b"."
        } else {
            path.as_bytes()
        };
        match self {
            Self::Kernel => retry(|| {
                rustix::fs::openat2(
                    root,
                    bytes,
                    flags,
                    Mode::empty(),
                    ResolveFlags::BENEATH
                        | ResolveFlags::NO_MAGICLINKS
                        | ResolveFlags::NO_SYMLINKS
                        | ResolveFlags::NO_XDEV,
                )
            }),
            Self::Walk => walk(root, bytes, flags),
        }
    }

    /// Whether a name is in memory as it was profiled, without bringing anything in. Says no
    /// where the kernel can't tell (before 5.12).
    pub(super) fn is_cached(self, root: BorrowedFd<'_>, name: &PlanName) -> bool {
        if self != Self::Kernel || name.path.is_root() {
            return false;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_XDEV
            | ResolveFlags::CACHED;
        match rustix::fs::openat2(root, name.path.as_bytes(), flags, Mode::empty(), resolve) {
            Ok(fd) => rustix::fs::fstat(fd).is_ok_and(|stat| is_as_profiled(name.kind, &stat)),
            Err(Errno::NOENT) => name.kind == NameKind::Missing,
            Err(_) => false,
        }
    }

    /// Looks a name up so that its dentry and inode are in memory.
    ///
    /// # Errors
    /// As [`Opener::open`], or what the filesystem says.
    pub(super) fn look_up(
        self,
        root: BorrowedFd<'_>,
        name: &PlanName,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Looked, Errno> {
        let fd = match self.open(root, &name.path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Ok(match name.kind {
                    NameKind::Missing => Looked::Warmed,
                    _ => Looked::Gone,
                });
            }
            Err(errno) => return Err(errno),
        };
        let stat = rustix::fs::fstat(&fd)?;
        let same = is_as_profiled(name.kind, &stat);
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if kind.is_symlink() {
            rustix::fs::readlinkat(&fd, "", Vec::with_capacity(256))?;
        } else if kind.is_dir() && name.listed {
            list(fd.as_fd(), stopped)?;
        }
        Ok(if same { Looked::Warmed } else { Looked::Gone })
    }
}

fn is_as_profiled(kind: NameKind, stat: &rustix::fs::Stat) -> bool {
    let found = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    match kind {
        NameKind::Missing => false,
        NameKind::Directory => found.is_dir(),
        NameKind::Symlink => found.is_symlink(),
        NameKind::File => !found.is_dir() && !found.is_symlink(),
    }
}

/// Openat2 gives EAGAIN when a rename raced with it.
fn retry(mut call: impl FnMut() -> Result<OwnedFd, Errno>) -> Result<OwnedFd, Errno> {
    for _ in 0..8 {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

fn walk(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::fstat(root)?.st_dev;
    let mut at = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for component in path.split(|&b| b == b'/') {
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode).is_symlink() {
            return Err(Errno::LOOP);
        }
        at = rustix::fs::openat(&at, component, flags, Mode::empty())?;
        if rustix::fs::fstat(&at)?.st_dev != device {
            return Err(Errno::XDEV);
        }
    }
    Ok(at)
}

/// Reads a directory to its end.
fn list(dir: BorrowedFd<'_>, stopped: &dyn Fn() -> bool) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(dir, ".", flags, Mode::empty());
    let fd = match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags)?,
        other => other?,
    };
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        entry?;
        if entries.is_buffer_empty() && stopped() {
            break;
        }
    }
    Ok(())
}

/// Opens again what an `O_PATH` descriptor refers to.
#[derive(Debug)]
pub(super) struct Reopener {
    /// The process's descriptors, so that not all of their path is walked each
    /// time.
    descriptors: Option<OwnedFd>,
}

impl Default for Reopener {
    fn default() -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            descriptors: rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty()).ok(),
        }
    }
}

impl Reopener {
    /// For reading, without changing its access time where that is allowed.
    /// Never blocks on a lease.
    pub(super) fn open(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let descriptors = self.descriptors.as_ref().ok_or(Errno::NOSYS)?;
        let name = DecInt::from_fd(fd);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |flags| rustix::fs::openat(descriptors, name.as_c_str(), flags, Mode::empty());
        match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &[u8]) -> RelPath {
        RelPath::new(text).expect("valid")
    }

    #[test]
    fn both_openers_stay_in_the_volume() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("dirs");
        std::fs::write(dir.path().join("a/b/f\n\u{1}"), b"x").expect("file");
        symlink("/etc", dir.path().join("out")).expect("link");
        symlink("a", dir.path().join("in")).expect("link");
        let root = rustix::fs::openat(
            CWD,
            dir.path(),
            OFlags::PATH | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .expect("root");
        for opener in [Opener::Kernel, Opener::Walk] {
            let open = |p: &[u8]| opener.open(root.as_fd(), &path(p)).map(drop);
            assert_eq!(open(b""), Ok(()), "{opener:?}");
            assert_eq!(open(b"a/b/f\n\x01"), Ok(()), "{opener:?}");
            assert_eq!(open(b"out"), Ok(()), "the link itself, {opener:?}");
            assert_eq!(open(b"out/passwd"), Err(Errno::LOOP), "{opener:?}");
            assert_eq!(open(b"in/b"), Err(Errno::LOOP), "{opener:?}");
            assert_eq!(open(b"a/x"), Err(Errno::NOENT), "{opener:?}");
            assert_eq!(open(b"a/b/f\n\x01/x"), Err(Errno::NOTDIR), "{opener:?}");
        }
    }

    #[test]
    fn what_is_in_memory_is_told_from_what_is_not() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("f"), b"x").expect("file");
        symlink("/etc", dir.path().join("out")).expect("link");
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::openat(CWD, dir.path(), flags, Mode::empty()).expect("root");
        let cached = |opener: Opener, text: &[u8], kind| {
            let name = PlanName {
                volume: 0,
                path: path(text),
                kind,
                listed: false,
            };
            opener.is_cached(root.as_fd(), &name)
        };
        let (file, missing) = (NameKind::File, NameKind::Missing);
        if Opener::detect() == Opener::Kernel {
            assert!(cached(Opener::Kernel, b"f", file));
            assert!(!cached(Opener::Kernel, b"f", NameKind::Directory));
            // Nobody looked for it.
            assert!(!cached(Opener::Kernel, b"new", missing));
            assert!(!dir.path().join("new").exists());
            assert!(cached(Opener::Kernel, b"new", missing));
            assert!(!cached(Opener::Kernel, b"new", file));
        }
        assert!(!cached(Opener::Kernel, b"out/passwd", file));
        assert!(!cached(Opener::Walk, b"f", file));
    }

    #[test]
    fn another_mount_is_not_entered() {
        let root = rustix::fs::openat(CWD, "/", OFlags::PATH, Mode::empty()).expect("root");
        for opener in [Opener::Kernel, Opener::Walk] {
            let result = opener.open(root.as_fd(), &path(b"proc/self"));
            assert_eq!(result.map(drop), Err(Errno::XDEV), "{opener:?}");
        }
    }
}
