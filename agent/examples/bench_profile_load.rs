//! What a profile costs: its size, encoding and decoding, and reading it from
//! the store as a starting command does: `cargo xtask bench profile-load`.
//!
//! Arguments: a directory for the store, and the number of rounds.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, NameTouch, PageTouch, Profile, RelPath, RunInfo,
    Trace, Volume, VolumeId,
};
use headstart::profile::{Access, Store, decode, encode, from_trace, merge};
use xtask::bench::publish::Findings;
use xtask::bench::stats::{Spread, Table};

const MS: u64 = 1_000_000;

/// Files and extents: a compiler, a large application, the largest usual.
const SIZES: [(usize, usize); 3] = [(600, 6_000), (5_000, 50_000), (100_000, 1_000_000)];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args.next().map_or(Ok(7), |a| a.parse())?;
    std::fs::create_dir_all(&directory)?;
    let mut sizes = Table::new([
        "files",
        "extents",
        "names",
        "runs",
        "bytes",
        "bytes an extent",
    ]);
    let mut times = Table::new([
        "extents",
        "encode",
        "decode",
        "merge with itself",
        "open the store",
        "and load",
        "and merge into",
    ]);
    for (files, extents) in SIZES {
        eprintln!("{files} files, {extents} extents");
        measure(
            &directory,
            rounds,
            &profile(files, extents)?,
            &mut sizes,
            &mut times,
        )?;
    }
    let findings = Findings::new(&format!(
        "Profiles of four runs that differ in about a tenth of their extents, made up, in a store \
         with twenty others; {rounds} rounds, everything in memory. *Load* opens the store, reads \
         the profile and decodes it, as a command that starts does. ms: median (least to greatest)."
    ))
    .table("Sizes:", &sizes)
    .table("Times, ms:", &times);
    print!("{}", findings.into_markdown());
    Ok(())
}

/// A small generator of numbers, the same ones each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// One run over `files` files, in which about one extent in ten differs from
/// other runs: in place, certainty or time.
fn trace(files: usize, extents: usize, run: u64) -> anyhow::Result<Trace> {
    let mut same = Numbers(0x9E37_79B9_7F4A_7C15);
    let mut other = Numbers(0xD1B5_4A32_D192_ED03 ^ (run << 32));
    let mut trace = Trace {
        volumes: vec![Volume {
            id: VolumeId("uuid:2f6d1c0e-8f0a-4f63-9b2e-1d3c5b7a9e10".to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/".to_vec(),
        }],
        ..Trace::default()
    };
    let per_file = extents.div_ceil(files);
    for number in 0..files {
        let path = format!(
            "usr/lib/python3/dist-packages/package_{:03}/sub_{:02}/module_{number}.py",
            number / 300,
            number / 30 % 10
        );
        let began = same.below(30_000) * MS;
        let mut page = 0;
        let touches = (0..per_file)
            .map(|_| {
                page += 1 + same.below(40);
                let differs = same.below(10) == 0;
                let start_page = page + if differs { other.below(4) } else { 0 };
                let pages = 1 + same.below(15) as u32;
                page += 20 + u64::from(pages);
                let certain = same.below(3) > 0;
                PageTouch {
                    start_page,
                    pages,
                    certainty: if certain {
                        Certainty::Certain
                    } else {
                        Certainty::Maybe
                    },
                    first_use_ns: began + same.below(200 * MS) + other.below(MS),
                }
            })
            .collect();
        trace.names.push(NameTouch {
            volume: 0,
            path: RelPath::new(path.clone())?,
            kind: NameKind::File,
            listed: false,
            first_use_ns: began,
        });
        trace.files.push(FileTouches {
            volume: 0,
            path: RelPath::new(path)?,
            version: FileVersion {
                size: (page + 1) * 4096,
                mtime_ns: 1_700_000_000_000_000_000 + same.below(1 << 40) as i64,
            },
            touches,
        });
    }
    Ok(trace)
}

fn profile(files: usize, extents: usize) -> anyhow::Result<Profile> {
    let mut merged = Profile::default();
    for run in 0..4 {
        let info = RunInfo {
            started_ms: 1_700_000_000_000 + run,
            id: run,
            duration_ns: 60_000 * MS,
            exact: false,
            blind_ns: 0,
        };
        // A tenth of the extents is of one run only: three runs' more of those.
        let of_run = trace(files, extents * 10 / 13, run)?;
        merged = merge(&merged, &from_trace(&of_run, info));
    }
    Ok(merged)
}

/// Of so many rounds, in ms.
fn time<T>(rounds: usize, mut body: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<String> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        let began = Instant::now();
        black_box(body()?);
        if round > 0 {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(format!("{:.1}", Spread::of(&times).unwrap_or(Spread::NONE)))
}

fn measure(
    directory: &std::path::Path,
    rounds: usize,
    profile: &Profile,
    sizes: &mut Table,
    times: &mut Table,
) -> anyhow::Result<()> {
    let bytes = encode("bench", profile);
    let directory = tempfile::tempdir_in(directory)?;
    let open = |access| Store::open(directory.path(), access);
    let store = open(Access::Write)?;
    store.put("bench", profile)?;
    for number in 0..20 {
        store.put(&format!("other-{number}"), &Profile::default())?;
    }
    drop(store);
    let extents = profile.extent_count();
    sizes.row([
        profile.files.len().to_string(),
        extents.to_string(),
        profile.names.len().to_string(),
        profile.runs.len().to_string(),
        bytes.len().to_string(),
        format!("{:.1}", bytes.len() as f64 / extents as f64),
    ]);
    times.row([
        extents.to_string(),
        time(rounds, || Ok(encode("bench", profile)))?,
        time(rounds, || Ok(decode(&bytes)?))?,
        time(rounds, || Ok(merge(profile, profile)))?,
        time(rounds, || Ok(open(Access::Read)?))?,
        time(rounds, || {
            open(Access::Read)?.get("bench")?.context("it is there")
        })?,
        time(rounds, || {
            Ok(open(Access::Write)?.merge_into("bench", profile)?)
        })?,
    ]);
    Ok(())
}
