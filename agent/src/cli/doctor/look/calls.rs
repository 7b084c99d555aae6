//! System calls tried for real: a kernel's version does not say what a seccomp
//! filter lets through.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::super::snapshot::Tried;

/// The same number on every architecture that Linux 6.5 and later run on but
/// alpha; not yet in libc for all of them.
const SYS_CACHESTAT: libc::c_long = 451;

/// A file whose first page is in memory: it is running.
const RUNNING: &str = "/proc/self/exe";

#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Counts the cached pages of this binary.
pub(super) fn cachestat() -> Tried {
    let file = File::open(RUNNING).map_err(|e| e.to_string())?;
    let range = CachestatRange {
        offset: 0,
        length: 0,
    };
    let mut counts = Cachestat::default();
    // SAFETY: both structs have the kernel's layout, are alive and writable for
    // the call; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            ptr::from_ref(&range),
            ptr::from_mut(&mut counts),
            0,
        )
    };
    match result {
        0 if counts.cached > 0 => Ok(()),
        // Overlayfs keeps its pages with the lower file.
        0 => Err("says that nothing of this running binary is cached".to_owned()),
        _ => Err(io::Error::last_os_error().to_string()),
    }
}

/// Opens `/` by way of a `how` structure.
pub(super) fn openat2() -> Tried {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::empty())
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Asks which of this binary's first pages are resident.
pub(super) fn mincore() -> Tried {
    let file = File::open(RUNNING).map_err(|e| e.to_string())?;
    let length = 4096;
    // SAFETY: a fresh read-only mapping at an address of the kernel's choice.
    let address = unsafe {
        mmap(
            ptr::null_mut(),
            length,
            ProtFlags::READ,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .map_err(|e| e.to_string())?;
    let mut resident = 0u8;
    // SAFETY: the mapping is one page at most on every page size, so one byte
    // is all that the kernel writes.
    let result = unsafe { libc::mincore(address, length, ptr::from_mut(&mut resident)) };
    let outcome = match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().to_string()),
    };
    // SAFETY: the mapping was made above and nothing points into it.
    let unmapped = unsafe { munmap(address, length) };
    outcome.and(unmapped.map_err(|e| e.to_string()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn mincore_works_on_every_linux() {
        assert_eq!(super::mincore(), Ok(()));
    }
}
