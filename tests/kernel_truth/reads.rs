//! read(2) and its relatives, on every file system: certain is what was asked for,
//! not what readahead brought.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use headstart::model::PAGE_SIZE;

use crate::disks::{Disk, Kind};
use crate::pages::{Pages, Random, Seen, Sum, all_hold, spanned};
use crate::reader::{How, Op};
use crate::stream::Stream;
use crate::support::{Scratch, drop_caches, heat, resident, write};

/// 1024 pages and a bit: the last page is not whole.
const SIZE: u64 = 1024 * PAGE_SIZE + 100;

/// One file, how it is read, and the pages used by that.
struct Case {
    file: &'static str,
    how: How,
    used: Pages,
}

fn case(file: &'static str, how: How, at: &[(u64, u64)]) -> Case {
    let used = spanned(at, SIZE);
    Case { file, how, used }
}

fn cases(kind: Kind, mount: &Path) -> Vec<Case> {
    let page = PAGE_SIZE;
    let sequential: Vec<_> = (0..16).map(|i| (i * 65536, 65536)).collect();
    let small: Vec<_> = (0..40).map(|i| (i * page, page)).collect();
    let strided: Vec<_> = (0..60).map(|i| (i * 16 * page, page)).collect();
    let mut random = Random(11);
    let scattered: Vec<_> = (0..200)
        .map(|_| (random.below(SIZE - 20_000), 1 + random.below(20_000)))
        .collect();
    // Off by one either way, within a page, over a border, at and past the end.
    let edges = vec![
        (page - 1, 2),
        (7 * page, page),
        (10 * page - 1, 1),
        (64 * page - 10, 20),
        (127 * page, 2 * page),
        (SIZE - 10, 10),
        (900 * page, 1 << 20),
        (SIZE + 5 * page, page),
    ];
    // Within one system call: past a 64-page border, and many of them.
    let long = vec![(60 * page + 1, 500 * page)];
    let vectors = vec![(33 * page, 3 * page), (333_333, 44_444)];
    let (offset, length) = (12_345, 300_000);
    let mut cases = vec![
        case("sequential", How::Read(sequential.clone()), &sequential),
        case("small", How::Read(small.clone()), &small),
        case("strided", How::Read(strided.clone()), &strided),
        case("scattered", How::Read(scattered.clone()), &scattered),
        case("edges", How::Read(edges.clone()), &edges),
        case("long", How::Read(long.clone()), &long),
        case("vectors", How::ReadVectored(vectors.clone()), &vectors),
        case(
            "sendfile",
            How::Sendfile(offset, length),
            &[(offset, length)],
        ),
        case("splice", How::Splice(offset, length), &[(offset, length)]),
        case("advised", How::AskFor(0, 1 << 20), &[]),
        case("opened", How::Open, &[]),
    ];
    let is_clone = matches!(kind, Kind::Xfs | Kind::Btrfs);
    if !matches!(kind, Kind::Erofs | Kind::ErofsLz4) {
        let target = mount.join("target").as_os_str().as_bytes().to_vec();
        let part = (8 * page, 100 * page);
        // A file system that shares the blocks reads nothing.
        let used: &[(u64, u64)] = if is_clone { &[] } else { &[part] };
        cases.push(case("copied", How::CopyTo(target, part.0, part.1), used));
    }
    if kind != Kind::ErofsLz4 {
        let direct = vec![(0, 65536), (100 * page, 16 * page)];
        cases.push(case("direct", How::ReadDirect(direct), &[]));
    }
    cases
}

/// What is certain is what was used.
fn reads_are_exact(kind: Kind) {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let cases = cases(kind, &scratch.path("mount"));
    let fill = |dir: &Path| {
        cases
            .iter()
            .for_each(|case| write(&dir.join(case.file), SIZE))
    };
    let Some(disk) = Disk::new(&scratch, kind, &fill) else {
        return;
    };
    let ops: Vec<Op> = cases
        .iter()
        .map(|case| Op::new(disk.mount.join(case.file), case.how.clone()))
        .collect();
    if matches!(kind, Kind::Ext4 | Kind::Xfs) {
        disk.readahead_kib(128);
    }
    let mut results = Vec::new();
    for state in ["cold", "hot"] {
        drop_caches();
        if state == "hot" {
            cases
                .iter()
                .for_each(|case| heat(&disk.mount.join(case.file)));
        }
        let recording = scratch.record(&ops);
        assert_eq!(recording.trace.lost, 0);
        let mut sum = Sum::default();
        for case in &cases {
            let seen = Seen::of(&recording.trace, &disk.home.join(case.file));
            sum.add(&seen, &case.used);
            results.push((
                format!("{state} {}", case.file),
                seen.check_read(&case.used),
            ));
        }
        sum.print(&format!("reads, {kind:?}, {state}"));
        if state == "cold" {
            let ahead = resident(&disk.home.join("small"));
            let used = &cases[1].used;
            let (ahead, used) = (ahead.len(), used.len());
            assert!(
                ahead > used,
                "readahead brought nothing more: {ahead} of {used}"
            );
        }
    }
    all_hold(results);
}

