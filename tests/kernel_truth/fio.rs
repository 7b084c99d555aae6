//! fio as the reader; what it did is what its own log says.

use std::ffi::OsString;
use std::path::Path;

use crate::pages::{Pages, Seen, all_hold, spanned};
use crate::support::{Scratch, drop_caches, heat, prepare, write};

const SIZE: u64 = 16 << 20;

/// Engine, pattern, and the rest of the options.
type Job = (&'static str, &'static str, &'static [&'static str]);

const READS: &[Job] = &[
    ("psync", "read", &["--bs=64k", "--io_size=6m"]),
    (
        "psync",
        "randread",
        &["--bs=4k", "--io_size=2m", "--randseed=7"],
    ),
    (
        "psync",
        "randread",
        &[
            "--bsrange=512-40k",
            "--bs_unaligned=1",
            "--io_size=4m",
            "--randseed=9",
        ],
    ),
    ("psync", "read:60k", &["--bs=4k", "--io_size=1m"]),
    (
        "pvsync2",
        "randread",
        &["--bs=16k", "--io_size=2m", "--randseed=3"],
    ),
    ("splice", "read", &["--bs=32k", "--io_size=3m"]),
    (
        "libaio",
        "randread",
        &["--bs=8k", "--io_size=2m", "--iodepth=8", "--randseed=4"],
    ),
    (
        "io_uring",
        "randread",
        &["--bs=8k", "--io_size=2m", "--iodepth=8", "--randseed=5"],
    ),
    (
        "io_uring",
        "randread",
        &[
            "--bs=8k",
            "--io_size=2m",
            "--iodepth=8",
            "--force_async=4",
            "--randseed=6",
        ],
    ),
];

const DIRECT: &[Job] = &[
    (
        "psync",
        "randread",
        &["--direct=1", "--bs=16k", "--io_size=2m"],
    ),
    (
        "io_uring",
        "randread",
        &["--direct=1", "--bs=16k", "--io_size=2m", "--iodepth=8"],
    ),
];

const MAPS: &[Job] = &[
    ("mmap", "read", &["--bs=64k", "--io_size=6m"]),
    (
        "mmap",
        "randread",
        &["--bs=4k", "--io_size=1m", "--randseed=7"],
    ),
    ("mmap", "read:60k", &["--bs=4k", "--io_size=1m"]),
];

/// Runs a job, recorded; what was seen of its file, and what it read. `None`
/// where fio can't run it.
fn run(scratch: &mut Scratch, job: &Job, hot: bool) -> Option<(Seen, Pages)> {
    let (engine, pattern, options) = job;
    let file = scratch.path("data");
    let log = scratch.path("log");
    let _ = std::fs::remove_file(&log);
    let mut command: Vec<OsString> = vec!["fio".into(), "--name=truth".into()];
    for (key, value) in [("filename", &file), ("write_iolog", &log)] {
        command.push(format!("--{key}={}", value.display()).into());
    }
    command.push(format!("--size={SIZE}").into());
    command.push(format!("--ioengine={engine}").into());
    command.push(format!("--rw={pattern}").into());
    command.push(format!("--invalidate={}", u8::from(!hot)).into());
    command.push("--output=/dev/null".into());
    command.extend(options.iter().map(OsString::from));
    // A page each: see "Reads that wait" in docs/what-is-seen.md.
    if !hot && ["libaio", "io_uring"].contains(engine) {
        command.push("--bs=4k".into());
    }
    // Whether it works here is found out without being recorded.
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> = command[1..]
        .iter()
        .map(|arg| arg as &dyn AsRef<std::ffi::OsStr>)
        .collect();
    prepare("fio", &args)?;
    // It would be added to.
    std::fs::remove_file(&log).expect("log");
    drop_caches();
    if hot {
        heat(&file);
    }
    let recording = scratch.record_command(&command);
    assert_eq!(recording.trace.lost, 0);
    let used = spanned(&logged(&log), SIZE);
    assert!(!used.is_empty());
    Some((Seen::of(&recording.trace, &file), used))
}

/// The reads that fio logged: lines of "[time] file read offset length".
fn logged(log: &Path) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(log).expect("log");
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip_while(|&w| w != "read");
            words.next()?;
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

fn jobs(jobs: &[Job], check: fn(&Seen, &Pages) -> Result<(), String>) {
    let Some(mut scratch) = Scratch::new() else {
        return;
    };
    write(&scratch.path("data"), SIZE);
    let mut results = Vec::new();
    for job in jobs {
        for hot in [false, true] {
            let Some((seen, used)) = run(&mut scratch, job, hot) else {
                continue;
            };
            let what = format!("{job:?}, hot: {hot}");
            eprintln!(
                "{what}: used {} certain {} maybe {}",
                used.len(),
                seen.certain.len(),
                seen.maybe.len()
            );
            results.push((what, check(&seen, &used)));
        }
    }
    all_hold(results);
}

#[test]
fn buffered_reads_are_exact() {
    jobs(READS, Seen::check_read);
}

#[test]
fn direct_reads_are_not_seen() {
    jobs(DIRECT, |seen, _| seen.check_read(&Pages::new()));
}

#[test]
fn mapped_reads_are_seen() {
    jobs(MAPS, Seen::check_mapped);
}
