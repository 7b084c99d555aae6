//! In each stage, what came in is what went on, was lost or was filtered; and what
//! went on from one comes into the next.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headstart::model::StageCounts;
use headstart::probe::{Group, Probes, Reader, What, decode};
use headstart::run::{Cgroup, Child, Ended, Output, Recording};
use headstart_abi::{Outcome, Stage, TRACK_SLOTS};
use rustix::fs::{AtFlags, Mode};

use crate::reader::{self, How, Mapping, Op};
use crate::support::{Scratch, drop_caches, fifo, wait, write};

const SIZE: u64 = 64 * 4096;
const GROUPS: [Group; 4] = [Group::Use, Group::Miss, Group::Names, Group::Lifecycle];

type Stages = BTreeMap<&'static str, StageCounts>;

/// The stages of a recording, which add up.
fn checked(recording: &Recording) -> Stages {
    let stages: Stages = recording
        .stages
        .iter()
        .map(|stage| (stage.name, stage.clone()))
        .collect();
    assert_eq!(stages.len(), recording.stages.len());
    for stage in stages.values() {
        assert!(stage.is_balanced(), "{stage:?}");
    }
    let out = |names: &[&str]| names.iter().map(|name| stages[name].out).sum::<u64>();
    let senders = ["read", "window", "fault", "insert", "call", "exec", "inode"];
    let lost: u64 = senders.iter().map(|name| stages[name].lost).sum();
    let joints = [
        ("ring", stages["ring"].seen, out(&senders) + lost),
        ("ring, lost", stages["ring"].lost, lost),
        ("collect", stages["collect"].seen, out(&["ring"])),
        ("records", recording.records, out(&["ring"])),
        ("paths", stages["paths"].seen, out(&["inode"])),
        (
            "pages",
            stages["pages"].seen,
            out(&["read", "window", "fault"]),
        ),
        ("names", stages["names"].seen, out(&["call", "exec"])),
        ("blocks", stages["blocks"].seen, out(&["insert"])),
        ("trace, lost", recording.trace.lost, lost),
    ];
    for (joint, one, other) in joints {
        assert_eq!(one, other, "{joint}: {stages:#?}");
    }
    stages
}

#[test]
fn what_comes_in_is_what_becomes_of_it() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let [data, mapped, long, dir, none] =
        ["data", "mapped", "long", "dir", "none"].map(|name| scratch.path(name));
    write(&data, SIZE);
    write(&mapped, SIZE);
    std::fs::create_dir(&dir).expect("dir");
    let holes = std::fs::File::create(&long).expect("file");
    holes.set_len(100 << 20).expect("length");
    let mapping = Mapping {
        pages: 64,
        touch: vec![5, 6, 40, 5],
        ..Mapping::default()
    };
    let ops = [
        Op::new(&data, How::Read(vec![(0, 4096); 1000])),
        // Over the end of a chunk, and longer than is looked at in one go.
        Op::new(&long, How::Read(vec![(63 * 4096, 8192), (0, 100 << 20)])),
        Op::new(&mapped, How::Map(mapping)),
        Op::new(&dir, How::List),
        Op::new(&dir, How::List),
        Op::new(&none, How::Stat),
        Op::new(&none, How::Open),
        Op::new("/bin/true", How::Execute(vec![])),
        Op::new("/proc/self/status", How::Stat),
    ];
    drop_caches();
    let stages = checked(&scratch.record(&ops));
    assert!(stages.values().all(|stage| stage.lost == 0), "{stages:#?}");
    let filtered = |stage: &str, reason: &str| stages[stage].filtered[reason];
    assert!(filtered("read", "known") >= 999, "{stages:#?}");
    for (stage, reason) in [
        ("read", "too_long"),
        ("window", "known"),
        ("insert", "other"),
        ("call", "known"),
        ("inode", "known"),
        ("pages", "before"),
        ("names", "not_looked_up"),
    ] {
        assert!(filtered(stage, reason) > 0, "{stage} {reason}: {stages:#?}");
    }
    for stage in ["read", "window", "fault", "call", "exec", "address", "ring"] {
        assert!(stages[stage].out > 0, "{stage}: {stages:#?}");
    }
    // The same recorder, hot: other numbers, and they add up again.
    let again = checked(&scratch.record(&ops));
    assert!(filtered("insert", "other") > again["insert"].filtered["other"]);
}

#[test]
fn what_a_full_ring_loses_is_counted_in_each_stage() {
    let Some(mut scratch) = Scratch::with_ring(4096) else {
        return;
    };
    let holes = scratch.path("holes");
    let file = std::fs::File::create(&holes).expect("file");
    file.set_len(20_000 * SIZE).expect("length");
    let read = Op::new(&holes, How::EveryChunk(20_000, 2));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stages = checked(&scratch.record(std::slice::from_ref(&read)));
        let [read, ring] = ["read", "ring"].map(|stage| &stages[stage]);
        assert!(read.out > 0 && ring.out > 0, "{stages:#?}");
        // A recorder that another processor runs all the time can keep up.
        if read.lost > 0 && ring.lost > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{stages:#?}");
    }
}

