//! Whether the pages are there at the end.
//!
//! `mincore` is the proof: it counts pages that are up to date. `cachestat`
//! also counts those in flight and those whose read failed.

use std::sync::atomic::Ordering;

use super::engine::{Shared, lock};
use super::files::{Device, Source};
use super::residency::holes;
use super::submit::read_missing;
use super::work::Worker;
use crate::model::{Action, PAGE_SIZE};

/// Most pages, over a whole execution, that are read one by one because they
/// were not there at the check. More are missing only where memory is short,
/// and reading them again would push others out.
pub(super) const MAX_RETRIES: usize = 4096;

/// Pages that one look covers at most.
const MAX_SPAN: u64 = 1 << 16;

/// Wanted pages at most this far apart are looked at together.
const MAX_GAP: u64 = 512;

/// A file, or a volume's device, and the wanted ranges of it.
#[derive(Debug)]
pub(super) struct Check {
    /// Index of the file, or of the volume.
    of: Of,
    /// First page and pages, in order, disjoint.
    ranges: Vec<(u64, u64)>,
    /// Those that are known to be missing, in order.
    settled: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    Device(u32),
    File(u32),
}

/// What is to be checked, by file.
pub(super) fn checks(shared: &Shared) -> Vec<Check> {
    let mut wanted: Vec<(Of, u64, u64)> = Vec::new();
    for action in &shared.plan.actions {
        match *action {
            Action::Read {
                file,
                start_page,
                pages,
                ..
            } => wanted.push((Of::File(file), start_page, u64::from(pages))),
            Action::Blocks {
                volume,
                start_page,
                pages,
            } if shared.options.metadata => {
                wanted.push((Of::Device(volume), start_page, u64::from(pages)));
            }
            _ => {}
        }
    }
    wanted.sort_unstable();
    let mut checks: Vec<Check> = Vec::new();
    for (of, start, pages) in wanted {
        match checks.last_mut() {
            Some(check) if check.of == of => match check.ranges.last_mut() {
                // Overlapping or adjacent: a page is checked once.
                Some(last) if start <= last.0.saturating_add(last.1) => {
                    let end = start.saturating_add(pages);
                    last.1 = last.1.max(end - last.0);
                }
                _ => check.ranges.push((start, pages)),
            },
            _ => checks.push(Check {
                of,
                ranges: vec![(start, pages)],
                settled: Vec::new(),
            }),
        }
    }
    let mut settled = lock(&shared.settled).clone();
    settled.sort_unstable();
    for (of, start, pages) in settled {
        if let Ok(at) = checks.binary_search_by_key(&of, |check| check.of) {
            checks[at].settled.push((start, pages));
        }
    }
    checks
}

/// The parts of a range that no settled range covers.
pub(super) fn unsettled(settled: &[(u64, u64)], start: u64, end: u64) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut at = start;
    for &(from, pages) in settled {
        if from >= end {
            break;
        }
        if from > at {
            parts.push((at, from - at));
        }
        at = at.max(from.saturating_add(pages));
    }
    if at < end {
        parts.push((at, end - at));
    }
    parts
}

