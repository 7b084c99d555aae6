//! Blocks of huge pages that a run used and that the probes can't see. Pure.

use std::collections::{HashMap, HashSet};

use crate::model::{
    Certainty, Extent, FileTouches, FileVersion, HUGE_PAGE_PAGES, PageTouch, Profile, ProfileFile,
    RelPath, RunInfo, RunMask, Trace, Volume,
};

/// Pages that one fault maps where they lie in one folio.
const BLOCK: u64 = HUGE_PAGE_PAGES;

/// A block is known to be used where so many of its pages were.
const MOST: u64 = BLOCK / 2;

/// In this many of the newest runs it was seen that they were, by one of them at least.
const RECENT: usize = 8;

/// Of a file that is read, and not mapped, runs of more pages than this are seen.
const FAULTS: u32 = 2;

/// Of each file of the profile: whether the trace has another version of it. What was used of
/// the old one says nothing of that, and the older of two would be taken for the one there is.
fn replaced(trace: &Trace, profile: &Profile, volumes: &[u32]) -> Vec<bool> {
    let seen: HashMap<(u32, &RelPath), FileVersion> = trace
        .files
        .iter()
        .map(|file| ((file.volume, &file.path), file.version))
        .collect();
    let is_replaced = |file: &ProfileFile| {
        let seen = seen.get(&(volumes[file.volume as usize], &file.path));
        seen.is_some_and(|version| *version != file.version)
    };
    profile.files.iter().map(is_replaced).collect()
}

/// Adds to a trace the blocks of 2 MiB that recent runs used most of, in files that this one
/// mapped or at least opened, where it was seen to use none of a block.
///
/// Where a block is in memory as one folio, the kernel maps it by one fault, of which no
/// hook tells (docs/what-is-seen.md, "Huge pages"), and blocks that are warmed are. What is
/// read is always seen, so of files that this run was seen to read nothing is added.
pub fn fill_blocks(trace: &mut Trace, profile: &Profile) {
    let volumes = volumes_of(trace, profile);
    let names = trace.names.iter().map(|name| (name.volume, &name.path));
    let opened: HashSet<(u32, &RelPath)> = names.collect();
    let mut seen: HashMap<(u32, &RelPath), Vec<&PageTouch>> = HashMap::new();
    for file in &trace.files {
        let touches = seen.entry((file.volume, &file.path)).or_default();
        touches.extend(&file.touches);
    }
    let recent = recent(&profile.runs);
    let mut added = Vec::new();
    let is_replaced = replaced(trace, profile, &volumes);
    for (file, _) in profile.files.iter().zip(is_replaced).filter(|(_, is)| !is) {
        let volume = volumes[file.volume as usize];
        let key = (volume, &file.path);
        let touches = seen.get(&key).map(Vec::as_slice);
        if touches.is_none() && !opened.contains(&key) {
            continue;
        }
        let touches = touches.unwrap_or_default();
        if is_read(touches) {
            continue;
        }
        let touches = unseen_blocks(file, recent, touches);
        if !touches.is_empty() {
            added.push(FileTouches {
                volume,
                path: file.path.clone(),
                version: file.version,
                touches,
            });
        }
    }
    trace.files.extend(added);
}

/// The newest runs, and the newest that were seen whole: others may not have been there when
/// a block was mapped.
fn recent(runs: &[RunInfo]) -> RunMask {
    let newest = |which: fn(&RunInfo) -> bool| {
        let bits = (0..runs.len()).rev().filter(|&bit| which(&runs[bit]));
        bits.take(RECENT).fold(0, |mask, bit| mask | 1 << bit)
    };
    newest(|_| true) | newest(|run| run.blind_ns == 0)
}

/// Whether a file is read rather than mapped: faults name single pages and windows.
fn is_read(touches: &[&PageTouch]) -> bool {
    let is_mapped = |touch: &&PageTouch| touch.certainty == Certainty::Maybe;
    let is_long = |touch: &&PageTouch| touch.pages > FAULTS;
    !touches.iter().any(is_mapped) && touches.iter().any(is_long)
}

/// What is known by `recent` runs of the blocks of a file of which `touches` tell of at most
/// one page.
fn unseen_blocks(file: &ProfileFile, recent: RunMask, touches: &[&PageTouch]) -> Vec<PageTouch> {
    let mut used: HashMap<u64, u64> = HashMap::new();
    let mut found: HashMap<u64, u64> = HashMap::new();
    let known = file.extents.iter();
    let known = known.filter(|extent| extent.certain & recent != 0);
    for (block, part) in known.clone().flat_map(parts) {
        *used.entry(block).or_default() += u64::from(part.pages);
    }
    for touch in touches {
        for (block, pages) in blocks(touch.start_page, touch.pages) {
            *found.entry(block).or_default() += pages;
        }
    }
    let is_unseen = |block: &u64| {
        used.get(block).is_some_and(|&pages| pages >= MOST)
            && found.get(block).is_none_or(|&pages| pages <= 1)
    };
    known
        .flat_map(parts)
        .filter(|(block, _)| is_unseen(block))
        .map(|(_, part)| PageTouch {
            start_page: part.start_page,
            pages: part.pages,
            certainty: Certainty::Maybe,
            first_use_ns: part.first_use_ns,
        })
        .collect()
}

