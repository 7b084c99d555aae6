//! Long runs of pages, brought in as huge folios.
//!
//! `readahead(2)` brings in single pages (mm/readahead.c, `force_page_cache_ra`), and most of
//! the processor time of a fast device's reads goes into making those. A fault in a mapping
//! that is to have huge pages reads the 2 MiB around it, as one folio
//! (mm/filemap.c, `do_sync_mmap_readahead`, since Linux 5.18, on filesystems that have large
//! folios), for a tenth of that. In a mapping that is said to be read at random it reads no
//! more than that, and no page counts as used (mm/memory.c, `vma_has_recency`), as with
//! `readahead(2)`.
//!
//! A byte of each page is read then, by the kernel: in a virtual machine whose host takes free
//! memory back (free page reporting) it takes back free blocks of this size, and has to give
//! them again when a processor first comes to each page; a device's write does not do. What
//! starts would wait for that: on such a machine `wc` of 500 MB took 0.38 s, warmed in blocks
//! and not touched, 0.08 s touched, and 0.13 s warmed by single pages, which lie in memory
//! between what is used. Warming took 0.75 s instead of 0.28. Beside a start, which needs the
//! processors itself, nothing is read in blocks.
//!
//! The kernel marks such a folio: whoever comes to it first is to have more read ahead
//! (PG_readahead), up to a window after it (mm/readahead.c, `page_cache_async_ra`). So a
//! block is read only where the plan goes on for as much after it, or to the file's end, and
//! that finds all there. (Without it `rustc`, of whose libraries parts are read, started in
//! 0.14 s instead of 0.06 after it was warmed from a disk of 100 MB/s with windows of 8 MiB:
//! it read 7 to 23 MiB that nobody wanted.)
//!
//! Whether a block came is looked at each time, so that it need not be known before where
//! this works; where it doesn't, one page was read.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::MemfdFlags;

use super::files::Source;
use super::submit::Outcome;
use super::work::Worker;
use super::{Lead, WarmOptions, sys};
use crate::model::ranges::union;
use crate::model::{Action, HUGE_PAGE_PAGES, PAGE_SIZE, Plan};

/// Pages of a block.
pub(super) const BLOCK_PAGES: u32 = HUGE_PAGE_PAGES as u32;

/// Pages of a stretch that is long enough to be read in blocks.
const LONG_PAGES: u64 = 2 * HUGE_PAGE_PAGES;

const BLOCK_BYTES: u64 = BLOCK_PAGES as u64 * PAGE_SIZE;

/// After so many blocks of a volume that did not come, one after the other, none is tried.
const MISSES: u32 = 2;

/// Longest that another's read waits behind the blocks in flight.
const WAIT_NS: f64 = 50e6;

/// Where the kernel says how large a huge page is, and whether it is to make any.
const SIZE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What may be read this way, and how much is.
#[derive(Debug)]
pub(super) struct HugeReads {
    /// Memory that a byte of each page goes to; `None`: nothing is read this way.
    sink: Option<OwnedFd>,
    /// Most bytes in flight.
    most: u64,
    in_flight: AtomicU64,
    /// For each volume: blocks that did not come, since the last that did.
    misses: Vec<AtomicU32>,
    stretches: Stretches,
}

/// By file: pages from, to before, that are planned one after the other, in whichever
/// actions, where those are many; in order.
#[derive(Debug, Default)]
struct Stretches(HashMap<u32, Vec<(u64, u64)>>);

/// One block, which may be read as long as this lives.
pub(super) struct Block<'a> {
    reads: &'a HugeReads,
    sink: &'a OwnedFd,
}

impl HugeReads {
    /// For an execution of `plan`. Where a [`super::Pace`] is to be kept to, none is read so:
    /// by a block nothing is found out of how long less takes.
    pub(super) fn of(options: &WarmOptions, plan: &Plan) -> Self {
        let pays = options.lead == Lead::Ahead && options.pace_to_keep().is_none();
        let most = match pays && are_made() {
            true => (options.cost.bytes_per_s * WAIT_NS / 1e9) as u64,
            false => 0,
        };
        let sink = (most >= BLOCK_BYTES).then(sink).flatten();
        let stretches = sink.as_ref().map(|_| Stretches::of(plan));
        Self {
            sink,
            most,
            in_flight: AtomicU64::new(0),
            misses: std::iter::repeat_with(AtomicU32::default)
                .take(plan.volumes.len())
                .collect(),
            stretches: stretches.unwrap_or_default(),
        }
    }

