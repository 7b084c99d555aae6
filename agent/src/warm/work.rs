//! What one thread does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::cursor::{Cursor, Part};
use super::engine::{Shared, Slot, lock};
use super::files::{Device, Refusal, Source};
use super::huge::BLOCK_PAGES;
use super::pace::Flight;
use super::progress::Bytes;
use super::rate::PAUSE;
use super::report::FailureKind;
use super::residency::{Missing, holes};
use super::submit::{Depth, Limits, Outcome, Step, Window};
use super::verify::Of;
use crate::model::{Action, PAGE_SIZE};

/// Least time between two looks at what has come by itself, µs: a look costs a system call
/// and is as exact as anybody asks when something came.
const LOOK_US: u32 = 250;

/// Pages to read, or a name.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Name(u32),
    Blocks(u32, u64, u32),
    Read(u32, u64, u32),
}

/// Nothing more is to be begun.
#[derive(Debug)]
pub(super) struct Stopped;

/// One thread.
pub(super) struct Worker<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) slot: &'a Slot,
    /// What it begins with.
    part: Part,
    /// Index of the action after the data that it reads.
    at: usize,
    depth: Depth,
    window: Window,
    /// When it was last looked what has come by itself, µs since the execution began.
    looked_us: u32,
    /// Scratch: one byte a page.
    pub(super) vector: Vec<u8>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, slot: &'a Slot, part: Part, depth: Depth) -> Self {
        Self {
            shared,
            slot,
            part,
            at: 0,
            depth,
            window: Window::default(),
            looked_us: 0,
            vector: Vec::new(),
        }
    }

    /// Whether to begin nothing more.
    pub(super) fn stopped(&self) -> bool {
        self.slot.is_abandoned() || self.shared.stopped()
    }

    /// Works until the plan is handed out, then waits for what is in flight.
    pub(super) fn warm(&mut self) {
        while !self.stopped() {
            self.take_in();
            let unit = self
                .next_unit(self.part)
                .or_else(|| self.next_unit(self.part.other()));
            let Some(unit) = unit else { break };
            match unit {
                Unit::Name(name) => self.name(name),
                Unit::Blocks(volume, start, pages) => self.blocks(volume, start, pages),
                Unit::Read(file, start, pages) => self.read(file, start, pages),
            }
        }
        self.finish_all();
    }

    fn next_unit(&mut self, part: Part) -> Option<Unit> {
        let cursors = &self.shared.cursors;
        match part {
            Part::Names => {
                let mut cursor = lock(&cursors.names);
                let unit = self.next_of(part, &mut cursor);
                let at = unit.map_or(usize::MAX, |_| cursor.action);
                cursors.names_at.store(at, Ordering::Relaxed);
                unit
            }
            Part::Data => {
                let mut cursor = lock(&cursors.data);
                let unit = self.next_of(part, &mut cursor);
                self.at = cursor.action;
                unit
            }
        }
    }

    fn next_of(&self, part: Part, cursor: &mut Cursor) -> Option<Unit> {
        let shared = self.shared;
        if part == Part::Names && !shared.options.metadata {
            return None;
        }
        let rest = shared.plan.actions.get(cursor.action..)?;
        let Some(next) = rest.iter().position(|&action| part.has(action)) else {
            cursor.action += rest.len();
            return None;
        };
        cursor.action += next;
        let from = cursor.page;
        // A block at a time, so that several threads share a large read.
        let mut take = |start_page: u64, pages: u32| {
            let within = (start_page.wrapping_add(from.into()) % u64::from(BLOCK_PAGES)) as u32;
            let count = (pages - from).min(BLOCK_PAGES - within);
            let ends = from + count == pages;
            (cursor.action, cursor.page) = if ends {
                (cursor.action + 1, 0)
            } else {
                (cursor.action, from + count)
            };
            (count, ends)
        };
        match rest[next] {
            Action::Name { name } => {
                cursor.action += 1;
                Some(Unit::Name(name))
            }
            Action::Blocks {
                volume,
                start_page,
                pages,
            } => {
                let (count, _) = take(start_page, pages);
                Some(Unit::Blocks(
                    volume,
                    start_page.saturating_add(from.into()),
                    count,
                ))
            }
            Action::Read {
                file,
                start_page,
                pages,
                ..
            } => {
                let (count, ends) = take(start_page, pages);
                if ends {
                    shared.files.begun(file);
                }
                Some(Unit::Read(
                    file,
                    start_page.saturating_add(from.into()),
                    count,
                ))
            }
        }
    }

    /// What this thread may have in flight now: little while there are look-ups
    /// to come that are needed before its data.
    fn limits(&self) -> Limits {
        let limits = if self.shared.cursors.names_at.load(Ordering::Relaxed) < self.at {
            self.depth.before_names
        } else {
            self.depth.after_names
        };
        match self.shared.options.pace_to_keep() {
            None => limits,
            Some(pace) => limits.within(pace.share(self.shared.threads)),
        }
    }

    fn blocks(&mut self, volume: u32, start: u64, pages: u32) {
        let shared = self.shared;
        if shared.is_stuck(volume) {
            return;
        }
        let (counts, bytes) = (&shared.progress.blocks, u64::from(pages) * PAGE_SIZE);
        match shared.on_volume(self.slot, volume, || shared.device(volume)) {
            Device::Open(device) => self.pages(&device, start, pages),
            Device::Unreadable => counts.skipped.add(bytes),
            Device::NoVolume => counts.failed.add(bytes),
        }
    }

    fn read(&mut self, file: u32, start: u64, pages: u32) {
        let shared = self.shared;
        let bytes = u64::from(pages) * PAGE_SIZE;
        let data = &shared.progress.data;
        let Some(volume) = shared.plan.files.get(file as usize).map(|f| f.volume) else {
            data.failed.add(bytes);
            return;
        };
        if shared.is_stuck(volume) {
            return;
        }
        // Opening reads directories and inodes, where they are not in memory.
        let Ok(opening) = self.may_ask(volume, 0) else {
            return;
        };
        let mut opened = self.open(file, false);
        for tries in (0..4).rev() {
            if !opened.as_ref().is_err_and(|r| r.is_temporary()) || self.stopped() {
                break;
            }
            // Our own reads in flight hold descriptors; so do others'.
            self.finish_all();
            std::thread::sleep(Duration::from_millis(1));
            opened = self.open(file, tries == 0);
        }
        drop(opening);
        match opened {
            Ok(source) => self.pages(&source, start, pages),
            Err(refusal) if refusal.kind.is_none() => data.gone.add(bytes),
            Err(_) => data.failed.add(bytes),
        }
    }

    /// The file, open; may block.
    pub(super) fn open(&self, index: u32, last_try: bool) -> Result<Arc<Source>, Refusal> {
        let shared = self.shared;
        let no_volume = Refusal {
            kind: Some(FailureKind::Volume),
            errno: Errno::NODEV,
        };
        let file = shared.plan.files.get(index as usize).ok_or(no_volume)?;
        shared.on_volume(self.slot, file.volume, || {
            let Some(root) = shared.root(file.volume) else {
                shared.files.fail_name(index, &shared.progress);
                return Err(no_volume);
            };
            shared
                .files
                .get(index, file, root, &shared.progress, last_try, |refusal| {
                    if let Some(kind) = refusal.kind {
                        let path = file.path.as_bytes();
                        shared.fail_at(
                            file.volume,
                            path,
                            kind,
                            refusal.errno,
                            0,
                            file.version.size,
                        );
                    }
                })
        })
    }

    /// Brings pages of an open source in, except those that are there.
    fn pages(&mut self, source: &Arc<Source>, start: u64, pages: u32) {
        let shared = self.shared;
        let bytes = self.bytes_of(source);
        let there = source.pages.saturating_sub(start).min(u64::from(pages)) as u32;
        bytes.gone.add(u64::from(pages - there) * PAGE_SIZE);
        if there == 0 {
            return;
        }
        let mut vector = std::mem::take(&mut self.vector);
        // What is checked at the end is only what was read.
        let exactly = shared.options.verify;
        let missing = shared.on_volume(self.slot, source.volume, || {
            let sight = source.sight;
            sight.missing(source.fd(), start, there, &mut vector, exactly)
        });
        let us = shared.now_us();
        match missing {
            Missing::None => {
                bytes.resident_before.add(u64::from(there) * PAGE_SIZE);
                shared.arrivals.found(source, start, there, us);
            }
            Missing::All if self.block(source, start, there, &mut vector) => {}
            Missing::All | Missing::Unknown => self.submit(source, start, there),
            Missing::Some => {
                let resident: u64 = vector.iter().map(|&r| u64::from(r)).sum();
                bytes.resident_before.add(resident * PAGE_SIZE);
                let mut seen = 0;
                let end = (vector.len(), 0);
                for (at, length) in holes(&vector).chain([end]) {
                    if at > seen {
                        let (from, pages) = (start + seen as u64, (at - seen) as u32);
                        shared.arrivals.found(source, from, pages, us);
                    }
                    if length > 0 {
                        self.submit(source, start + at as u64, length as u32);
                    }
                    seen = at + length;
                }
            }
        }
        self.vector = vector;
    }

    /// Waits until so many pages may be read; see [`Worker::may_ask`].
    pub(super) fn may_read(&mut self, volume: u32, pages: u32) -> Result<Option<Flight>, Stopped> {
        let bytes = u64::from(pages) * PAGE_SIZE;
        let mut rates = self.shared.options.rates.iter();
        if !rates.all(|rate| rate.take(bytes, || self.stopped())) {
            return Err(Stopped);
        }
        self.may_ask(volume, bytes)
    }

    /// Waits until a volume's disk may be asked for something, so many bytes of data among it. Where a
    /// pace is to be kept: what that has in flight.
    ///
    /// # Errors
    /// It is to stop.
    pub(super) fn may_ask(&mut self, volume: u32, bytes: u64) -> Result<Option<Flight>, Stopped> {
        let shared = self.shared;
        let Some(pace) = shared.options.pace_to_keep() else {
            return Ok(None);
        };
        // By its root it is known which disk that is, and so whose use of disks matters.
        shared.on_volume(self.slot, volume, || shared.root(volume));
        while !self.stopped() {
            // What this thread has in flight is not to keep others waiting for quiet.
            if pace.is_quiet() {
                self.take_in();
                self.finish_all();
            }
            match pace.take(bytes) {
                Ok(flight) => {
                    if flight.in_turn().is_some() && bytes > 0 {
                        shared.progress.in_turns.add(1);
                    }
                    return Ok(Some(flight));
                }
                Err(wait) => std::thread::sleep(wait.min(PAUSE)),
            }
        }
        Err(Stopped)
    }

    /// Waits for all that this thread has in flight.
    fn finish_all(&mut self) {
        while let Some(step) = self.window.pop() {
            self.finish(&step);
            // What was only looked at tells nothing of how long it takes.
            if !self.stopped() {
                self.tell_pace(&step);
            }
        }
    }

    /// Asks for pages, step by step.
    fn submit(&mut self, source: &Arc<Source>, start: u64, pages: u32) {
        source.will_be_read();
        let mut at = 0;
        while at < pages && !self.stopped() {
            let limits = self.limits();
            let count = (pages - at).min(limits.step_pages(source));
            let Ok(flight) = self.may_read(source.volume, count) else {
                return;
            };
            let in_turn = flight.as_ref().and_then(Flight::in_turn);
            // Others may have been heard since.
            let most = in_turn.map_or(count, |bytes| (bytes / PAGE_SIZE) as u32);
            let count = count.min(most);
            self.take_in();
            let step = self.step(source, start + u64::from(at), count, flight);
            at += count;
            while let Some(oldest) = self.window.must_wait(step.bytes(), limits) {
                self.finish(&oldest);
                self.tell_pace(&oldest);
            }
            let done = self
                .shared
                .on_volume(self.slot, source.volume, || step.start());
            match done {
                None if in_turn.is_some() => {
                    self.window.push(step);
                    self.finish_all();
                }
                None => self.window.push(step),
                Some(outcome) => self.settle(&step, outcome),
            }
        }
    }

    /// A read that is asked for now.
    pub(super) fn step(
        &self,
        source: &Arc<Source>,
        start_page: u64,
        pages: u32,
        flight: Option<Flight>,
    ) -> Step {
        Step {
            source: source.clone(),
            start_page,
            pages,
            asked_us: self.shared.now_us(),
            _flight: flight,
        }
    }

    /// Tells of a read that was waited for.
    fn tell_pace(&self, step: &Step) {
        let asked = Duration::from_micros(step.asked_us.into());
        if let Some(pace) = self.shared.options.pace_to_keep() {
            let asked = self.shared.began + asked;
            pace.came(step.bytes(), asked, Instant::now());
        }
    }

    /// Takes in what has come by itself, so that it is known when it came.
    pub(super) fn take_in(&mut self) {
        let now_us = self.shared.now_us();
        if now_us.saturating_sub(self.looked_us) < LOOK_US {
            return;
        }
        self.looked_us = now_us;
        while let Some(step) = self.window.pop_if_there() {
            if let Some(pace) = self.shared.options.pace_to_keep() {
                pace.came_by_itself(step.bytes());
            }
            self.settle(&step, Outcome::read(step.pages.into()));
        }
    }

    /// Waits for a step, or only looks when there is no time.
    fn finish(&self, step: &Step) {
        let volume = step.source.volume;
        if self.stopped() || self.shared.is_stuck(volume) {
            self.settle(step, Outcome::read(step.peek()));
            return;
        }
        let outcome = self.shared.on_volume(self.slot, volume, || step.wait());
        self.settle(step, outcome);
    }

    pub(super) fn settle(&self, step: &Step, outcome: Outcome) {
        let bytes = self.bytes_of(&step.source);
        bytes.read.add(outcome.read * PAGE_SIZE);
        // Pages that failed or are gone are settled as missing below; of one that was only
        // looked at it is not known which are there.
        let failed = outcome.failed.iter().map(|failed| failed.pages);
        let accounted = outcome.read + outcome.gone + failed.sum::<u64>();
        if outcome.read > 0 && accounted == u64::from(step.pages) {
            self.shared.arrivals.came(step, self.shared.now_us());
        }
        bytes.gone.add(outcome.gone * PAGE_SIZE);
        let of = match step.source.file {
            Some(file) => Of::File(file),
            None => Of::Device(step.source.volume),
        };
        if outcome.gone > 0 {
            let pages = u64::from(step.pages);
            lock(&self.shared.settled).push((of, step.start_page, pages));
        }
        for failed in &outcome.failed {
            lock(&self.shared.settled).push((of, failed.start_page, failed.pages));
            bytes.failed.add(failed.pages * PAGE_SIZE);
            self.name_failure(&step.source, failed.errno, failed.start_page, failed.pages);
        }
    }

    /// Reports pages whose read failed.
    pub(super) fn name_failure(&self, source: &Source, errno: Errno, start: u64, pages: u64) {
        source.forget(start, pages);
        let file = source
            .file
            .and_then(|at| self.shared.plan.files.get(at as usize));
        let path = file.map(|f| f.path.as_bytes()).unwrap_or_default();
        let kind = match Refusal::of(errno).kind {
            Some(FailureKind::Denied) => FailureKind::Denied,
            _ => FailureKind::Read,
        };
        let bytes = pages * PAGE_SIZE;
        self.shared
            .fail_at(source.volume, path, kind, errno, start, bytes);
    }

    pub(super) fn bytes_of(&self, source: &Source) -> &'a Bytes {
        match source.file {
            Some(_) => &self.shared.progress.data,
            None => &self.shared.progress.blocks,
        }
    }

    /// Takes the next check, if there is one.
    pub(super) fn next_check(&self) -> usize {
        self.shared.next_check.fetch_add(1, Ordering::Relaxed)
    }
}
