//! Times that several processes share: until when what each bound let through is paid for,
//! and when the next may read beside others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Bounds that there can be at a time.
const SLOTS: usize = 511;

/// Where the turn is: after them.
const TURN: usize = SLOTS;

const BYTES: usize = (SLOTS + 1) * size_of::<AtomicU64>();

/// A page of memory that can be handed to another process: for each bound a time of
/// `CLOCK_MONOTONIC`, ns. A process that dies leaves nothing locked.
#[derive(Debug)]
pub struct Dues {
    file: OwnedFd,
    memory: NonNull<AtomicU64>,
}

// SAFETY: the memory is plain atomics, mapped until this is dropped.
unsafe impl Send for Dues {}
// SAFETY: as above.
unsafe impl Sync for Dues {}

impl Dues {
    /// Number of bounds that it has room for.
    pub const SLOTS: usize = SLOTS;

    /// New ones: nothing is due.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("headstart-dues", flags)?;
        rustix::fs::ftruncate(&file, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        Self::open(file)
    }

    /// Those of the process that gave the descriptor.
    ///
    /// # Errors
    /// It is not one of [`Dues::as_fd`], or can't be mapped.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        // Memory of a file that can shrink can go away.
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let bytes = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || bytes != BYTES as i64 {
            return Err(io::Error::other("not a page of times"));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let memory = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                BYTES,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )?
        };
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("no address"))?;
        Ok(Self { file, memory })
    }

    /// For the process that they are shared with.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The time of a bound; `None` above [`Dues::SLOTS`].
    pub(super) fn slot(&self, slot: usize) -> Option<&AtomicU64> {
        (slot < SLOTS).then(|| self.word(slot))
    }

    /// When the next may read beside others.
    pub(super) fn turn(&self) -> &AtomicU64 {
        self.word(TURN)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at <= TURN, "asked for by this module");
        // SAFETY: within the mapping, which is page-aligned, as long as it, and outlives
        // the reference; any bytes are a number, and all access is atomic.
        unsafe { self.memory.add(at.min(TURN)).as_ref() }
    }
}

impl Drop for Dues {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, with this length; nothing refers to it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.memory.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_one_writes_the_other_reads() {
        let mine = Dues::new().expect("memory");
        let handed = mine.as_fd().try_clone_to_owned().expect("a descriptor");
        let theirs = Dues::open(handed).expect("the same");
        let last = Dues::SLOTS - 1;
        let slot = |dues: &Dues| dues.slot(last).expect("a slot").load(Ordering::Relaxed);
        assert_eq!((slot(&mine), slot(&theirs)), (0, 0));
        mine.slot(last).expect("a slot").store(7, Ordering::Relaxed);
        assert_eq!(slot(&theirs), 7);
        assert!(mine.slot(Dues::SLOTS).is_none());
    }

    #[test]
    fn other_files_are_refused() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(BYTES as u64).expect("length");
        assert!(Dues::open(file.into()).is_err());
    }
}
