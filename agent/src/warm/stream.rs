//! Long runs of pages, read as a program reads a mapping from one end to the other.
//!
//! `readahead(2)` brings in single pages (mm/readahead.c, `force_page_cache_ra`). The
//! readahead that the kernel begins by itself for one who reads on in order brings in
//! folios that grow as it goes on (`page_cache_ra_order`, since Linux 5.18, on
//! filesystems that have them): the device's reads take less processor time then, and so
//! does whoever reads the pages afterwards. Of a mapping that is said to be read in order
//! no page counts as used (mm/memory.c, `vma_has_recency`), as with `readahead(2)`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, MemfdFlags};

use super::files::Source;
use super::lookup::Reopener;
use super::{Lead, WarmOptions, sys};
use crate::model::PAGE_SIZE;

/// Fewest pages that are worth it: folios begin small.
pub(super) const LEAST_PAGES: u32 = 1024;

/// Pages that one thread takes at a time. Where the next takes over, folios begin small
/// again.
pub(super) const UNIT_PAGES: u32 = 1 << 18;

/// Pages that are read between two looks at whether to stop.
pub(super) const STEP_PAGES: u32 = 256;

/// Bytes a second of a device from which on faults are what bounds them: on one of 1.1 GB/s
/// streams brought in 1.15 times what `readahead(2)` did, on one of 1.8 GB/s 0.7 times
/// (docs/benchmarks.md, "Warm rate", of both).
const FASTEST: f64 = 1.4e9;

/// Longest that another's read waits behind what all streams have in flight.
const WAIT_NS: f64 = 50e6;

/// What may be read this way, and how much is.
#[derive(Debug)]
pub(super) struct Streams {
    /// Memory that a byte of each page goes to; `None`: nothing is read this way.
    sink: Option<OwnedFd>,
    reopener: Reopener,
    bytes_per_s: f64,
    /// Bytes that may be in flight for those under way.
    in_flight: AtomicU64,
}

/// One run that is being read.
pub(super) struct Stream<'a> {
    streams: &'a Streams,
    sink: BorrowedFd<'a>,
    /// A description of its own: the kernel's readahead is one description's.
    file: OwnedFd,
    in_flight: u64,
}

impl Streams {
    /// None beside a start, which reads in order itself, nor where a window of readahead, or
    /// the processor, does not keep the device busy; nor where a [`super::Pace`] is to be
    /// kept to: the kernel's readahead does not.
    pub(super) fn of(options: &WarmOptions) -> Self {
        let sink = || rustix::fs::memfd_create("headstart", MemfdFlags::CLOEXEC).ok();
        let cost = &options.cost;
        let keeps_a_pace = options.pace_to_keep().is_some();
        let keeps_up = cost.readahead_keeps_up() && cost.bytes_per_s <= FASTEST;
        let pays = options.lead == Lead::Ahead && !keeps_a_pace && keeps_up;
        Self {
            sink: pays.then(sink).flatten(),
            reopener: Reopener::default(),
            bytes_per_s: cost.bytes_per_s,
            in_flight: AtomicU64::new(0),
        }
    }

    /// How many pages of a run one thread takes; `None` where it is read otherwise.
    pub(super) fn unit(&self, pages: u32) -> Option<u32> {
        (self.sink.is_some() && pages >= LEAST_PAGES).then_some(UNIT_PAGES)
    }

    /// How many pages of a run to read this way: the kernel reads on past where a reader
    /// is, by two windows of twice the usual size at most, and nothing is to be read past
    /// the run's end. A file's end is the end of that, too.
    pub(super) fn share(source: &Source, start_page: u64, pages: u32) -> u32 {
        if start_page + u64::from(pages) >= source.pages {
            return pages;
        }
        let past = source.window.saturating_mul(4) / PAGE_SIZE;
        pages.saturating_sub(u32::try_from(past).unwrap_or(u32::MAX))
    }