#[test]
fn what_is_under_way_when_a_window_ends_is_counted() {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    let holes = scratch.path("holes");
    let file = std::fs::File::create(&holes).expect("file");
    file.set_len(2_000 * SIZE).expect("length");
    // Busy for much longer than the windows.
    let busy = reader::command(
        &scratch.path("script"),
        &[Op::new(&holes, How::EveryChunk(2_000, 100_000))],
    );
    for _ in 0..5 {
        let (recording, mut child) = scratch.record_beginning(&busy, Duration::from_millis(300));
        let stages = checked(&recording);
        let pid = rustix::process::Pid::from_raw(child.pid()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
        child.wait(None).expect("ended");
        assert!(stages["read"].filtered["known"] > 0, "{stages:#?}");
    }
}

/// Probes that watch a cgroup, without anybody who empties the ring.
fn probes(cgroup: &Cgroup, ring_bytes: u32) -> (Probes, Reader) {
    let mut probes = Probes::load(ring_bytes).expect("probes");
    let reader = probes.reader().expect("reader");
    for hook in probes.attach_where(&GROUPS, crate::support::takes) {
        assert!(hook.live, "{hook:?}");
    }
    probes.watch(cgroup.id()).expect("watched");
    (probes, reader)
}

/// How often each of `names` comes out of the ring, which is empty then.
fn times_sent(reader: &mut Reader, names: &[PathBuf]) -> Vec<usize> {
    let mut sent = Vec::new();
    reader.drain(|bytes| {
        if let What::Name(name) = decode(bytes).expect("a record").what {
            sent.push(PathBuf::from(OsStr::from_bytes(&name.path)));
        }
    });
    let times = |name| sent.iter().filter(|other| *other == name).count();
    names.iter().map(times).collect()
}

#[test]
fn a_name_that_the_ring_had_no_room_for_is_sent_at_its_next_use() {
    let Some(scratch) = Scratch::new() else {
        return;
    };
    let names: Vec<PathBuf> = (0..5).map(|i| scratch.path(&format!("none-{i}"))).collect();
    let (ready, go) = (scratch.path("ready"), scratch.path("go"));
    let (mut ready_fifo, mut go_fifo) = (fifo(&ready), fifo(&go));
    let stat = |name: &PathBuf| Op::new(name, How::Stat);
    // Fills the ring; nobody empties it.
    let mut ops: Vec<Op> = (0..500)
        .map(|i| stat(&scratch.path(&format!("filler-{i}"))))
        .collect();
    ops.extend(names.iter().map(stat));
    ops.push(Op::new(&ready, How::Tell));
    ops.push(Op::new(&go, How::Await));
    ops.extend(names.iter().chain(&names).map(stat));
    let cgroup = Cgroup::create(100).expect("cgroup");
    let (probes, mut reader) = probes(&cgroup, 4096);
    let command = reader::command(&scratch.path("script"), &ops);
    let mut child = Child::spawn(&command, Some(cgroup.as_fd()), Output::Null).expect("starts");
    wait(&mut ready_fifo);
    let lost = probes.counters().expect("counters");
    let lost = lost.get(Stage::Call, Outcome::Lost);
    assert!(lost >= names.len() as u64, "{lost}");
    assert_eq!(times_sent(&mut reader, &names), [0; 5]);
    go_fifo.write_all(b"x").expect("write");
    assert_eq!(child.wait(None).expect("ends"), Some(Ended::Exited(0)));
    let stages = probes.counters().expect("counters").stages();
    assert!(stages.iter().all(StageCounts::is_balanced), "{stages:#?}");
    // Once, although it was used twice.
    assert_eq!(times_sent(&mut reader, &names), [1; 5]);
}

#[test]
fn cgroups_that_find_their_slot_taken_are_counted() {
    let Some(_scratch) = Scratch::new() else {
        return;
    };
    let cgroup = Cgroup::create(101).expect("cgroup");
    let (probes, _reader) = probes(&cgroup, 4096);
    let names: Vec<String> = (0..TRACK_SLOTS + 10)
        .map(|i| format!("child-{i}"))
        .collect();
    for name in &names {
        rustix::fs::mkdirat(cgroup.as_fd(), name, Mode::RWXU).expect("made");
    }
    for name in &names {
        rustix::fs::unlinkat(cgroup.as_fd(), name, AtFlags::REMOVEDIR).expect("removed");
    }
    let counters = probes.counters().expect("counters");
    let count = |outcome| counters.get(Stage::Cgroup, outcome);
    assert_eq!(count(Outcome::In), names.len() as u64);
    assert!(count(Outcome::Lost) > 10, "{counters:?}");
    assert_eq!(
        count(Outcome::Out) + count(Outcome::Lost),
        count(Outcome::In)
    );
    assert!(counters.stages().iter().all(StageCounts::is_balanced));
}
