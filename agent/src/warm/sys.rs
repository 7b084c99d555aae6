//! System calls that rustix does not wrap.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::IoClass;
use crate::model::PAGE_SIZE;

/// Same number on every architecture (added after the tables were unified).
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// What a call came to that returns 0 where it succeeds.
fn done(result: libc::c_long) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many system pages of the range are in the page cache, those in flight
/// and those whose read failed included.
///
/// # Errors
/// ENOSYS before Linux 6.5; EPERM where the kernel keeps it from this process;
/// EOPNOTSUPP for hugetlbfs.
pub(crate) fn cachestat(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    let range = CachestatRange { off: offset, len };
    let mut stat = Cachestat::default();
    // SAFETY: both structs have the layout of their namesakes in linux/mman.h
    // and live across the call, which keeps no pointer to them.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            &raw const range,
            &raw mut stat,
            0,
        )
    };
    done(result).map(|()| stat.cache)
}

/// Sets `resident` to one byte a [`PAGE_SIZE`] page from `start_page` on: 1
/// where the page is in the page cache and up to date.
///
/// # Errors
/// The file can't be mapped (ENODEV), or no address space is left (ENOMEM).
pub(super) fn mincore(
    fd: BorrowedFd<'_>,
    start_page: u64,
    pages: usize,
    resident: &mut Vec<u8>,
) -> io::Result<()> {
    resident.clear();
    if pages == 0 {
        return Ok(());
    }
    Map::of(fd, start_page, pages, ProtFlags::empty())?.resident(pages, resident)
}

/// Pages of a file, mapped; unmapped when dropped. Nothing here accesses them, so a file
/// that shrinks meanwhile can't hurt.
struct Map {
    address: *mut libc::c_void,
    length: usize,
    /// Bytes before the first page: mmap wants a multiple of the system's page size, which
    /// may exceed ours.
    skipped: usize,
}