    /// Begins one, unless so much is in flight already that another's read would wait
    /// too long.
    pub(super) fn begin(&self, source: &Source, pages: u32) -> Option<Stream<'_>> {
        let sink = self.sink.as_ref().filter(|_| pages >= LEAST_PAGES)?;
        // A reader in order gets twice the window (mm/fadvise.c).
        let bytes = source.window.saturating_mul(2);
        let most = (self.bytes_per_s * WAIT_NS / 1e9) as u64;
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(bytes).filter(|&then| then <= most)
            })
            .ok()?;
        let given_back = || self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
        let Ok(file) = self.reopener.open(source.fd()) else {
            given_back();
            return None;
        };
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        Some(Stream {
            streams: self,
            sink: sink.as_fd(),
            file,
            in_flight: bytes,
        })
    }
}

impl Stream<'_> {
    /// Reads pages; whether all of them are there. Where they aren't, the file has shrunk,
    /// its device fails, or its filesystem has no mappings.
    pub(super) fn read(&self, start_page: u64, pages: u32) -> bool {
        let wanted = pages as usize;
        sys::touch(self.file.as_fd(), start_page, wanted, self.sink).is_ok_and(|n| n == wanted)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let bytes = self.in_flight;
        self.streams.in_flight.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceCost;

    const FAST: DeviceCost = DeviceCost {
        bytes_per_s: 1e9,
        latency_ns: 1e5,
        readahead_bytes: 8 << 20,
        ..DeviceCost::UNMEASURED
    };

    fn streams(cost: DeviceCost, lead: Lead) -> Streams {
        Streams::of(&WarmOptions {
            cost,
            lead,
            ..WarmOptions::default()
        })
    }

    fn source(dir: &tempfile::TempDir, window: u64) -> Source {
        let file = std::fs::File::create_new(dir.path().join(window.to_string())).expect("new");
        file.set_len(1 << 20).expect("longer");
        let fd = std::fs::File::open(dir.path().join(window.to_string())).expect("opens");
        Source::device(fd.into(), 1 << 20, 0, window)
    }

    #[test]
    fn long_runs_ahead_of_a_start_where_readahead_keeps_up() {
        let ahead = streams(FAST, Lead::Ahead);
        assert_eq!(ahead.unit(LEAST_PAGES), Some(UNIT_PAGES));
        assert_eq!(ahead.unit(LEAST_PAGES - 1), None);
        assert_eq!(streams(FAST, Lead::Beside).unit(u32::MAX), None);
        let small_window = DeviceCost {
            readahead_bytes: 128 << 10,
            ..FAST
        };
        assert_eq!(streams(small_window, Lead::Ahead).unit(u32::MAX), None);
        let faster = DeviceCost {
            bytes_per_s: FASTEST * 2.0,
            readahead_bytes: u64::MAX,
            ..FAST
        };
        assert_eq!(streams(faster, Lead::Ahead).unit(u32::MAX), None);
    }

    #[test]
    fn no_more_is_in_flight_than_others_may_wait_for() {
        let dir = tempfile::tempdir().expect("dir");
        let streams = streams(FAST, Lead::Ahead);
        // 50 ms of 1 GB/s.
        let source = source(&dir, 10_000_000);
        let first = streams.begin(&source, LEAST_PAGES).expect("20 of 50 MB");
        let second = streams.begin(&source, LEAST_PAGES).expect("40 of 50 MB");
        assert!(streams.begin(&source, LEAST_PAGES).is_none());
        drop(first);
        assert!(streams.begin(&source, LEAST_PAGES).is_some());
        drop(second);
    }

    #[test]
    fn it_reads_to_the_end_of_the_file() {
        let dir = tempfile::tempdir().expect("dir");
        let streams = streams(FAST, Lead::Ahead);
        let source = source(&dir, 4096);
        let stream = streams.begin(&source, LEAST_PAGES).expect("room");
        assert!(stream.read(0, 256));
        assert!(!stream.read(255, 2), "there is no page 256");
    }
}
