//! A userfaultfd of another process, used for one thing: mappings registered
//! with it are faulted in page by page.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mm::UserfaultfdFlags;

use crate::run::procfs;

/// `include/uapi/linux/userfaultfd.h`
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Takes a fresh descriptor.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut api = UffdioApi {
            api: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the request matches the structure, which outlives the call.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
        if done < 0 {
            return Err(io::Error::other(
                "asynchronous userfaultfd write protection is missing (Linux 6.7)",
            ));
        }
        Ok(Self(fd))
    }

    /// One of our own, to find out whether there are any.
    pub(super) fn create() -> io::Result<Self> {
        // SAFETY: no mapping is registered with it.
        let fd = unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC) };
        Self::new(fd?)
    }

    /// Registers whole mappings.
    pub(super) fn register(&self, range: Range<u64>) -> io::Result<()> {
        let mut register = UffdioRegister {
            start: range.start,
            len: range.end - range.start,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the request matches the structure, which outlives the call.
        // Of the other process only how pages are faulted in changes.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Registers every mapping of a file that process `pid` has: how many, and
    /// how many could not be.
    pub(super) fn register_files(&self, pid: i32) -> io::Result<(u64, u64)> {
        let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
        let (mut done, mut refused) = (0, 0);
        let files = procfs::mappings(&maps).filter(|(_, name)| name.starts_with(b"/"));
        for (range, _) in files {
            match self.register(range) {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        }
        Ok((done, refused))
    }
}
