//! How much one fault maps.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// As large as the page cache's folios get with pages of 4 KiB.
const BYTES: usize = 2 << 20;

/// The page that is touched: not the first, which is mapped where a folio begins.
const TOUCHED: usize = 3;

/// `/proc/PID/pagemap`: the page is in memory, and mapped.
const PRESENT: u64 = 1 << 63;

/// Pages that are mapped after one page of a file in `directory` was touched, whose page
/// cache may hold it in large folios: 1, or as many as the kernel maps of a folio, and of a
/// fault's window where that is not one page.
///
/// # Errors
/// There is no room for the file, or its file system has no unnamed ones.
pub(super) fn pages_of_a_fault(directory: &Path) -> io::Result<usize> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)?;
    let file = File::from(file);
    file.write_all_at(&vec![1; BYTES], 0)?;
    let map = Map::of(&file)?;
    let page = rustix::param::page_size();
    map.touch(TOUCHED * page);
    let mut entries = vec![0; BYTES / page * 8];
    let first = map.address.as_ptr() as u64 / page as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first * 8)?;
    let (entries, _) = entries.as_chunks::<8>();
    let present = |entry: &&[u8; 8]| u64::from_ne_bytes(**entry) & PRESENT != 0;
    Ok(entries.iter().filter(present).count())
}

struct Map {
    address: NonNull<std::ffi::c_void>,
}

impl Map {
    fn of(file: &File) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping of a file that nobody else has.
        let address = unsafe { mmap(std::ptr::null_mut(), BYTES, protection, flags, file, 0) }?;
        let address = NonNull::new(address).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { address })
    }

    fn touch(&self, offset: usize) {
        debug_assert!(offset < BYTES);
        // SAFETY: within the mapping, which nobody writes to, of a file that is as long.
        let _ = unsafe { self.address.cast::<u8>().add(offset).read_volatile() };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `of`. It can only fail for arguments that are wrong.
        let _ = unsafe { munmap(self.address.as_ptr(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_maps_its_page_at_least_and_not_the_file() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        match pages_of_a_fault(dir.path()) {
            Ok(pages) => assert!((1..=BYTES / 4096).contains(&pages), "{pages}"),
            Err(error) => eprintln!("SKIPPED: no unnamed files here: {error}"),
        }
    }
}
