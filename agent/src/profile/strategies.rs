//! Small, collision-rich traces and profiles for property tests.

use proptest::prelude::*;

use crate::model::{
    BlockTouch, Certainty, Extent, FileTouches, FileVersion, NameKind, NameTouch, PAGE_SIZE,
    PageTouch, Profile, ProfileFile, RelPath, RunInfo, RunMask, Trace, Volume, VolumeId,
};

use super::exact::drop_ruled_out;
use super::{from_trace, merge};

const VOLUMES: u32 = 3;

/// (first page, first use in ns, certain, seen); one page long.
pub(crate) type OnePage = (u64, u64, RunMask, RunMask);

/// A profile of one large file that these runs used.
pub(crate) fn one_file(runs: Vec<RunInfo>, pages: impl IntoIterator<Item = OnePage>) -> Profile {
    let extent = |(start_page, first_use_ns, certain, seen)| Extent {
        start_page,
        pages: 1,
        first_use_ns,
        certain,
        seen,
    };
    Profile {
        runs,
        volumes: vec![Volume {
            id: VolumeId("uuid:x".into()),
            fs_type: "ext4".into(),
            mount_point: b"/".to_vec(),
        }],
        files: vec![ProfileFile {
            volume: 0,
            path: RelPath::new("f").expect("valid"),
            version: FileVersion {
                size: 1 << 30,
                mtime_ns: 0,
            },
            changed: 0,
            extents: pages.into_iter().map(extent).collect(),
        }],
        ..Profile::default()
    }
}

fn path() -> impl Strategy<Value = RelPath> {
    prop::sample::select(vec!["a", "a/b", "c", "d\u{202e}"])
        .prop_map(|p| RelPath::new(p).expect("valid"))
}

fn page_touch() -> impl Strategy<Value = PageTouch> {
    (0..20_u64, 1..8_u32, any::<bool>(), 0..8_u64).prop_map(|(start_page, pages, certain, ms)| {
        PageTouch {
            start_page,
            pages,
            certainty: if certain {
                Certainty::Certain
            } else {
                Certainty::Maybe
            },
            first_use_ns: ms * 700_000,
        }
    })
}

fn file() -> impl Strategy<Value = FileTouches> {
    let touches = prop::collection::vec(page_touch(), 0..5);
    (0..VOLUMES, path(), 0..24_u64, -2..2_i64, touches).prop_map(
        |(volume, path, pages, mtime_ns, touches)| FileTouches {
            volume,
            path,
            version: FileVersion {
                size: pages * PAGE_SIZE,
                mtime_ns,
            },
            touches,
        },
    )
}

fn name() -> impl Strategy<Value = NameTouch> {
    let kinds = vec![
        NameKind::File,
        NameKind::Directory,
        NameKind::Symlink,
        NameKind::Missing,
    ];
    (
        0..VOLUMES,
        path(),
        prop::sample::select(kinds),
        any::<bool>(),
        0..9_000_000_u64,
    )
        .prop_map(|(volume, path, kind, listed, first_use_ns)| NameTouch {
            volume,
            path,
            kind,
            listed,
            first_use_ns,
        })
}

fn block() -> impl Strategy<Value = BlockTouch> {
    (0..VOLUMES, 0..20_u64, 1..5_u32, 0..5_000_000_u64).prop_map(
        |(volume, start_page, pages, first_use_ns)| BlockTouch {
            volume,
            start_page,
            pages,
            first_use_ns,
        },
    )
}

/// Any trace; its volumes have ids 0 to 2, in that order.
pub(super) fn trace() -> impl Strategy<Value = Trace> {
    (
        prop::collection::vec(0..3_u8, VOLUMES as usize),
        prop::collection::vec(file(), 0..5),
        prop::collection::vec(name(), 0..4),
        prop::collection::vec(block(), 0..4),
    )
        .prop_map(|(mounts, files, names, blocks)| Trace {
            volumes: (0..)
                .zip(mounts)
                .map(|(id, mount): (u8, u8)| Volume {
                    id: VolumeId(format!("uuid:{id}")),
                    fs_type: "ext4".to_owned(),
                    mount_point: format!("/{mount}").into_bytes(),
                })
                .collect(),
            files,
            names,
            blocks,
            ..Trace::default()
        })
}

/// A profile of one run out of `runs` many. Two of the same run may differ.
pub(super) fn one_run(runs: u64) -> impl Strategy<Value = Profile> {
    // Long enough to rule something out, or not.
    let duration = prop::sample::select(vec![0, 1, 2, 2_000_000, u64::MAX]);
    (trace(), 0..runs, duration).prop_map(|(trace, id, duration_ns)| {
        let run = RunInfo {
            started_ms: id / 3,
            id,
            duration_ns,
            exact: id % 4 == 0,
            blind_ns: if id % 4 == 1 { id } else { 0 },
        };
        from_trace(&trace, run)
    })
}

/// A profile of up to `most` runs, merged or recorded.
pub(super) fn profile(most: usize) -> impl Strategy<Value = Profile> {
    prop::collection::vec((one_run(60), any::<bool>()), 0..most).prop_map(|runs| {
        runs.iter()
            .fold(Profile::default(), |all, (run, recorded)| {
                let mut all = merge(&all, run);
                if *recorded {
                    drop_ruled_out(&mut all);
                }
                all
            })
    })
}
