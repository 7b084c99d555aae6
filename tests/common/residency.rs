//! Which pages of a file are in memory, asked apart from the product's own look.

use std::fs::File;
use std::path::Path;

use headstart::model::PAGE_SIZE;

/// One entry a page of the file: whether it is in the page cache, up to date.
pub(crate) fn resident_pages(path: &Path) -> Vec<bool> {
    let file = File::open(path).expect("open");
    let pages = file.metadata().expect("metadata").len().div_ceil(PAGE_SIZE) as usize;
    if pages == 0 {
        return Vec::new();
    }
    let mut vector = vec![0u8; pages];
    // SAFETY: a fresh mapping of the file that is asked about and dropped, never
    // accessed; the vector has one byte for each of its pages.
    unsafe {
        let length = pages * PAGE_SIZE as usize;
        let map = rustix::mm::mmap(
            std::ptr::null_mut(),
            length,
            rustix::mm::ProtFlags::empty(),
            rustix::mm::MapFlags::SHARED,
            &file,
            0,
        )
        .expect("mmap");
        assert_eq!(libc::mincore(map, length, vector.as_mut_ptr()), 0);
        rustix::mm::munmap(map, length).expect("munmap");
    }
    vector.iter().map(|&r| r & 1 == 1).collect()
}
