//! Memory that a host has given.

use std::ptr::null_mut;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Writes to so many bytes of memory and gives them back, so that what is read next comes to
/// lie in memory that the host of a virtual machine does not have to find first.
///
/// # Errors
///
/// No memory.
pub(crate) fn touch(bytes: u64) -> anyhow::Result<()> {
    let length = usize::try_from(bytes)?;
    let flags = MapFlags::PRIVATE;
    // SAFETY: a new mapping, wherever the kernel has room.
    let start = unsafe { mmap_anonymous(null_mut(), length, ProtFlags::WRITE, flags) }?;
    // SAFETY: the whole of the mapping just made, which nothing else knows of; the kernel
    // writes zeros into it.
    let touched = unsafe {
        // Huge pages are advice: where there are none, single ones do.
        _ = madvise(start, length, Advice::LinuxHugepage);
        madvise(start, length, Advice::LinuxPopulateWrite)
    };
    // SAFETY: as above, and it is not used afterwards.
    unsafe { munmap(start, length) }?;
    Ok(touched?)
}