/// The blocks that pages lie in, and how many of them in each.
fn blocks(start_page: u64, pages: u32) -> impl Iterator<Item = (u64, u64)> {
    let end = start_page.saturating_add(pages.into());
    (start_page / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let from = start_page.max(block * BLOCK);
        (block, end.min((block + 1) * BLOCK) - from)
    })
}

/// An extent, cut where blocks end.
fn parts(extent: &Extent) -> impl Iterator<Item = (u64, Extent)> + use<> {
    let extent = *extent;
    blocks(extent.start_page, extent.pages).map(move |(block, pages)| {
        let part = Extent {
            start_page: extent.start_page.max(block * BLOCK),
            pages: pages as u32,
            ..extent
        };
        (block, part)
    })
}

/// For each volume of a profile its index in the trace, which gets those that it lacks.
fn volumes_of(trace: &mut Trace, profile: &Profile) -> Vec<u32> {
    let mut index = |volume: &Volume| match trace.volumes.iter().position(|v| v.id == volume.id) {
        Some(index) => index as u32,
        None => {
            trace.volumes.push(volume.clone());
            trace.volumes.len() as u32 - 1
        }
    };
    profile.volumes.iter().map(&mut index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NameKind, NameTouch, VolumeId};

    #[test]
    fn what_may_have_been_mapped_at_once_is_kept() {
        let extent = |start_page, pages, certain| Extent {
            start_page,
            pages,
            first_use_ns: 7,
            certain,
            seen: 1,
        };
        let path = |path: &str| RelPath::new(path.as_bytes()).expect("path");
        let file = |name: &str, extents| ProfileFile {
            volume: 0,
            path: path(name),
            version: FileVersion::default(),
            changed: 0,
            extents,
        };
        let volume = Volume {
            id: VolumeId("uuid:1".into()),
            fs_type: "ext4".into(),
            mount_point: b"/".to_vec(),
        };
        let run = |at: u64| RunInfo {
            started_ms: at,
            id: 1,
            duration_ns: 1,
            exact: false,
            blind_ns: 0,
        };
        let profile = Profile {
            volumes: vec![volume.clone()],
            files: vec![
                // Three blocks: whole, whole, and a quarter; then one that was never certain,
                // and one that an old run used.
                file(
                    "opened",
                    vec![
                        extent(0, 1152, 1 << 9),
                        extent(1536, 512, 0),
                        extent(2048, 512, 1),
                    ],
                ),
                file("unused", vec![extent(0, 512, 1 << 9)]),
            ],
            runs: (0..10).map(run).collect(),
            ..Profile::default()
        };
        let touch = |start_page, pages| PageTouch {
            start_page,
            pages,
            certainty: Certainty::Certain,
            first_use_ns: 9,
        };
        let mut trace = Trace {
            // Its volumes are in an order of their own.
            volumes: vec![
                Volume {
                    id: VolumeId("uuid:0".into()),
                    ..volume.clone()
                },
                volume,
            ],
            names: vec![NameTouch {
                volume: 1,
                path: path("opened"),
                kind: NameKind::File,
                listed: false,
                first_use_ns: 1,
            }],
            ..Trace::default()
        };
        let kept = |trace: &Trace| -> Vec<(u64, u32)> {
            let files = trace.files.iter().filter(|f| f.path == path("opened"));
            let touches = files.flat_map(|f| &f.touches);
            let maybe = touches.filter(|t| t.certainty == Certainty::Maybe);
            maybe.map(|t| (t.start_page, t.pages)).collect()
        };
        let mut blind = trace.clone();
        fill_blocks(&mut blind, &profile);
        assert_eq!(kept(&blind), [(0, 512), (512, 512)]);
        assert_eq!(blind.files.len(), 1, "{:?}", blind.files);
        assert_eq!(blind.files[0].volume, 1);
        trace.files.push(FileTouches {
            volume: 1,
            path: path("opened"),
            version: FileVersion::default(),
            touches: vec![touch(5, 1), touch(600, 2)],
        });
        fill_blocks(&mut trace, &profile);
        assert_eq!(kept(&trace), [(0, 512)], "of the second it tells");
        let mut reads = trace.clone();
        reads.files.truncate(1);
        reads.files[0].touches = vec![touch(1536, 64)];
        fill_blocks(&mut reads, &profile);
        assert_eq!(kept(&reads), [], "what is read is seen");
    }
}