impl Map {
    fn of(
        fd: BorrowedFd<'_>,
        start_page: u64,
        pages: usize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        let offset = start_page * PAGE_SIZE;
        let base = offset - offset % rustix::param::page_size() as u64;
        let end = offset + pages as u64 * PAGE_SIZE;
        let length = usize::try_from(end - base).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (anywhere, flags) = (std::ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choosing, which nothing reads.
        let address = unsafe { rustix::mm::mmap(anywhere, length, access, flags, fd, base) }?;
        Ok(Self {
            address,
            length,
            skipped: (offset - base) as usize,
        })
    }

    /// Sets `resident` to one byte for each of the first pages: whether it is there.
    fn resident(&self, pages: usize, resident: &mut Vec<u8>) -> io::Result<()> {
        let system = rustix::param::page_size();
        let mut vector = vec![0u8; self.length.div_ceil(system)];
        // SAFETY: the mapping is page aligned and `length` bytes long, and `vector` has one
        // byte for each of its pages.
        let result = unsafe { libc::mincore(self.address, self.length, vector.as_mut_ptr()) };
        done(result.into())?;
        resident.clear();
        resident.extend((0..pages).map(|page| vector[self.offset_of(page) / system] & 1));
        Ok(())
    }

    /// Where a page begins, from the mapping's address on; `page` counts from the first.
    fn offset_of(&self, page: usize) -> usize {
        self.skipped + page * PAGE_SIZE as usize
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made above; nothing refers to it.
        let _ = unsafe { rustix::mm::munmap(self.address, self.length) };
    }
}

/// Starts reading; returns before the data is there.
///
/// # Errors
/// EINVAL where the filesystem has no page cache to read into.
pub(super) fn readahead(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let count = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no memory is involved; the descriptor is open.
    let result = unsafe { libc::readahead(fd.as_raw_fd(), offset, count) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the first page of a block fault in a mapping that is to have huge pages and is said to
/// be read at random, waits for it, and sets `resident` as [`mincore`] does for the block. Of
/// each page that is there the kernel then takes one byte, for `sink`, of which the first
/// bytes are replaced. What faults in the kernel is an error, where an access of ours would
/// be a signal.
///
/// # Errors
/// EINVAL where the kernel has no huge pages, or before Linux 5.14; EFAULT where the page does
/// not exist or can't be read; ENODEV where the file can't be mapped; what writing to `sink`
/// says.
pub(super) fn fault_block(
    fd: BorrowedFd<'_>,
    start_page: u64,
    pages: usize,
    sink: BorrowedFd<'_>,
    resident: &mut Vec<u8>,
) -> io::Result<()> {
    let map = Map::of(fd, start_page, pages, ProtFlags::READ)?;
    for (length, advice) in [
        (map.length, libc::MADV_HUGEPAGE),
        (map.length, libc::MADV_RANDOM),
        (rustix::param::page_size(), libc::MADV_POPULATE_READ),
    ] {
        // SAFETY: a mapping of at least that length; none of these changes what it holds.
        done(unsafe { libc::madvise(map.address, length, advice) }.into())?;
    }
    map.resident(pages, resident)?;
    let there = (0..pages).filter(|&page| resident[page] == 1);
    let bytes: Vec<libc::iovec> = there
        .map(|page| libc::iovec {
            iov_base: map.address.wrapping_byte_add(map.offset_of(page)),
            iov_len: 1,
        })
        .collect();
    // SAFETY: each vector is one byte of the mapping, which only the kernel reads.
    let written = unsafe {
        let count = bytes.len() as libc::c_int;
        libc::pwritev(sink.as_raw_fd(), bytes.as_ptr(), count, 0)
    };
    match written {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops clean pages from the page cache that nobody uses, as those are whose read
/// failed. That it can't is nobody's concern.
pub(super) fn drop_pages(fd: BorrowedFd<'_>, start_page: u64, pages: u64) {
    let length = NonZeroU64::new(pages.saturating_mul(PAGE_SIZE));
    let offset = start_page.saturating_mul(PAGE_SIZE);
    // A length of 0 would mean the rest of the file.
    if length.is_some() {
        let _ = rustix::fs::fadvise(fd, offset, length, Advice::DontNeed);
    }
}

/// Reads at `offset` until `buffer` is full or the file ends, through signals.
pub(super) fn pread(fd: impl AsFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(&fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Whether the byte at `offset` can be read without waiting for the disk. `false` too where
/// the filesystem does not say.
pub(super) fn is_there(fd: impl AsFd, offset: u64) -> bool {
    let mut byte = [0; 1];
    let mut buffers = [std::io::IoSliceMut::new(&mut byte)];
    let read = rustix::io::preadv2(fd, &mut buffers, offset, ReadWriteFlags::NOWAIT);
    read == Ok(1)
}

/// Sets the I/O priority of the calling thread.
pub(super) fn set_io_class(class: IoClass) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: libc::c_int = 13;
    let value = match class {
        IoClass::Default => return Ok(()),
        IoClass::BestEffort(level) => 2 << CLASS_SHIFT | libc::c_int::from(level.min(7)),
        IoClass::Idle => 3 << CLASS_SHIFT,
    };
    // SAFETY: three integers; 0 stands for the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    done(result)
}

/// Sets the calling thread's nice value. Where that is not allowed it stays.
pub fn be_nice(nice: i32) {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), nice) {
        tracing::debug!(%error, nice, "a thread's precedence stays as it is");
    }
}

/// As [`be_nice`], of a thread that works beside those that start.
pub fn give_way() {
    be_nice(10);
}

/// Has this thread preempt nobody when it wakes up (`SCHED_BATCH`, sched(7)). It runs as
/// much as others of its nice value all the same, so that nobody waits for long for a page
/// that it has locked.
///
/// # Errors
/// It is not allowed.
pub(super) fn be_batch() -> io::Result<()> {
    // musl's function of this name only says ENOSYS. The kernel's sched_param is one int.
    let priority: libc::c_int = 0;
    let call = libc::SYS_sched_setscheduler;
    // SAFETY: the pointer is to an int that outlives the call, which keeps none; 0 stands for
    // the calling thread.
    let result = unsafe { libc::syscall(call, 0, libc::SCHED_BATCH, &raw const priority) };
    done(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_a_batch() {
        std::thread::spawn(|| {
            be_batch().expect("needs no right");
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("its own");
            let mut fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
            // proc_pid_stat(5): the 41st, of which two stand before this.
            assert_eq!(fields.nth(38), Some("3"));
        })
        .join()
        .expect("it ends");
    }

    #[test]
    fn a_written_file_is_resident_and_a_hole_is_not() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("dir");
        let path = dir.path().join("f");
        let file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)
            .expect("create");
        use std::os::unix::fs::FileExt;
        file.write_all_at(&[1; 8192], 4096).expect("write");
        file.set_len(5 * 4096).expect("extend");
        let mut resident = Vec::new();
        mincore(file.as_fd(), 0, 5, &mut resident).expect("mincore");
        assert_eq!(resident, [0, 1, 1, 0, 0]);
        mincore(file.as_fd(), 2, 2, &mut resident).expect("mincore");
        assert_eq!(resident, [1, 0]);
    }

    #[test]
    fn io_classes_are_taken() {
        std::thread::spawn(|| {
            set_io_class(IoClass::BestEffort(200)).expect("clamped");
            set_io_class(IoClass::Idle).expect("idle");
        })
        .join()
        .expect("thread");
    }
}
