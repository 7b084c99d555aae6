//! How many pages of a file are in the page cache, those that are being read as well, of
//! which `mincore` says nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const CACHESTAT: libc::c_long = 451;

/// Pages of `length` bytes from `offset` on.
///
/// # Errors
/// ENOSYS before Linux 6.5.
pub(crate) fn cached_pages(file: &File, offset: u64, length: u64) -> io::Result<u64> {
    let range = [offset, length];
    let mut counts = [0_u64; 5];
    // SAFETY: `struct cachestat_range` is two u64, `struct cachestat` five; both live across
    // the call.
    let failed = unsafe {
        let fd = file.as_raw_fd();
        libc::syscall(CACHESTAT, fd, range.as_ptr(), counts.as_mut_ptr(), 0_u32)
    };
    match failed {
        0 => Ok(counts[0]),
        _ => Err(io::Error::last_os_error()),
    }
}
