//! One run's trace becomes a profile of one run.

use std::collections::BTreeMap;

use crate::model::{
    BlockExtent, Certainty, Extent, NameRecord, PAGE_SIZE, PageTouch, Profile, ProfileFile,
    RelPath, RunInfo, RunMask, Trace, Volume,
};

use super::extents::{END_OF_PAGES, from_touches};
use super::limits::{drop_unused_volumes, prune};
use super::merge::newer_version;
use super::{Limits, Pruned};

/// First uses are kept in steps of this: finer, they are noise, and a third of
/// an encoded profile.
const TIME_STEP_NS: u64 = 1_000;

/// The profile of one run, whose bit is bit 0. Pure.
///
/// Touches are normalised: a page is certain if any touch of it was, and was
/// first used at its earliest touch. Pages past a file's end, and anything that
/// names a volume the trace does not have, are left out. Larger traces than
/// [`Limits::DEFAULT`] are pruned; [`from_trace_within`] says by how much.
pub fn from_trace(trace: &Trace, run: RunInfo) -> Profile {
    from_trace_within(trace, run, &Limits::DEFAULT).0
}

/// [`from_trace`] within given limits, and what was left out to stay in them.
pub fn from_trace_within(trace: &Trace, run: RunInfo, limits: &Limits) -> (Profile, Pruned) {
    let (volumes, map) = volumes(trace);
    let place = |volume: u32| map.get(volume as usize).copied();
    let mut profile = Profile {
        runs: vec![run],
        files: files(trace, place),
        names: names(trace, place),
        blocks: blocks(trace, place),
        volumes,
    };
    drop_unused_volumes(&mut profile);
    let pruned = prune(&mut profile, limits);
    (profile, pruned)
}

/// Volumes by id, each once, and where each of the trace's went.
fn volumes(trace: &Trace) -> (Vec<Volume>, Vec<u32>) {
    let mut sorted: Vec<&Volume> = trace.volumes.iter().collect();
    // Of two with one id the greater stays, as in merging.
    sorted.sort_unstable_by(|a, b| a.id.cmp(&b.id).then_with(|| b.cmp(a)));
    sorted.dedup_by(|later, kept| later.id == kept.id);
    let map = trace
        .volumes
        .iter()
        .map(|volume| sorted.partition_point(|s| s.id < volume.id) as u32)
        .collect();
    (sorted.into_iter().cloned().collect(), map)
}

fn files(trace: &Trace, place: impl Fn(u32) -> Option<u32>) -> Vec<ProfileFile> {
    // A path may come twice: replaced by another file while the run went on.
    let mut by_path: BTreeMap<(u32, &RelPath), Vec<usize>> = BTreeMap::new();
    for (index, file) in trace.files.iter().enumerate() {
        if let Some(volume) = place(file.volume) {
            by_path.entry((volume, &file.path)).or_default().push(index);
        }
    }
    let mut out = Vec::with_capacity(by_path.len());
    for ((volume, path), indexes) in by_path {
        let parts = || indexes.iter().filter_map(|&i| trace.files.get(i));
        let Some(version) = parts().map(|f| f.version).reduce(newer_version) else {
            continue;
        };
        let changed = RunMask::from(parts().any(|f| f.version != version));
        let touches: Vec<PageTouch> = parts().flat_map(|f| &f.touches).map(step).collect();
        let extents = from_touches(&touches, version.size.div_ceil(PAGE_SIZE));
        if !extents.is_empty() {
            out.push(ProfileFile {
                volume,
                path: path.clone(),
                version,
                changed,
                extents,
            });
        }
    }
    out
}

fn step(touch: &PageTouch) -> PageTouch {
    PageTouch {
        first_use_ns: round(touch.first_use_ns),
        ..*touch
    }
}

fn round(ns: u64) -> u64 {
    ns - ns % TIME_STEP_NS
}

fn names(trace: &Trace, place: impl Fn(u32) -> Option<u32>) -> Vec<NameRecord> {
    let mut by_path: BTreeMap<(u32, &RelPath), NameRecord> = BTreeMap::new();
    for name in &trace.names {
        let Some(volume) = place(name.volume) else {
            continue;
        };
        let first_use_ns = round(name.first_use_ns);
        by_path
            .entry((volume, &name.path))
            .and_modify(|known| {
                // Missing first and there later is there: `Missing` is the greatest kind.
                known.kind = known.kind.min(name.kind);
                known.listed |= name.listed;
                known.first_use_ns = known.first_use_ns.min(first_use_ns);
            })
            .or_insert_with(|| NameRecord {
                volume,
                path: name.path.clone(),
                kind: name.kind,
                listed: name.listed,
                first_use_ns,
                seen: 1,
            });
    }
    by_path.into_values().collect()
}

