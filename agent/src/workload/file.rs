//! Small files of runtimes, read with a bound.

use std::io;
use std::path::Path;

use rustix::fs::OFlags;

use crate::attribute::regular;

/// Reads a regular file of at most `most` bytes, not through a symbolic link at its end.
///
/// # Errors
/// As [`regular::read`].
pub(super) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    regular::read(path, OFlags::NOFOLLOW, most)
}