#[test]
fn on_ext4() {
    reads_are_exact(Kind::Ext4);
}

#[test]
fn on_xfs() {
    reads_are_exact(Kind::Xfs);
}

#[test]
fn on_btrfs() {
    reads_are_exact(Kind::Btrfs);
}

#[test]
fn on_erofs() {
    reads_are_exact(Kind::Erofs);
}

#[test]
fn on_compressed_erofs() {
    reads_are_exact(Kind::ErofsLz4);
}

#[test]
fn on_overlayfs_they_are_the_lower_files() {
    reads_are_exact(Kind::Overlay);
}

#[test]
fn on_tmpfs_nothing_is_to_be_warmed() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let fill = |dir: &Path| write(&dir.join("data"), SIZE);
    let Some(disk) = Disk::new(&scratch, Kind::Tmpfs, &fill) else {
        return;
    };
    let file = disk.mount.join("data");
    let mapping = crate::reader::Mapping {
        pages: 64,
        touch: vec![1, 40],
        ..Default::default()
    };
    let ops = [
        Op::new(&file, How::Read(vec![(0, SIZE)])),
        Op::new(&file, How::Map(mapping)),
    ];
    let recording = scratch.record(&ops);
    assert_eq!(Seen::of(&recording.trace, &file), Seen::default());
    let volumes = &recording.trace.volumes;
    assert!(volumes.iter().all(|volume| volume.fs_type != "tmpfs"));
}

/// Pieces across the borders of readahead: most of them begin with pages that are there and
/// end with some that are on their way.
fn pieces_are_exact(is_overlay: bool) {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let streams = Stream::all(100_000);
    let name = |stream: &Stream| format!("{stream:?}");
    let fill = |dir: &Path| {
        let lower = dir.join("lower");
        std::fs::create_dir(&lower).expect("dir");
        streams
            .iter()
            .for_each(|stream| write(&lower.join(name(stream)), SIZE));
    };
    let Some(mut disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    disk.readahead_kib(128);
    let home = disk.mount.join("lower");
    if is_overlay && disk.cover(&scratch).is_none() {
        return;
    }
    let read = if is_overlay { &disk.mount } else { &home };
    let op = |stream: &Stream| Op::new(read.join(name(stream)), How::Stream(*stream));
    let ops: Vec<Op> = streams.iter().map(op).collect();
    drop_caches();
    let recording = scratch.record(&ops);
    assert_eq!(recording.trace.lost, 0);
    let used = spanned(&[(0, SIZE)], SIZE);
    let of = |stream: &Stream| {
        let seen = Seen::of(&recording.trace, &home.join(name(stream)));
        (name(stream), seen.check_read(&used))
    };
    all_hold(streams.iter().map(of).collect());
}

#[test]
fn in_pieces_on_ext4() {
    pieces_are_exact(false);
}

#[test]
fn in_pieces_on_overlayfs() {
    pieces_are_exact(true);
}

/// The weights of a model, say, and the pages are there.
#[test]
fn of_one_long_read_all_is_seen() {
    const LENGTH: u64 = (600 << 20) + 5000;
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let file = scratch.path("long");
    std::fs::File::create(&file)
        .and_then(|made| made.set_len(LENGTH + PAGE_SIZE))
        .expect("made");
    // From the middle of a page on, and of a chunk.
    let read = (5 * PAGE_SIZE + 7, LENGTH - 6 * PAGE_SIZE);
    let ops = [Op::new(&file, How::Read(vec![read]))];
    for state in ["cold", "hot"] {
        if state == "cold" {
            drop_caches();
        }
        let recording = scratch.record(&ops);
        assert_eq!(recording.trace.lost, 0);
        let seen = Seen::of(&recording.trace, &file);
        let used = spanned(&[read], LENGTH + PAGE_SIZE);
        let missing = used.difference(&seen.certain).count();
        assert_eq!(missing, 0, "{state}: of {} pages", used.len());
        assert_eq!(seen.certain.len(), used.len(), "{state}");
    }
}
