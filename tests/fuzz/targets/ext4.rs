//! Metadata blocks of ext2, ext3 and ext4. The input is an image whose end, all
//! zeros, is cut off.

#![no_main]

use std::io;

use headstart::attribute::ext4::{BlockSource, Ext4, InodeNeed, Metadata, Need};
use libfuzzer_sys::fuzz_target;

/// Bytes that an image has with its end.
const IMAGE_BYTES: u64 = 1 << 20;

struct Image<'a>(&'a [u8]);

impl BlockSource for Image<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > IMAGE_BYTES) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = self.0.get(offset as usize..).unwrap_or_default();
        let there = &there[..there.len().min(buf.len())];
        buf.fill(0);
        buf[..there.len()].copy_from_slice(there);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let image = Image(data);
    let Ok(fs) = Ext4::open(&image) else { return };
    let kinds = [
        Need::Inode,
        Need::Search(b"name7"),
        Need::Search(b"no such name, and one of more than thirty-two bytes"),
        Need::ReadLink,
        Need::Read {
            start_page: 3,
            pages: 40,
        },
        Need::Read {
            start_page: u64::MAX - 1,
            pages: u64::MAX,
        },
        Need::ReadAll,
        Need::List,
    ];
    let needs: Vec<InodeNeed<'_>> = (1..16)
        .flat_map(|ino| kinds.map(|need| (ino, need)))
        .map(|(ino, need)| InodeNeed {
            ino,
            need,
            first_use_ns: ino,
        })
        .collect();
    let found = fs.metadata_pages(0, &needs);
    assert!(found.pages() <= Metadata::MAX_PAGES as u64);
});