impl Worker<'_> {
    /// Checks until there is nothing left to check.
    pub(super) fn check(&mut self) {
        let shared = self.shared;
        let checks = lock(&shared.checks).clone();
        while !self.stopped() {
            let Some(check) = checks.get(self.next_check()) else {
                break;
            };
            self.check_one(check);
        }
    }

    fn check_one(&mut self, check: &Check) {
        let shared = self.shared;
        let source = match check.of {
            Of::File(file) => {
                let volume = shared.plan.files.get(file as usize).map(|f| f.volume);
                if volume.is_none_or(|v| shared.is_stuck(v)) {
                    return;
                }
                self.open(file, true).ok()
            }
            Of::Device(volume) if shared.is_stuck(volume) => None,
            Of::Device(volume) => {
                match shared.on_volume(self.slot, volume, || shared.device(volume)) {
                    Device::Open(source) => Some(source),
                    Device::Unreadable | Device::NoVolume => None,
                }
            }
        };
        // What could not be opened is counted already.
        let Some(source) = source else { return };
        // Only what exists; ranges too long for one look are cut.
        let mut pieces = Vec::with_capacity(check.ranges.len());
        for &(start, pages) in &check.ranges {
            let end = start.saturating_add(pages).min(source.pages);
            let mut at = start;
            while at < end {
                let length = (end - at).min(MAX_SPAN);
                pieces.push((at, length));
                at += length;
            }
        }
        let mut rest = &pieces[..];
        while let Some(&(start, _)) = rest.first() {
            if self.stopped() {
                return;
            }
            let mut count = 0;
            let mut end = start;
            for &(at, length) in rest {
                if count > 0 && (at - end > MAX_GAP || at + length - start > MAX_SPAN) {
                    break;
                }
                end = at + length;
                count += 1;
            }
            let (span, after) = rest.split_at(count);
            self.check_span(&source, span, &check.settled);
            rest = after;
        }
    }

    fn check_span(&mut self, source: &Source, span: &[(u64, u64)], settled: &[(u64, u64)]) {
        let (Some(first), Some(last)) = (span.first(), span.last()) else {
            return;
        };
        let (start, end) = (first.0, last.0 + last.1);
        let shared = self.shared;
        let mut vector = std::mem::take(&mut self.vector);
        let seen = shared.on_volume(self.slot, source.volume, || {
            source
                .sight
                .up_to_date(source.fd(), start, (end - start) as usize, &mut vector)
        });
        for &(at, pages) in span {
            if seen.is_err() {
                let bytes = pages * PAGE_SIZE;
                shared.unverified_bytes.fetch_add(bytes, Ordering::Relaxed);
                continue;
            }
            let from = (at - start) as usize;
            let part = &vector[from..from + pages as usize];
            for (hole, length) in holes(part) {
                let from = at + hole as u64;
                for (from, pages) in unsettled(settled, from, from + length as u64) {
                    self.missing(source, from, pages as usize);
                }
            }
        }
        self.vector = vector;
    }

    /// Pages that should be there and are not: reads them, to learn why.
    fn missing(&self, source: &Source, start: u64, pages: usize) {
        let shared = self.shared;
        let bytes = self.bytes_of(source);
        let allowed = MAX_RETRIES.saturating_sub(shared.retries.load(Ordering::Relaxed));
        let tried = pages.min(allowed);
        shared.retries.fetch_add(tried, Ordering::Relaxed);
        let settle = |start: u64, pages: u64| {
            let of = source.file.map_or(Of::Device(source.volume), Of::File);
            lock(&shared.settled).push((of, start, pages));
        };
        let untried = (pages - tried) as u64;
        if untried > 0 {
            bytes.retract(untried * PAGE_SIZE, &bytes.evicted);
            settle(start + tried as u64, untried);
        }
        if tried == 0 {
            return;
        }
        source.will_be_read();
        let outcome = shared.on_volume(self.slot, source.volume, || {
            // All of them at once, so that each page's read below finds it coming.
            ask_for(source, start, tried as u64);
            read_missing(source, start, &vec![0; tried], super::submit::MAX_RETRIES)
        });
        bytes.retract(outcome.gone * PAGE_SIZE, &bytes.gone);
        if outcome.gone > 0 {
            settle(start, tried as u64);
        }
        for failed in &outcome.failed {
            bytes.retract(failed.pages * PAGE_SIZE, &bytes.failed);
            settle(failed.start_page, failed.pages);
            self.name_failure(source, failed.errno, failed.start_page, failed.pages);
        }
    }
}

/// Asks for pages, by as many calls as that takes; what fails is seen when they are read.
fn ask_for(source: &Source, start: u64, pages: u64) {
    let (mut at, end) = (start * PAGE_SIZE, (start + pages) * PAGE_SIZE);
    while at < end {
        let bytes = source.window.max(PAGE_SIZE).min(end - at);
        if super::sys::readahead(source.fd(), at, bytes).is_err() {
            break;
        }
        at += bytes;
    }
}
