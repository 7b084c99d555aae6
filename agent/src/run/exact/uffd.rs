//! A userfaultfd of another process, used for one thing: mappings registered
//! with it are faulted in page by page.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

/// `include/uapi/linux/userfaultfd.h`
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

pub(super) struct Uffd(OwnedFd);

impl Uffd {
    /// Takes a fresh descriptor.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut api = UffdioApi {
            api: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC,
            ioctls: 0,
        };
        // SAFETY: the request matches the structure, which outlives the call.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
        if done < 0 {
            return Err(io::Error::other(
                "asynchronous userfaultfd write protection is missing (Linux 6.7)",
            ));
        }
        Ok(Self(fd))
    }

    /// Registers whole mappings.
    pub(super) fn register(&self, range: Range<u64>) -> io::Result<()> {
        let mut register = UffdioRegister {
            start: range.start,
            len: range.end - range.start,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        // SAFETY: the request matches the structure, which outlives the call.
        // Of the other process only how pages are faulted in changes.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Registers every mapping of a file that process `pid` has: how many, and
    /// how many could not be.
    pub(super) fn register_files(&self, pid: i32) -> io::Result<(u64, u64)> {
        let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
        let (mut done, mut refused) = (0, 0);
        for range in maps.split(|&b| b == b'\n').filter_map(file_mapping) {
            match self.register(range) {
                Ok(()) => done += 1,
                Err(_) => refused += 1,
            }
        }
        Ok((done, refused))
    }
}

/// The range of a line of `maps` that maps a file.
fn file_mapping(line: &[u8]) -> Option<Range<u64>> {
    let (range, name) = mapping(line)?;
    name.starts_with(b"/").then_some(range)
}

/// Range and name of a line of `maps`:
/// `7f00-7f10 r-xp 00000000 fe:00 1234    /usr/lib/x.so`.
pub(super) fn mapping(line: &[u8]) -> Option<(Range<u64>, &[u8])> {
    let range = std::str::from_utf8(line.split(|&b| b == b' ').next()?).ok()?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    // Five fields, then the name, which may hold spaces.
    let mut rest = line;
    for _ in 0..5 {
        let space = rest.iter().position(|&b| b == b' ')?;
        rest = rest[space..].trim_ascii_start();
    }
    Some((start..end, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_told_apart() {
        let file = b"7f00-8f00 r-xp 00000000 fe:00 1234                 /usr/lib/a b.so";
        assert_eq!(
            mapping(file),
            Some((0x7f00..0x8f00, &b"/usr/lib/a b.so"[..]))
        );
        assert_eq!(file_mapping(file), Some(0x7f00..0x8f00));
        let anonymous = b"7f00-8f00 rw-p 00000000 00:00 0 ";
        assert_eq!(file_mapping(anonymous), None);
        let vdso = b"7ffd000-7ffd200 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(mapping(vdso).map(|m| m.1), Some(&b"[vdso]"[..]));
        assert_eq!(mapping(b""), None);
        assert_eq!(mapping(b"zz-1 r"), None);
    }
}
