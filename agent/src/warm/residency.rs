//! Which pages are in the page cache.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys;
use crate::model::PAGE_SIZE;

/// What may be asked about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// The kernel tells this process the truth. To one that neither owns nor
    /// may write the file, mincore says that everything is resident.
    pub(super) allowed: bool,
    /// `cachestat` counts the pages that reads will use. On overlayfs it always
    /// says 0, while a mapping is one of the lower file.
    pub(super) counts: bool,
}

/// Pages of a range that are not resident.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Not known: read them all.
    Unknown,
    /// None.
    None,
    /// All.
    All,
    /// Those that are 0 in the vector.
    Some,
}

impl Sight {
    /// What has to be read of a range. `vector` is filled for [`Missing::Some`].
    ///
    /// `exactly`: every page that is not missing is there and up to date. Otherwise
    /// one may be in flight, or its read may have failed under somebody else.
    pub(super) fn missing(
        self,
        fd: BorrowedFd<'_>,
        start_page: u64,
        pages: u32,
        vector: &mut Vec<u8>,
        exactly: bool,
    ) -> Missing {
        if !self.allowed {
            return Missing::Unknown;
        }
        let (from, bytes) = (start_page * PAGE_SIZE, u64::from(pages) * PAGE_SIZE);
        let mut counted = 0;
        if self.counts {
            match sys::cachestat(fd, from, bytes) {
                Ok(0) => return Missing::All,
                // Mapping takes ten times as long, and threads wait for one another
                // to do it.
                Ok(n) if n == system_pages(from, bytes) && !exactly => return Missing::None,
                Ok(n) => counted = n,
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => return Missing::Unknown,
                Err(_) => {}
            }
        }
        if sys::mincore(fd, start_page, pages as usize, vector).is_err() {
            return Missing::Unknown;
        }
        let resident: u64 = vector.iter().map(|&r| u64::from(r)).sum();
        if counted > system_pages(0, resident * PAGE_SIZE) {
            // Counted, but not up to date: in flight, or their read failed. Readahead
            // passes over what is in the cache, so that pages that failed would have to
            // be read one by one. Those in flight are locked, and stay.
            for (at, length) in holes(vector) {
                sys::drop_pages(fd, start_page + at as u64, length as u64);
            }
        }
        match resident {
            n if n == u64::from(pages) => Missing::None,
            0 => Missing::All,
            _ => Missing::Some,
        }
    }

    /// Fills `vector` with 1 for each page that is there and up to date: pages
    /// in flight, and pages whose read failed, are not.
    ///
    /// # Errors
    /// It can't be known.
    pub(super) fn up_to_date(
        self,
        fd: BorrowedFd<'_>,
        start_page: u64,
        pages: usize,
        vector: &mut Vec<u8>,
    ) -> io::Result<()> {
        if !self.allowed {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        sys::mincore(fd, start_page, pages, vector)
    }
}

/// Pages of the system, which may be larger than ours, that a range touches.
fn system_pages(from: u64, bytes: u64) -> u64 {
    let system = rustix::param::page_size() as u64;
    (from + bytes).div_ceil(system) - from / system
}

/// Maximal runs of zeros: (index, length).
pub(super) fn holes(vector: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += vector[at..].iter().position(|&r| r == 0)?;
        let length = vector[at..].iter().take_while(|&&r| r == 0).count();
        let hole = (at, length);
        at += length;
        Some(hole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_of_zeros() {
        let found: Vec<_> = holes(&[0, 1, 0, 0, 1, 1, 0]).collect();
        assert_eq!(found, [(0, 1), (2, 2), (6, 1)]);
        assert_eq!(holes(&[]).count(), 0);
    }

    proptest! {
        #[test]
        fn holes_cover_the_zeros(vector in proptest::collection::vec(0u8..2, 0..64)) {
            let mut filled = vector.clone();
            for (at, length) in holes(&vector) {
                filled[at..at + length].fill(1);
            }
            prop_assert!(filled.iter().all(|&r| r == 1));
            let zeros = vector.iter().filter(|&&r| r == 0).count();
            prop_assert_eq!(holes(&vector).map(|h| h.1).sum::<usize>(), zeros);
        }
    }
}
