//! A profile becomes a message.

use std::collections::HashMap;

use prost::Message;

use crate::model::{NameKind, Profile, RunMask};

use super::super::extents::newest;
use super::super::wire;
use super::column::Writer;

pub(super) fn message(name: &str, profile: &Profile) -> Vec<u8> {
    let step = time_step(profile);
    let mut histories = Histories::default();
    let mut message = wire::Profile {
        name: name.to_owned(),
        runs: profile
            .runs
            .iter()
            .map(|run| wire::Run {
                id: run.id,
                started_ms: run.started_ms,
                duration_ns: run.duration_ns,
                exact: run.exact,
                blind_ns: run.blind_ns,
            })
            .collect(),
        volumes: profile
            .volumes
            .iter()
            .map(|volume| wire::Volume {
                id: volume.id.0.clone(),
                fs_type: volume.fs_type.clone(),
                mount_point: volume.mount_point.clone(),
            })
            .collect(),
        files: Some(files(profile, step, &mut histories)),
        names: Some(names(profile, step, &mut histories)),
        blocks: Some(blocks(profile, step, &mut histories)),
        time_step_ns: step,
        histories: None,
    };
    message.histories = Some(wire::Histories {
        certain: histories.certain.finish(),
        seen: histories.seen.finish(),
    });
    message.encode_to_vec()
}

/// The coarsest of a few units in which every first use is a whole number.
fn time_step(profile: &Profile) -> u64 {
    let files = profile.files.iter().flat_map(|f| &f.extents);
    let mut times = files
        .map(|e| e.first_use_ns)
        .chain(profile.names.iter().map(|n| n.first_use_ns))
        .chain(profile.blocks.iter().map(|b| b.first_use_ns));
    if times.all(|ns| ns.is_multiple_of(1_000)) {
        1_000
    } else {
        1
    }
}

#[derive(Default)]
struct Histories {
    known: HashMap<(RunMask, RunMask), u32>,
    certain: Writer,
    seen: Writer,
}

impl Histories {
    fn index(&mut self, certain: RunMask, seen: RunMask) -> u32 {
        let next = self.known.len() as u32;
        *self.known.entry((certain, seen)).or_insert_with(|| {
            self.certain.push(certain);
            self.seen.push(seen);
            next
        })
    }
}

struct Extents {
    step: u64,
    end: u64,
    gap: Writer,
    pages: Writer,
    first_use: Writer,
    history: Writer,
}

impl Extents {
    fn new(step: u64, count: usize) -> Self {
        Extents {
            step,
            end: 0,
            gap: Writer::with_capacity(count),
            pages: Writer::with_capacity(count),
            first_use: Writer::with_capacity(2 * count),
            history: Writer::with_capacity(count),
        }
    }

    fn push(&mut self, start_page: u64, pages: u32, first_use_ns: u64, history: u32) {
        self.gap.push(start_page.wrapping_sub(self.end));
        self.end = start_page.wrapping_add(u64::from(pages));
        self.pages.push(pages);
        self.first_use.push_delta(first_use_ns / self.step);
        self.history.push(history);
    }

    fn finish(self) -> Option<wire::ExtentColumns> {
        Some(wire::ExtentColumns {
            gap: self.gap.finish(),
            pages: self.pages.finish(),
            first_use_delta: self.first_use.finish(),
            history: self.history.finish(),
        })
    }
}

fn files(profile: &Profile, step: u64, histories: &mut Histories) -> wire::Files {
    let count = profile.files.len();
    let mut volume = Writer::with_capacity(count);
    let mut path = Vec::with_capacity(64 * count);
    let mut size = Writer::with_capacity(3 * count);
    let mut mtime = Writer::with_capacity(9 * count);
    let mut extents = Writer::with_capacity(count);
    let mut changed = Writer::with_capacity(count);
    let any_changed = profile.files.iter().any(|f| f.changed != 0);
    let mut extent = Extents::new(step, profile.extent_count());
    for file in &profile.files {
        volume.push(file.volume);
        path.extend_from_slice(file.path.as_bytes());
        path.push(0);
        size.push(file.version.size);
        mtime.push_delta(file.version.mtime_ns as u64);
        extents.push(file.extents.len() as u64);
        if any_changed {
            changed.push(newest(file.changed));
        }
        extent.end = 0;
        for e in &file.extents {
            let history = histories.index(e.certain, e.seen);
            extent.push(e.start_page, e.pages, e.first_use_ns, history);
        }
    }
    wire::Files {
        volume: volume.finish(),
        path: path.into(),
        size: size.finish(),
        mtime_delta_ns: mtime.finish(),
        extents: extents.finish(),
        extent: extent.finish(),
        changed: changed.finish(),
    }
}

fn names(profile: &Profile, step: u64, histories: &mut Histories) -> wire::Names {
    let count = profile.names.len();
    let mut volume = Writer::with_capacity(count);
    let mut path = Vec::with_capacity(64 * count);
    let mut kind = Writer::with_capacity(count);
    let mut listed = Writer::with_capacity(count);
    let mut first_use = Writer::with_capacity(2 * count);
    let mut history = Writer::with_capacity(count);
    for name in &profile.names {
        volume.push(name.volume);
        path.extend_from_slice(name.path.as_bytes());
        path.push(0);
        kind.push(match name.kind {
            NameKind::File => 0_u32,
            NameKind::Directory => 1,
            NameKind::Symlink => 2,
            NameKind::Missing => 3,
        });
        listed.push(name.listed);
        first_use.push_delta(name.first_use_ns / step);
        history.push(histories.index(0, name.seen));
    }
    wire::Names {
        volume: volume.finish(),
        path: path.into(),
        kind: kind.finish(),
        listed: listed.finish(),
        first_use_delta: first_use.finish(),
        history: history.finish(),
    }
}

fn blocks(profile: &Profile, step: u64, histories: &mut Histories) -> wire::Blocks {
    let count = profile.blocks.len();
    let mut volume = Writer::with_capacity(count);
    let mut extent = Extents::new(step, count);
    let mut last = None;
    for block in &profile.blocks {
        volume.push(block.volume);
        if last != Some(block.volume) {
            extent.end = 0;
        }
        last = Some(block.volume);
        let history = histories.index(0, block.seen);
        extent.push(block.start_page, block.pages, block.first_use_ns, history);
    }
    wire::Blocks {
        volume: volume.finish(),
        extent: extent.finish(),
    }
}
