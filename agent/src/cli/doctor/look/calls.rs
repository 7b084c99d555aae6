//! System calls tried for real: a kernel's version does not say what a seccomp
//! filter lets through.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::super::snapshot::Tried;
use crate::warm::cachestat as cachestat_of;

/// A file whose first page is in memory: it is running.
const RUNNING: &str = "/proc/self/exe";

/// Counts the cached pages of this binary.
pub(super) fn cachestat() -> Tried {
    let file = File::open(RUNNING).map_err(|e| e.to_string())?;
    match cachestat_of(file.as_fd(), 0, 0) {
        // Overlayfs keeps its pages with the lower file.
        Ok(0) => Err("says that nothing of this running binary is cached".to_owned()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("not permitted: of a file only its owner, or root, is told".to_owned())
        }
        Err(error) => Err(error.to_string()),
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
