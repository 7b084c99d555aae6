//! Looking profiles up in a store of many workloads: `cargo xtask bench store`.
//!
//! Arguments: the state directory, which is filled if it is not yet, and the number of
//! rounds. Prints a line for each measurement: what, and how long it took.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, NameTouch, PageTouch, Profile, RelPath, RunInfo,
    Trace, Volume, VolumeId,
};
use headstart::profile::{Access, Store, from_trace};
use xtask::bench::stats::Spread;

const WORKLOADS: usize = 10_000;
/// Of each workload: together a million.
const FILES: usize = 100;
const EXTENTS: u64 = 5;
const MS: u64 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args.next().map_or(Ok(7), |a| a.parse())?;
    let began = Instant::now();
    let store = Store::open(&directory, Access::Write)?;
    println!("open\t{:.1}", began.elapsed().as_secs_f64() * 1e3);
    for number in store.list()?.len()..WORKLOADS {
        let key = key(number);
        store.put(&key, &profile(number)?)?;
        store.alias(&other_keys(number), &key)?;
        if number % 1000 == 0 {
            eprintln!("{number} of {WORKLOADS} workloads are in the store");
        }
    }
    // In no order, and each once: what one look-up reads serves no other.
    let asked = |round: usize| (0..1000).map(move |n| (n * 7919 + round * 613) % WORKLOADS);
    type Names = fn(usize) -> Vec<String>;
    let ways: [(&str, Names); 3] = [
        ("found by its own key", |n| {
            [vec![key(n)], other_keys(n)].concat()
        }),
        ("found by its third key", |n| {
            let unknown = (0..2).map(|at| format!("container:new{n}-{at}"));
            unknown.chain([other_keys(n).remove(0)]).collect()
        }),
        ("not there, by four keys", |n| {
            (0..4).map(|at| format!("image:new{n}-{at}")).collect()
        }),
    ];
    for (what, names) in ways {
        let mut took = Vec::new();
        for number in (0..rounds).flat_map(asked) {
            let names = names(number);
            let began = Instant::now();
            black_box(store.find(&names)?);
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        print_times(what, &took);
    }
    let mut took = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let listed = black_box(store.list()?).len();
        took.push(began.elapsed().as_secs_f64() * 1e3);
        anyhow::ensure!(listed == WORKLOADS, "{listed} profiles are listed");
    }
    print_times("all listed", &took);
    println!("bytes\t{}", std::fs::metadata(store.path())?.len());
    Ok(())
}

fn print_times(what: &str, took: &[f64]) {
    println!("{what}\t{:.3}", Spread::of(took).unwrap_or(Spread::NONE));
}

fn key(number: usize) -> String {
    format!("unit:bench{number}.service")
}

/// Less sure ones.
fn other_keys(number: usize) -> Vec<String> {
    vec![
        format!("image:{number:012x}#0123456789abcdef"),
        format!("repository:localhost/bench{number}#0123456789abcdef"),
    ]
}

/// Of one run; no two alike.
fn profile(number: usize) -> anyhow::Result<Profile> {
    let mut trace = Trace {
        volumes: vec![Volume {
            id: VolumeId("uuid:2f6d1c0e-8f0a-4f63-9b2e-1d3c5b7a9e10".to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/".to_vec(),
        }],
        ..Trace::default()
    };
    for file in 0..FILES {
        let path = format!(
            "opt/service{number}/lib/package_{:02}/part_{file}.so",
            file / 10
        );
        let first_use_ns = file as u64 * MS;
        let spread = (number * 31 + file * 17) as u64 % 13;
        let touches = (0..EXTENTS).map(|at| PageTouch {
            start_page: at * (20 + spread),
            pages: 1 + ((at + spread) % 8) as u32,
            certainty: Certainty::Certain,
            first_use_ns: first_use_ns + at * 1000,
        });
        trace.names.push(NameTouch {
            volume: 0,
            path: RelPath::new(path.clone())?,
            kind: NameKind::File,
            listed: false,
            first_use_ns,
        });
        trace.files.push(FileTouches {
            volume: 0,
            path: RelPath::new(path)?,
            version: FileVersion {
                size: 1 << 20,
                mtime_ns: 1_700_000_000_000_000_000 + (number * FILES + file) as i64,
            },
            touches: touches.collect(),
        });
    }
    let run = RunInfo {
        started_ms: 1_700_000_000_000 + number as u64,
        id: number as u64,
        duration_ns: 1000 * MS,
        exact: false,
        blind_ns: 0,
    };
    Ok(from_trace(&trace, run))
}
