//! Recording without fault-around: mapped pages are as exact as read ones.

use headstart::model::PAGE_SIZE;

use crate::disks::{Disk, Kind};
use crate::maps;
use crate::pages::{Seen, all_hold};
use crate::reader::{Advise, How, Mapping, Op};
use crate::support::{Scratch, drop_caches, heat, resident, write};

fn mapped_pages_are_exact(kind: Kind) {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    // What mmap(2) itself maps is there before anyone can stop it.
    let mut cases = maps::cases();
    cases.retain(|case| case.mappings.iter().all(|mapping| !mapping.populate));
    let Some(disk) = maps::disk_of(&scratch, kind, &cases) else {
        return;
    };
    let mut results = Vec::new();
    for state in ["cold", "hot"] {
        let ops = maps::prepared(&cases, &disk, state == "hot");
        let Some(recording) = scratch.record_exactly(&ops) else {
            return;
        };
        for case in &cases {
            let seen = Seen::of(&recording.trace, &disk.home.join(case.file));
            let what = format!("{state} {}", case.file);
            results.push((what, seen.check_read(&case.used)));
        }
    }
    all_hold(results);
}

#[test]
fn maps_on_ext4() {
    mapped_pages_are_exact(Kind::Ext4);
}

#[test]
fn maps_on_xfs() {
    mapped_pages_are_exact(Kind::Xfs);
}

#[test]
fn maps_on_btrfs() {
    mapped_pages_are_exact(Kind::Btrfs);
}

#[test]
fn maps_on_erofs() {
    mapped_pages_are_exact(Kind::Erofs);
}

#[test]
fn maps_on_overlayfs() {
    mapped_pages_are_exact(Kind::Overlay);
}

/// A huge page is mapped by one fault, exact recording or not.
#[test]
fn huge_pages_are_not_exact() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let path = scratch.path("data");
    write(&path, crate::maps::PAGES * PAGE_SIZE);
    drop_caches();
    let mapping = Mapping {
        pages: crate::maps::PAGES,
        advice: Advise::Huge,
        touch: (3..crate::maps::PAGES).step_by(10).collect(),
        ..Mapping::default()
    };
    let used = mapping.used();
    let Some(recording) = scratch.record_exactly(&[Op::new(&path, How::Map(mapping))]) else {
        return;
    };
    let seen = Seen::of(&recording.trace, &path);
    eprintln!("used {} {seen:?}", used.len());
    assert!(seen.certain.contains(&3) && seen.certain.is_subset(&used));
}

#[test]
fn a_program_is_exact_cold_and_hot() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let Some(disk) = Disk::new(&scratch, Kind::Ext4, &crate::exec::fill) else {
        return;
    };
    let program = disk.mount.join("program");
    disk.readahead_kib(0);
    let ops = [Op::new(&program, How::Execute(vec!["--list".to_owned()]))];
    drop_caches();
    let Some(cold) = scratch.record_exactly(&ops) else {
        return;
    };
    let used = resident(&program);
    heat(&program);
    let Some(hot) = scratch.record_exactly(&ops) else {
        return;
    };
    all_hold(
        [("cold", cold), ("hot", hot)]
            .map(|(state, recording)| {
                let seen = Seen::of(&recording.trace, &program);
                (state.to_owned(), seen.check_read(&used))
            })
            .into(),
    );
}
