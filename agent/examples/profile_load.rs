//! Measures what a profile costs: its size, encoding and decoding, and reading
//! it from the store as a starting command does (open, read, decode).
//!
//! `cargo run --release --example profile_load [FILES EXTENTS]`; without
//! numbers, a compiler-sized profile and the largest usual one. Prints one JSON
//! object a profile; times are medians of seven runs in ms, with the least and
//! the most.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, NameTouch, PageTouch, Profile, RelPath, RunInfo,
    Trace, Volume, VolumeId,
};
use headstart::profile::{Access, Store, decode, encode, from_trace, merge};

const RUNS: usize = 7;
const MS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    match numbers[..] {
        [] => {
            measure(600, 6_000)?;
            measure(5_000, 50_000)?;
            measure(100_000, 1_000_000)
        }
        [files, extents] => measure(files, extents),
        _ => Err("give both FILES and EXTENTS, or neither".into()),
    }
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
fn trace(files: usize, extents: usize, run: u64) -> Result<Trace, Box<dyn Error>> {
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

fn profile(files: usize, extents: usize) -> Result<Profile, Box<dyn Error>> {
    let mut merged = Profile::default();
    for run in 0..4 {
        let info = RunInfo {
            started_ms: 1_700_000_000_000 + run,
            id: run,
            duration_ns: 60_000 * MS,
        };
        // A tenth of the extents is of one run only: three runs' more of those.
        let of_run = trace(files, extents * 10 / 13, run)?;
        merged = merge(&merged, &from_trace(&of_run, info));
    }
    Ok(merged)
}

/// `"least", "median", "most"` of seven runs, in ms.
fn time<T>(
    mut body: impl FnMut() -> Result<T, Box<dyn Error>>,
) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut times = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let start = Instant::now();
        black_box(body()?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let round = |ms: f64| (ms * 1e3).round() / 1e3;
    Ok(serde_json::json!({
        "least_ms": round(times[0]),
        "median_ms": round(times[RUNS / 2]),
        "most_ms": round(times[RUNS - 1]),
    }))
}

fn measure(files: usize, extents: usize) -> Result<(), Box<dyn Error>> {
    let profile = profile(files, extents)?;
    let bytes = encode("bench", &profile);
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Access::Write)?;
    store.put("bench", &profile)?;
    for number in 0..20 {
        store.put(&format!("other-{number}"), &Profile::default())?;
    }
    drop(store);

    let result = serde_json::json!({
        "files": profile.files.len(),
        "extents": profile.extent_count(),
        "names": profile.names.len(),
        "runs": profile.runs.len(),
        "bytes": bytes.len(),
        "encode": time(|| Ok(encode("bench", &profile)))?,
        "decode": time(|| Ok(decode(&bytes)?))?,
        "merge_itself": time(|| Ok(merge(&profile, &profile)))?,
        "store_open": time(|| Ok(Store::open(dir.path(), Access::Read)?))?,
        "store_open_bytes": time(|| {
            let store = Store::open(dir.path(), Access::Read)?;
            Ok(store.get_bytes("bench")?.ok_or("not there")?)
        })?,
        "store_load": time(|| {
            let store = Store::open(dir.path(), Access::Read)?;
            Ok(store.get("bench")?.ok_or("not there")?)
        })?,
        "store_merge_into": time(|| {
            let store = Store::open(dir.path(), Access::Write)?;
            Ok(store.merge_into("bench", &profile)?)
        })?,
    });
    println!("{}", serde_json::to_string(&result)?);
    Ok(())
}
