//! Programs executed: what stays resident without readahead is what was used.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::disks::{Disk, Kind};
use crate::pages::{Seen, Sum, all_hold, spanned};
use crate::reader::{How, Op};
use crate::support::{Scratch, drop_caches, resident};

/// A program of some tens of MiB, which prints its tests, and a script that it
/// interprets.
pub(crate) fn fill(dir: &Path) {
    let this = std::env::current_exe().expect("own path");
    std::fs::copy(this, dir.join("program")).expect("copy");
}

#[test]
fn a_cold_program_is_covered_and_nothing_unused_is_certain() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let Some(disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    let program = disk.mount.join("program");
    let script = disk.mount.join("script");
    std::fs::write(&script, format!("#!{} --list\n", program.display())).expect("script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("mode");
    disk.readahead_kib(0);
    drop_caches();
    let ops = [
        Op::new(&program, How::Execute(vec!["--list".to_owned()])),
        Op::new(&script, How::Execute(vec![])),
    ];
    let recording = scratch.record(&ops);
    assert_eq!(recording.trace.lost, 0);
    let used = resident(&program);
    let seen = Seen::of(&recording.trace, &program);
    assert!(used.len() > 50 && seen.certain.contains(&0), "{used:?}");
    eprintln!(
        "program: used {} certain {} maybe {}",
        used.len(),
        seen.certain.len(),
        seen.maybe.len()
    );
    let mut sum = Sum::default();
    sum.add(&seen, &used);
    sum.print("program, cold");
    // The kernel reads the head of a file that it is to execute.
    let head = Seen::of(&recording.trace, &script);
    all_hold(vec![
        ("program".to_owned(), seen.check_mapped(&used)),
        ("script".to_owned(), head.check_read(&spanned(&[(0, 1)], 1))),
    ]);
}

#[test]
fn a_hot_program_has_no_certain_page_that_a_cold_one_does_not_use() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let Some(disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    let program = disk.mount.join("program");
    disk.readahead_kib(0);
    drop_caches();
    let ops = [Op::new(&program, How::Execute(vec!["--list".to_owned()]))];
    scratch.record(&ops);
    let used = resident(&program);
    crate::support::heat(&program);
    let recording = scratch.record(&ops);
    let seen = Seen::of(&recording.trace, &program);
    eprintln!(
        "program: used {} certain {} maybe {}",
        used.len(),
        seen.certain.len(),
        seen.maybe.len()
    );
    all_hold(vec![("program".to_owned(), seen.check_mapped(&used))]);
}
