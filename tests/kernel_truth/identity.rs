//! Which file a page is said to be of: removed, renamed, replaced, linked, bound.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use headstart::model::NameKind;

use crate::disks::{Disk, Kind};
use crate::pages::{Pages, Seen, spanned};
use crate::reader::{How, Mapping, Op};
use crate::support::{Scratch, drop_caches, write};

const SIZE: u64 = 64 * 4096;
const READ: (u64, u64) = (8192, 12_288);

fn read(path: &Path) -> Op {
    Op::new(path, How::Read(vec![READ]))
}

fn used() -> Pages {
    spanned(&[READ], SIZE)
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[test]
fn a_removed_file_is_counted_as_gone() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let path = scratch.path("removed");
    write(&path, SIZE);
    let recording = scratch.record(&[read(&path), Op::new(&path, How::Remove)]);
    assert_eq!(Seen::of(&recording.trace, &path), Seen::default());
    assert!(recording.gaps.vanished >= 1, "{:?}", recording.gaps);
}

#[test]
fn a_renamed_file_is_never_taken_for_another() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    write(&old, SIZE);
    let rename = Op::new(&old, How::RenameTo(bytes(&new)));
    let recording = scratch.record(&[read(&old), rename]);
    assert_eq!(Seen::of(&recording.trace, &old), Seen::default());
    let renamed = Seen::of(&recording.trace, &new);
    assert!(
        renamed.certain == used() || recording.gaps.vanished >= 1,
        "{renamed:?} {:?}",
        recording.gaps
    );
}

#[test]
fn a_file_that_takes_anothers_name_is_not_taken_for_it() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    write(&old, SIZE);
    write(&new, 2 * SIZE);
    // `new`, of which nothing was read, ends up under the name `old`.
    let rename = Op::new(&new, How::RenameTo(bytes(&old)));
    let recording = scratch.record(&[read(&old), rename]);
    assert_eq!(Seen::of(&recording.trace, &old), Seen::default());
    assert!(recording.gaps.vanished >= 1, "{:?}", recording.gaps);
}

#[test]
fn a_file_with_two_names_is_recorded_under_the_one_that_was_opened() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    std::fs::create_dir(scratch.path("dir")).expect("dir");
    let (one, two) = (scratch.path("one"), scratch.path("dir/two"));
    write(&one, SIZE);
    std::fs::hard_link(&one, &two).expect("link");
    let link = scratch.path("link");
    std::os::unix::fs::symlink("dir/two", &link).expect("link");
    let map = How::Map(Mapping {
        pages: SIZE / 4096,
        touch: vec![2, 3, 4],
        ..Mapping::default()
    });
    let stat_both = |first: &PathBuf, second: &PathBuf, then: Op| {
        let [first, second] = [first, second].map(|path| Op::new(path, How::Stat));
        vec![first, second, then]
    };
    let below = Op::new(scratch.path("dir"), How::OpenBelow(b"two".to_vec()));
    // What is done, and the name that it is done by.
    let cases = [
        (vec![read(&one)], &one),
        (vec![read(&two)], &two),
        (vec![read(&link)], &two),
        (vec![Op::new(&two, map.clone())], &two),
        (vec![Op::new(&one, How::Stat), read(&two)], &two),
        (vec![Op::new(&two, How::Stat), read(&one)], &one),
        (vec![below, read(&one)], &two),
        // Asked about by both names, in either order, and then opened by one.
        (stat_both(&one, &two, read(&two)), &two),
        (stat_both(&two, &one, read(&two)), &two),
        (stat_both(&two, &one, read(&one)), &one),
        // Where a link leads is asked, which opens nothing.
        (vec![Op::new(&link, How::ReadLink), read(&one)], &one),
    ];
    // The kernel tells the name that was looked up last: either comes last once.
    for order in [[&one, &two], [&two, &one]] {
        for (ops, by) in &cases {
            drop_caches();
            for path in order {
                path.metadata().expect("it is there");
            }
            let recording = scratch.record(ops);
            let other = if *by == &one { &two } else { &one };
            let seen = Seen::of(&recording.trace, by);
            assert!(
                seen.certain
                    .union(&seen.maybe)
                    .copied()
                    .collect::<Pages>()
                    .is_superset(&used()),
                "{ops:?} after {order:?}: {seen:?}"
            );
            assert_eq!(Seen::of(&recording.trace, other), Seen::default());
        }
    }
}

#[test]
fn a_program_with_two_names_is_recorded_under_the_one_that_was_executed() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let (one, two) = (scratch.path("one"), scratch.path("two"));
    std::fs::copy("/bin/true", &one).expect("a program");
    std::fs::hard_link(&one, &two).expect("link");
    for [by, other] in [[&one, &two], [&two, &one]] {
        drop_caches();
        // The kernel tells the name that was looked up last.
        for path in [by, other] {
            path.metadata().expect("it is there");
        }
        let recording = scratch.record_command(&[by.into()]);
        assert!(Seen::of(&recording.trace, by).certain.contains(&0));
        assert_eq!(Seen::of(&recording.trace, other), Seen::default());
    }
}

#[test]
fn a_bound_directory_is_the_volumes_own() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let fill = |dir: &Path| {
        std::fs::create_dir(dir.join("sub")).expect("dir");
        write(&dir.join("sub/data"), SIZE);
    };
    let Some(mut disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    let bound = scratch.path("bound");
    if disk.bind("sub", &bound).is_none() {
        return;
    }
    let recording = scratch.record(&[read(&bound.join("data"))]);
    let home = disk.mount.join("sub/data");
    assert_eq!(Seen::of(&recording.trace, &home).certain, used());

    // With only a part of the disk mounted, the part is the volume.
    disk.hide();
    let recording = scratch.record(&[read(&bound.join("data"))]);
    assert_eq!(
        Seen::of(&recording.trace, &bound.join("data")).certain,
        used()
    );
    assert_eq!(Seen::of(&recording.trace, &home), Seen::default());
}

#[test]
fn a_subvolume_is_named_by_its_path_in_the_volume() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let fill = |dir: &Path| {
        let sub = dir.join("sub");
        if crate::support::prepare("btrfs", &[&"subvolume", &"create", &sub]).is_some() {
            write(&sub.join("data"), SIZE);
        }
    };
    let Some(disk) = Disk::new(&scratch, Kind::Btrfs, &fill) else {
        return;
    };
    let path = disk.mount.join("sub/data");
    if !path.exists() {
        return;
    }
    let recording = scratch.record(&[read(&path)]);
    assert_eq!(Seen::of(&recording.trace, &path).certain, used());
}

#[test]
fn a_changed_root_does_not_change_a_files_path() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let root = scratch.path("root");
    std::fs::create_dir(&root).expect("dir");
    write(&root.join("data"), SIZE);
    let ops = [
        Op::new(&root, How::ChangeRoot),
        read(Path::new("/data")),
        Op::new("/none", How::Stat),
    ];
    let recording = scratch.record(&ops);
    let seen = Seen::of(&recording.trace, &root.join("data"));
    assert_eq!(seen.certain, used());
    // A name from another root is one below that, not one of ours.
    let names = recording.trace.names.iter();
    let none: Vec<_> = names
        .filter(|name| name.path.as_bytes().ends_with(b"none"))
        .collect();
    assert_eq!(none.len(), 1, "{none:?}");
    assert!(none[0].path.as_bytes().ends_with(b"/root/none"), "{none:?}");
    assert_eq!(none[0].kind, NameKind::Missing);
}
