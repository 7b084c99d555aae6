//! Files as they are on disk once the run has ended.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, StatxFlags};

use super::regular;
use crate::model::{FileVersion, PAGE_SIZE};

/// What is known of a regular file.
pub(super) struct Stat {
    pub(super) version: FileVersion,
    /// As statx(2) says: on btrfs the subvolume's, not the superblock's.
    pub(super) device: (u32, u32),
    /// Names that it has.
    pub(super) links: u32,
}

/// The regular file at `path`, if its inode number is still `ino`.
pub(super) fn stat(path: &[u8], ino: u64) -> Option<Stat> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).ok()?;
    let regular = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
    (regular && stat.stx_ino == ino).then(|| Stat {
        version: FileVersion {
            size: stat.stx_size,
            mtime_ns: (stat.stx_mtime.tv_sec)
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(stat.stx_mtime.tv_nsec)),
        },
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        links: stat.stx_nlink,
    })
}

/// The first page of a regular file.
pub(super) fn read_head(path: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if !path.is_absolute() || !path.metadata().ok()?.is_file() {
        return None;
    }
    let file = regular::open(path, OFlags::RDONLY).ok()?;
    let mut head = Vec::new();
    file.take(PAGE_SIZE).read_to_end(&mut head).ok()?;
    Some(head)
}