fn blocks(trace: &Trace, place: impl Fn(u32) -> Option<u32>) -> Vec<BlockExtent> {
    let mut by_volume: BTreeMap<u32, Vec<PageTouch>> = BTreeMap::new();
    for block in &trace.blocks {
        if let Some(volume) = place(block.volume) {
            by_volume.entry(volume).or_default().push(PageTouch {
                start_page: block.start_page,
                pages: block.pages,
                certainty: Certainty::Certain,
                first_use_ns: round(block.first_use_ns),
            });
        }
    }
    let extents = |(volume, touches): (u32, Vec<PageTouch>)| {
        let extents = from_touches(&touches, END_OF_PAGES);
        extents.into_iter().map(move |e| block(volume, &e))
    };
    by_volume.into_iter().flat_map(extents).collect()
}

/// The block extent with the place and history of `extent`.
pub(super) fn block(volume: u32, extent: &Extent) -> BlockExtent {
    BlockExtent {
        volume,
        start_page: extent.start_page,
        pages: extent.pages,
        first_use_ns: extent.first_use_ns,
        seen: extent.seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BlockTouch, FileTouches, FileVersion, NameKind, NameTouch, VolumeId};

    fn volume(id: &str, mount_point: &str) -> Volume {
        Volume {
            id: VolumeId(id.to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: mount_point.into(),
        }
    }

    fn file(volume: u32, path: &str, mtime_ns: i64, pages: u64, start_page: u64) -> FileTouches {
        FileTouches {
            volume,
            path: RelPath::new(path).expect("valid"),
            version: FileVersion {
                size: pages * PAGE_SIZE,
                mtime_ns,
            },
            touches: vec![PageTouch {
                start_page,
                pages: 4,
                certainty: Certainty::Certain,
                first_use_ns: 1_999,
            }],
        }
    }

    fn name(path: &str, kind: NameKind, listed: bool, first_use_ns: u64) -> NameTouch {
        NameTouch {
            volume: 0,
            path: RelPath::new(path).expect("valid"),
            kind,
            listed,
            first_use_ns,
        }
    }

    #[test]
    fn a_trace_in_any_order_becomes_canonical() {
        let trace = Trace {
            volumes: vec![
                volume("uuid:b", "/"),
                volume("uuid:a", "/a"),
                volume("uuid:b", "/bind"),
                volume("uuid:unused", "/unused"),
            ],
            files: vec![
                file(2, "f", 1, 100, 50),
                file(1, "z", 1, 100, 0),
                file(0, "f", 2, 9, 8),
                file(0, "gone", 1, 0, 0),
                file(9, "volume that is not there", 1, 100, 0),
            ],
            names: vec![
                name("d", NameKind::Missing, false, 5_000),
                name("d", NameKind::Directory, true, 9_000),
            ],
            blocks: [7, 5]
                .map(|start_page| BlockTouch {
                    volume: 0,
                    start_page,
                    pages: 2,
                    first_use_ns: 3_000,
                })
                .to_vec(),
            ..Trace::default()
        };
        let run = RunInfo {
            started_ms: 1,
            id: 2,
            duration_ns: 3,
            exact: false,
            blind_ns: 0,
        };
        let profile = from_trace(&trace, run);
        assert_eq!(profile.runs, [run]);
        let volumes: Vec<_> = profile
            .volumes
            .iter()
            .map(|v| (&v.id.0[..], &v.mount_point[..]))
            .collect();
        assert_eq!(volumes, [("uuid:a", &b"/a"[..]), ("uuid:b", &b"/bind"[..])]);
        let files: Vec<_> = profile
            .files
            .iter()
            .map(|f| (f.volume, f.path.to_string()))
            .collect();
        assert_eq!(files, [(0, "z".to_owned()), (1, "f".to_owned())]);
        // The later version counts, and what lies past its end is not there.
        assert_eq!(profile.files[1].version.mtime_ns, 2);
        assert_eq!((profile.files[0].changed, profile.files[1].changed), (0, 1));
        let expect = Extent {
            start_page: 8,
            pages: 1,
            first_use_ns: 1_000,
            certain: 1,
            seen: 1,
        };
        assert_eq!(profile.files[1].extents, [expect]);
        assert_eq!(profile.names.len(), 1);
        let known = &profile.names[0];
        assert_eq!(
            (known.kind, known.listed, known.first_use_ns),
            (NameKind::Directory, true, 5_000)
        );
        let blocks: Vec<_> = profile
            .blocks
            .iter()
            .map(|b| (b.volume, b.start_page, b.pages))
            .collect();
        assert_eq!(blocks, [(1, 5, 4)]);
    }

    #[test]
    fn limits_hold_and_say_what_they_cost() {
        let trace = Trace {
            volumes: vec![volume("uuid:a", "/")],
            files: (0..9)
                .map(|i| file(0, &format!("f{i}"), 1, 100, i))
                .collect(),
            ..Trace::default()
        };
        let limits = Limits {
            files: 4,
            ..Limits::DEFAULT
        };
        let run = RunInfo {
            started_ms: 0,
            id: 0,
            duration_ns: 0,
            exact: false,
            blind_ns: 0,
        };
        let (profile, pruned) = from_trace_within(&trace, run, &limits);
        assert_eq!((profile.files.len(), pruned.files), (4, 5));
    }
}