    /// May these pages, none of which is there, be read as a block? `None` too where so much
    /// is in flight that another's read would wait too long.
    pub(super) fn begin(&self, source: &Source, start_page: u64, pages: u32) -> Option<Block<'_>> {
        let is_block = pages == BLOCK_PAGES && start_page.is_multiple_of(BLOCK_PAGES.into());
        let misses = self.misses.get(source.volume as usize)?;
        let sink = self.sink.as_ref()?;
        if !is_block
            || !source.sight.allowed
            || !self.stretches.go_on(source, start_page)
            || misses.load(Ordering::Relaxed) >= MISSES
        {
            return None;
        }
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now + BLOCK_BYTES).filter(|&then| then <= self.most)
            })
            .ok()?;
        Some(Block { reads: self, sink })
    }
}

impl Stretches {
    fn of(plan: &Plan) -> Self {
        let mut files: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
        for action in &plan.actions {
            if let Action::Read {
                file,
                start_page,
                pages,
                ..
            } = *action
            {
                let end = start_page.saturating_add(pages.into());
                files.entry(file).or_default().push((start_page, end));
            }
        }
        for parts in files.values_mut() {
            *parts = union(std::mem::take(parts));
            parts.retain(|(start, end)| end - start >= LONG_PAGES);
        }
        files.retain(|_, parts| !parts.is_empty());
        Self(files)
    }

    /// Whether all is planned from this block of a file to a window of readahead after it.
    fn go_on(&self, source: &Source, start_page: u64) -> bool {
        let parts = source.file.and_then(|file| self.0.get(&file));
        let parts = parts.map(Vec::as_slice).unwrap_or_default();
        let begun = parts.partition_point(|&(start, _)| start <= start_page);
        let end = begun.checked_sub(1).map_or(0, |at| parts[at].1);
        let after = HUGE_PAGE_PAGES + source.window.div_ceil(PAGE_SIZE);
        let wanted = start_page.saturating_add(after);
        end >= wanted.min(source.pages)
    }
}

impl Block<'_> {
    /// Reads the block; whether all of it is there. What is not is still to be read, and
    /// nothing stands in the way of that. `vector` is scratch.
    pub(super) fn read(self, source: &Source, start_page: u64, vector: &mut Vec<u8>) -> bool {
        let pages = BLOCK_PAGES as usize;
        let faulted = sys::fault_block(source.fd(), start_page, pages, self.sink.as_fd(), vector);
        let came = faulted.is_ok() && vector.iter().all(|&resident| resident == 1);
        if faulted.is_err() {
            // Of a folio whose read failed not one page can be read, whichever it was.
            source.forget(start_page, BLOCK_PAGES.into());
        }
        if let Some(misses) = self.reads.misses.get(source.volume as usize) {
            match came {
                true => misses.store(0, Ordering::Relaxed),
                false => _ = misses.fetch_add(1, Ordering::Relaxed),
            }
        }
        came
    }
}

impl Worker<'_> {
    /// Reads pages, none of which is there, as a block, if they are to be; whether they came.
    pub(super) fn block(
        &mut self,
        source: &Arc<Source>,
        start: u64,
        pages: u32,
        vector: &mut Vec<u8>,
    ) -> bool {
        let shared = self.shared;
        let Some(block) = shared.huge.begin(source, start, pages) else {
            return false;
        };
        let Ok(flight) = self.may_read(source.volume, pages) else {
            return false;
        };
        self.take_in();
        let step = self.step(source, start, pages, flight);
        let read = || block.read(source, start, vector);
        let came = shared.on_volume(self.slot, source.volume, read);
        if came {
            self.settle(&step, Outcome::read(pages.into()));
        }
        came
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        let in_flight = &self.reads.in_flight;
        in_flight.fetch_sub(BLOCK_BYTES, Ordering::Relaxed);
    }
}

fn sink() -> Option<OwnedFd> {
    rustix::fs::memfd_create("headstart", MemfdFlags::CLOEXEC).ok()
}

