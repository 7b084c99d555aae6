//! Who reads: only the recorded command, not its recorder, its neighbours, or the
//! kernel on its behalf.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::disks::{Disk, Kind};
use crate::pages::{Pages, Seen, spanned};
use crate::reader::{How, Op};
use crate::support::{Scratch, drop_caches, fifo, heat, wait, write};

const SIZE: u64 = 64 * 4096;

#[test]
fn neither_the_recorder_nor_a_neighbour_is_seen() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let [own, ours, theirs] = ["own", "ours", "theirs"].map(|name| scratch.path(name));
    for path in [&own, &ours, &theirs] {
        write(path, SIZE);
    }
    drop_caches();
    let (ready, go) = (scratch.path("ready"), scratch.path("go"));
    let (mut ready_fifo, mut go_fifo) = (fifo(&ready), fifo(&go));
    let ops = [
        Op::new(&ready, How::Tell),
        Op::new(&go, How::Await),
        Op::new(&own, How::Read(vec![(0, 4096)])),
    ];
    let recording = std::thread::scope(|scope| {
        // All of this while the command is there and the probes watch.
        scope.spawn(|| {
            wait(&mut ready_fifo);
            heat(&ours);
            let status = Command::new("cat")
                .arg(&theirs)
                .stdout(std::process::Stdio::null())
                .status();
            assert!(status.expect("cat").success());
            go_fifo.write_all(b"x").expect("write");
        });
        scratch.record(&ops)
    });
    let trace = &recording.trace;
    assert_eq!(Seen::of(trace, &own).certain, spanned(&[(0, 1)], SIZE));
    for path in [&ours, &theirs] {
        assert_eq!(Seen::of(trace, path), Seen::default());
        let name = path.file_name().expect("name").as_bytes();
        let named = trace
            .names
            .iter()
            .any(|n| n.path.as_bytes().ends_with(name));
        assert!(!named, "{path:?}");
    }
}

#[test]
fn what_a_loop_device_reads_of_its_image_is_not_the_commands() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let fill = |dir: &Path| write(&dir.join("data"), SIZE);
    let Some(mut disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    disk.remount(&scratch, "ext4");
    let path = disk.mount.join("data");
    let recording = scratch.record(&[Op::new(&path, How::Read(vec![(0, SIZE)]))]);
    let trace = &recording.trace;
    assert_eq!(Seen::of(trace, &path).certain, (0..64).collect());
    assert_eq!(Seen::of(trace, &scratch.path("image")), Seen::default());
    // The disk's metadata is: what the file system read for it, and knows why.
    let blocks = trace.blocks.iter().filter(|block| {
        trace.volumes[block.volume as usize].mount_point == disk.mount.as_os_str().as_bytes()
    });
    assert!(blocks.count() > 0);
}

#[test]
fn a_device_that_is_read_is_no_file() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let fill = |dir: &Path| write(&dir.join("data"), SIZE);
    let Some(disk) = Disk::new(&scratch, Kind::Ext4, &fill) else {
        return;
    };
    let device = disk.device();
    let read = [Op::new(&device, How::Read(vec![(1 << 20, SIZE)]))];
    drop_caches();
    // From the disk: pages of the volume's device.
    let recording = scratch.record(&read);
    assert_eq!(Seen::of(&recording.trace, &device), Seen::default());
    let blocks = recording.trace.blocks.iter();
    let pages: Pages = blocks
        .flat_map(|run| run.start_page..run.start_page + u64::from(run.pages))
        .collect();
    let (wanted, stages) = ((256..320).collect(), &recording.stages);
    assert!(pages.is_superset(&wanted), "{pages:?}: {stages:#?}");
    // From the cache: pages of something that no mount shows.
    let recording = scratch.record(&read);
    assert_eq!(Seen::of(&recording.trace, &device), Seen::default());
    let gaps = recording.gaps;
    assert!(gaps.no_path + gaps.no_mount >= 1, "{gaps:?}");
}

#[test]
fn programs_that_a_command_starts_are_its_own() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let path = scratch.path("data");
    write(&path, SIZE);
    let text = path.to_str().expect("UTF-8").to_owned();
    let script = format!("(cat '{text}' >/dev/null) & wait");
    let recording = scratch.record_command(&["sh".into(), "-c".into(), script.into()]);
    assert_eq!(Seen::of(&recording.trace, &path).certain, (0..64).collect());
}
