//! Mounts that no path leads to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Mounts a filesystem of the kernel's own (cgroup2, debugfs, …) where no path leads to
/// it: it goes when the descriptor is closed, whatever becomes of this process. Linux
/// 5.2.
///
/// # Errors
/// The kernel has no such filesystem, or this process may not mount.
pub fn detached_mount(fs_type: &str) -> io::Result<OwnedFd> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(context.as_fd(), flags, MountAttrFlags::empty())?)
}