/// Whether the kernel makes huge pages of a block's size for who asks for them.
fn are_made() -> bool {
    let says = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    says(SIZE).trim().parse() == Ok(BLOCK_BYTES) && !says(ENABLED).contains("[never]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceCost;
    use crate::warm::residency::Sight;
    use std::os::unix::fs::FileExt;

    fn reads(most: u64) -> HugeReads {
        HugeReads {
            sink: sink(),
            most,
            in_flight: AtomicU64::new(0),
            misses: vec![AtomicU32::new(0)],
            stretches: Stretches(HashMap::from([(0, vec![(0, u64::MAX)])])),
        }
    }

    /// A file of so many pages, none of which is in memory where its filesystem has a disk.
    fn source(pages: u64) -> Source {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("file");
        for at in 0..pages {
            file.write_all_at(&[1; PAGE_SIZE as usize], at * PAGE_SIZE)
                .expect("written");
        }
        file.sync_all().expect("clean");
        let mut source = Source::device(file.into(), pages * PAGE_SIZE, 0, 128 << 10);
        source.file = Some(0);
        source.sight = Sight {
            allowed: true,
            counts: true,
        };
        source.forget(0, pages);
        source
    }

    #[test]
    fn whole_blocks_of_files_only() {
        let (reads, mut source) = (reads(u64::MAX), source(1));
        assert!(reads.begin(&source, 1024, BLOCK_PAGES).is_some());
        assert!(reads.begin(&source, 1024, BLOCK_PAGES - 1).is_none());
        assert!(reads.begin(&source, 1025, BLOCK_PAGES).is_none());
        source.sight.allowed = false;
        assert!(reads.begin(&source, 0, BLOCK_PAGES).is_none(), "unseen");
        source.sight.allowed = true;
        source.file = None;
        assert!(reads.begin(&source, 0, BLOCK_PAGES).is_none(), "a device");
    }

    #[test]
    fn the_plan_goes_on_for_a_window_after_a_block() {
        let read = |file, start_page, pages| Action::Read {
            file,
            start_page,
            pages,
            gap_pages: 0,
            certain: true,
        };
        let plan = Plan {
            // In any order, and cut anywhere.
            actions: vec![read(0, 1500, 1500), read(1, 0, 1023), read(0, 512, 988)],
            ..Plan::default()
        };
        let mut reads = reads(u64::MAX);
        reads.stretches = Stretches::of(&plan);
        assert_eq!(reads.stretches.0.len(), 1, "the other is short");
        let mut source = source(0);
        source.window = 512 * PAGE_SIZE;
        source.pages = 4096;
        let begins = |source: &Source, at| reads.begin(source, at, BLOCK_PAGES).is_some();
        assert!(!begins(&source, 0));
        assert!(begins(&source, 512) && begins(&source, 1536));
        assert!(!begins(&source, 2048), "for less than a window");
        source.pages = 3000;
        assert!(begins(&source, 2048), "to the end");
        source.file = Some(1);
        assert!(!begins(&source, 0));
    }

    #[test]
    fn no_more_is_in_flight_than_others_may_wait_for() {
        let (reads, source) = (reads(2 * BLOCK_BYTES), source(1));
        let first = reads.begin(&source, 0, BLOCK_PAGES).expect("one of two");
        let _second = reads.begin(&source, 0, BLOCK_PAGES).expect("two of two");
        assert!(reads.begin(&source, 0, BLOCK_PAGES).is_none());
        drop(first);
        assert!(reads.begin(&source, 0, BLOCK_PAGES).is_some());
    }

    #[test]
    fn slow_devices_and_starts_under_way_get_no_blocks() {
        let of = |bytes_per_s, lead| {
            let options = WarmOptions {
                cost: DeviceCost {
                    bytes_per_s,
                    ..DeviceCost::UNMEASURED
                },
                lead,
                ..WarmOptions::default()
            };
            HugeReads::of(&options, &Plan::default()).most
        };
        assert!(of(20e6, Lead::Ahead) < BLOCK_BYTES);
        assert!(!are_made() || of(2e9, Lead::Ahead) > BLOCK_BYTES);
        assert_eq!(of(2e9, Lead::Beside), 0);
    }

    #[test]
    fn a_block_is_there_after_it_was_read_or_is_left_to_be_read() {
        let (reads, source) = (reads(u64::MAX), source(u64::from(BLOCK_PAGES) * 2));
        let mut vector = Vec::new();
        for start in [0, BLOCK_PAGES.into()] {
            let block = reads.begin(&source, start, BLOCK_PAGES).expect("a block");
            let came = block.read(&source, start, &mut vector);
            let there = vector.iter().filter(|&&resident| resident == 1).count();
            assert_eq!(came, there == BLOCK_PAGES as usize);
            assert!(there > 0, "the page of the fault");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_tried_for_long() {
        let (reads, source) = (reads(u64::MAX), source(1));
        let mut vector = Vec::new();
        for _ in 0..MISSES {
            // Past the end of the file.
            let block = reads.begin(&source, 512, BLOCK_PAGES).expect("a try");
            assert!(!block.read(&source, 512, &mut vector));
        }
        assert!(reads.begin(&source, 512, BLOCK_PAGES).is_none());
    }
}
