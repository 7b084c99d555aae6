//! Mapped files: the page that faulted is certain, its window is a maybe.

use std::path::Path;

use headstart::model::PAGE_SIZE;

use crate::disks::{Disk, Kind};
use crate::pages::{Pages, Random, Seen, Sum, all_hold};
use crate::reader::{Advise, How, Mapping, Op};
use crate::support::{Scratch, drop_caches, heat, write};

pub(crate) const PAGES: u64 = 1024;

/// One file, how it is mapped, and the pages used by that.
pub(crate) struct Case {
    pub(crate) file: &'static str,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) used: Pages,
    /// Every page faults by itself and in a window that is whole: all of them
    /// have to be certain.
    exact: bool,
}

fn case(file: &'static str, mappings: Vec<Mapping>) -> Case {
    let used = mappings.iter().flat_map(Mapping::used).collect();
    Case {
        file,
        mappings,
        used,
        exact: false,
    }
}

impl Mapping {
    pub(crate) fn used(&self) -> Pages {
        let mut used: Pages = self.touch.iter().copied().collect();
        if self.populate {
            used.extend(self.first..self.first + self.pages);
        }
        for &(first, pages) in &self.populate_parts {
            used.extend(first..first + pages);
        }
        used
    }
}

fn whole(touch: Vec<u64>) -> Mapping {
    Mapping {
        pages: PAGES,
        touch,
        ..Mapping::default()
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut random = Random(5);
    // One page of every window of 16, in no order.
    let mut spread: Vec<u64> = (0..PAGES / 16).map(|w| w * 16 + random.below(16)).collect();
    for i in (1..spread.len()).rev() {
        spread.swap(i, random.below(i as u64 + 1) as usize);
    }
    let scattered: Vec<u64> = (0..300).map(|_| random.below(PAGES)).collect();
    // Windows of a mapping that begins 5 pages behind a border.
    let skewed: Vec<u64> = (0..24)
        .map(|w| 100 + 11 + w * 16 + random.below(16))
        .collect();
    let part = |first, pages, skew, touch| Mapping {
        first,
        pages,
        skew,
        touch,
        ..Mapping::default()
    };
    let advised = |advice| Mapping {
        advice,
        ..whole(scattered.clone())
    };
    let populated = Mapping {
        populate: true,
        ..part(64, 128, 3, vec![])
    };
    // Faults without a trap: the last address known is of another page.
    let populated_parts = Mapping {
        populate_parts: vec![(128, 1), (205, 2), (322, 3), (450, 1), (561, 4)],
        ..whole(vec![7, 700])
    };
    vec![
        Case {
            exact: true,
            ..case("spread", vec![whole(spread)])
        },
        Case {
            exact: true,
            ..case("skewed", vec![part(100, 400, 5, skewed.clone())])
        },
        case("dense", vec![whole((0..600).collect())]),
        case("backwards", vec![whole((300..600).rev().collect())]),
        case("scattered", vec![whole(scattered.clone())]),
        case("advised_random", vec![advised(Advise::Random)]),
        // The only window is cut by the mapping's start: nothing tells how.
        case("cut", vec![part(7, 40, 5, vec![9])]),
        case("cut_and_whole", vec![part(7, 200, 5, vec![9, 60, 130])]),
        case(
            "mapped_twice",
            vec![
                part(0, 300, 3, vec![1, 100, 200]),
                part(200, 300, 9, vec![201, 350, 450]),
            ],
        ),
        case("populated", vec![populated]),
        case("populated_parts", vec![populated_parts]),
    ]
}

/// A disk with a file for each case; `None` where there can be none of that kind.
pub(crate) fn disk_of(scratch: &Scratch, kind: Kind, cases: &[Case]) -> Option<Disk> {
    let fill = |dir: &Path| {
        for case in cases {
            write(&dir.join(case.file), PAGES * PAGE_SIZE);
        }
    };
    Disk::new(scratch, kind, &fill)
}

/// What maps each case's file; nothing is cached before, or each file, if it is to be
/// hot.
pub(crate) fn prepared(cases: &[Case], disk: &Disk, hot: bool) -> Vec<Op> {
    drop_caches();
    let mut ops = Vec::new();
    for case in cases {
        let path = disk.mount.join(case.file);
        if hot {
            heat(&path);
        }
        let how = case.mappings.iter().cloned().map(How::Map);
        ops.extend(how.map(|how| Op::new(&path, how)));
    }
    ops
}

fn mapped_pages_are_seen(kind: Kind) {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let cases = cases();
    let Some(disk) = disk_of(&scratch, kind, &cases) else {
        return;
    };
    let mut results = Vec::new();
    for state in ["cold", "hot"] {
        let ops = prepared(&cases, &disk, state == "hot");
        let recording = scratch.record(&ops);
        assert_eq!(recording.trace.lost, 0);
        let mut sum = Sum::default();
        for case in &cases {
            let seen = Seen::of(&recording.trace, &disk.home.join(case.file));
            sum.add(&seen, &case.used);
            let what = format!("{state} {}", case.file);
            let check = if case.exact {
                let certain = seen.certain.clone();
                let only = Seen {
                    certain,
                    ..Seen::default()
                };
                only.check_read(&case.used)
            } else {
                seen.check_mapped(&case.used)
            };
            eprintln!(
                "{what}: used {} certain {} maybe {}",
                case.used.len(),
                seen.certain.len(),
                seen.maybe.len()
            );
            results.push((what, check));
        }
        sum.print(&format!("maps, {kind:?}, {state}"));
    }
    all_hold(results);
}

#[test]
fn on_ext4() {
    mapped_pages_are_seen(Kind::Ext4);
}

#[test]
fn on_xfs() {
    mapped_pages_are_seen(Kind::Xfs);
}

#[test]
fn on_btrfs() {
    mapped_pages_are_seen(Kind::Btrfs);
}

#[test]
fn on_erofs() {
    mapped_pages_are_seen(Kind::Erofs);
}

#[test]
fn on_compressed_erofs() {
    mapped_pages_are_seen(Kind::ErofsLz4);
}

#[test]
fn on_overlayfs_they_are_the_lower_files() {
    mapped_pages_are_seen(Kind::Overlay);
}

/// Folios of up to 2 MiB, made by long readahead, mapped as one.
#[test]
fn of_large_folios() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mut scratch) = Scratch::new() else {
            return;
        };
        let pages = 8192;
        let fill = |dir: &Path| write(&dir.join("data"), pages * PAGE_SIZE);
        let Some(disk) = Disk::new(&scratch, kind, &fill) else {
            continue;
        };
        disk.readahead_kib(8192);
        drop_caches();
        let path = disk.mount.join("data");
        heat(&path);
        let mapping = Mapping {
            pages,
            touch: (0..pages).step_by(100).collect(),
            ..Mapping::default()
        };
        let used = mapping.used();
        let recording = scratch.record(&[Op::new(&path, How::Map(mapping))]);
        let seen = Seen::of(&recording.trace, &path);
        if let Err(complaint) = seen.check_mapped(&used) {
            panic!("{kind:?}: {complaint}");
        }
    }
}

/// A huge page is mapped by one fault, and the kernel says nothing of the rest.
#[test]
fn of_huge_pages_only_the_first_fault_is_seen() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let Some(mut scratch) = Scratch::new() else {
            return;
        };
        let fill = |dir: &Path| write(&dir.join("data"), PAGES * PAGE_SIZE);
        let Some(disk) = Disk::new(&scratch, kind, &fill) else {
            continue;
        };
        let path = disk.mount.join("data");
        drop_caches();
        let mapping = Mapping {
            advice: Advise::Huge,
            ..whole((3..PAGES).step_by(10).collect())
        };
        let used = mapping.used();
        let recording = scratch.record(&[Op::new(&path, How::Map(mapping))]);
        let seen = Seen::of(&recording.trace, &path);
        eprintln!("{kind:?}: used {} {seen:?}", used.len());
        assert!(seen.certain.contains(&3) && seen.certain.is_subset(&used));
    }
}
