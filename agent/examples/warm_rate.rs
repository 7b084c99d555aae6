//! How fast a plan is carried out, against vmtouch and fio on the same file.
//!
//! `cargo run --release --example warm_rate -- [DIR [MIB [ROUNDS]]]`, as root:
//! page caches are dropped before every measurement. The contestants take turns
//! within a round, so that a machine that slows down slows all of them down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use headstart::model::{
    Action, DeviceCost, FileVersion, PAGE_SIZE, Plan, PlanFile, RelPath, Volume, VolumeId,
};
use headstart::warm::{
    Cancel, Lead, Progress, VolumeRoots, WarmOptions, device_node, execute, measure,
};

/// Pages of a scattered extent: 16 KiB.
const EXTENT_PAGES: u64 = 4;

struct Row {
    name: &'static str,
    /// MiB/s, one a round.
    rates: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "target/bench".to_owned()));
    let mebibytes: u64 = args.next().map_or(Ok(2048), |a| a.parse())?;
    let rounds: usize = args.next().map_or(Ok(7), |a| a.parse())?;
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let file = dir.join(format!("warm_rate.{mebibytes}"));
    if !file.exists() {
        fio(
            &file,
            mebibytes,
            &["--rw=write", "--bs=1m", "--end_fsync=1", "--refill_buffers"],
        )?;
    }
    let cost = device_cost(&file);
    println!(
        "device: {:.0} µs alone, {:.0} reads/s deep, {:.0} MB/s",
        cost.latency_ns / 1e3,
        1e9 / cost.read_ns,
        cost.bytes_per_s / 1e6
    );

    let whole = plan(&dir, &file, vec![(0, mebibytes * 256)]);
    let mut rows = rows(&[
        "headstart ahead",
        "headstart ahead, verified",
        "headstart beside",
        "vmtouch -t",
        "fio read buffered 1m",
        "fio read direct 1m x32",
    ]);
    for round in 0..=rounds {
        let results = [
            warm(&whole, &options(cost, Lead::Ahead, false))?,
            warm(&whole, &options(cost, Lead::Ahead, true))?,
            warm(&whole, &options(cost, Lead::Beside, false))?,
            vmtouch(&file, mebibytes)?,
            fio(
                &file,
                mebibytes,
                &["--rw=read", "--bs=1m", "--ioengine=psync"],
            )?,
            fio(
                &file,
                mebibytes,
                &[
                    "--rw=read",
                    "--bs=1m",
                    "--ioengine=libaio",
                    "--direct=1",
                    "--iodepth=32",
                ],
            )?,
        ];
        record(&mut rows, round, &results);
    }
    println!("\none file of {mebibytes} MiB, from its beginning to its end");
    print(&rows, 1.0, "");

    // Every other extent of the file, shuffled, up to 100,000 of them.
    let slots = mebibytes * 256 / EXTENT_PAGES;
    let mut extents: Vec<(u64, u64)> = (0..slots)
        .map(|s| (s * EXTENT_PAGES, EXTENT_PAGES))
        .collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for at in (1..extents.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        extents.swap(at, (state % (at as u64 + 1)) as usize);
    }
    extents.truncate(100_000.min(extents.len() * 4 / 5));
    let count = extents.len();
    let scattered = plan(&dir, &file, extents);
    let io_size = format!("--io_size={}", count as u64 * EXTENT_PAGES * PAGE_SIZE);
    let mut rows = self::rows(&[
        "headstart ahead",
        "headstart ahead, verified",
        "headstart beside",
        "fio randread buffered psync",
        "fio randread direct x32",
    ]);
    for round in 0..=rounds {
        let random = ["--rw=randread", "--bs=16k", &io_size];
        let direct = ["--ioengine=libaio", "--direct=1", "--iodepth=32"];
        let results = [
            warm(&scattered, &options(cost, Lead::Ahead, false))?,
            warm(&scattered, &options(cost, Lead::Ahead, true))?,
            warm(&scattered, &options(cost, Lead::Beside, false))?,
            fio(
                &file,
                mebibytes,
                &[&random[..], &["--ioengine=psync"]].concat(),
            )?,
            fio(&file, mebibytes, &[&random[..], &direct[..]].concat())?,
        ];
        record(&mut rows, round, &results);
    }
    println!("\n{count} scattered extents of 16 KiB");
    print(&rows, 64.0, " IOPS");
    Ok(())
}

/// Of the device below the file, else of the file, else a default.
fn device_cost(file: &Path) -> DeviceCost {
    let below = rustix::fs::stat(file)
        .ok()
        .map(|s| (rustix::fs::major(s.st_dev), rustix::fs::minor(s.st_dev)))
        .and_then(|device| device_node(device).ok());
    let device = below.as_deref().map(measure);
    let measured = match device {
        Some(Ok(cost)) => Ok(cost),
        // A node may keep its disks to itself.
        _ => measure(file),
    };
    measured.unwrap_or_else(|error| {
        eprintln!("device not measured: {error}");
        DeviceCost::UNMEASURED
    })
}

fn plan(dir: &Path, file: &Path, extents: Vec<(u64, u64)>) -> Arc<Plan> {
    use std::os::unix::ffi::OsStrExt;
    let name = file.file_name().map(|n| n.as_bytes().to_vec());
    Arc::new(Plan {
        volumes: vec![Volume {
            id: VolumeId("path:bench".to_owned()),
            fs_type: String::new(),
            mount_point: dir.as_os_str().as_bytes().to_vec(),
        }],
        files: vec![PlanFile {
            volume: 0,
            path: RelPath::new(name.unwrap_or_default()).unwrap_or_default(),
            version: FileVersion::default(),
        }],
        actions: extents
            .into_iter()
            .map(|(start_page, pages)| Action::Read {
                file: 0,
                start_page,
                pages: pages as u32,
                gap_pages: 0,
                certain: true,
            })
            .collect(),
        ..Plan::default()
    })
}

fn options(cost: DeviceCost, lead: Lead, verify: bool) -> WarmOptions {
    let threads = std::env::var("WARM_THREADS")
        .ok()
        .and_then(|t| t.parse().ok());
    WarmOptions {
        lead,
        verify,
        cost,
        threads: threads.unwrap_or(0),
        ..WarmOptions::default()
    }
}

fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches needs root")
}

fn warm(plan: &Arc<Plan>, options: &WarmOptions) -> anyhow::Result<f64> {
    drop_caches()?;
    let roots = Arc::new(VolumeRoots::read()?);
    let progress = Arc::new(Progress::default());
    let started = Instant::now();
    let report = execute(plan, &roots, options, &progress, &Cancel::new());
    let seconds = started.elapsed().as_secs_f64();
    ensure!(report.is_complete(), "not complete: {report:#?}");
    Ok(report.data.read as f64 / 1048576.0 / seconds)
}

fn vmtouch(file: &Path, mebibytes: u64) -> anyhow::Result<f64> {
    drop_caches()?;
    let started = Instant::now();
    let output = Command::new("vmtouch")
        .args(["-q", "-t"])
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "vmtouch failed");
    Ok(mebibytes as f64 / started.elapsed().as_secs_f64())
}

fn fio(file: &Path, mebibytes: u64, args: &[&str]) -> anyhow::Result<f64> {
    drop_caches()?;
    let output = Command::new("fio")
        .args(["--name=x", "--invalidate=0", "--output-format=json"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--size={mebibytes}m"))
        .args(args)
        .output()
        .context("fio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(json) = text.find('{').and_then(|at| text.get(at..)) else {
        bail!("fio: {}", String::from_utf8_lossy(&output.stderr));
    };
    let value: serde_json::Value = serde_json::from_str(json)?;
    let bytes = value["jobs"][0]["read"]["bw_bytes"].as_f64();
    Ok(bytes.context("fio printed no rate")? / 1048576.0)
}

fn rows(names: &[&'static str]) -> Vec<Row> {
    let row = |&name| Row {
        name,
        rates: Vec::new(),
    };
    names.iter().map(row).collect()
}

/// The first round is not counted.
fn record(rows: &mut [Row], round: usize, results: &[f64]) {
    if round > 0 {
        for (row, &rate) in rows.iter_mut().zip(results) {
            row.rates.push(rate);
        }
    }
}

/// Medians, the span from slowest to fastest, and the median over rounds of the
/// first row's rate against each other row's.
fn print(rows: &[Row], per_mebibyte: f64, unit: &str) {
    let unit = if unit.is_empty() { " MiB/s" } else { unit };
    println!(
        "{:<30} {:>9}{unit}  {:>19}  headstart against it",
        "", "median", "slowest … fastest"
    );
    for row in rows {
        let ratios = rows[0].rates.iter().zip(&row.rates).map(|(a, b)| a / b);
        let rates: Vec<f64> = row.rates.iter().map(|r| r * per_mebibyte).collect();
        println!(
            "{:<30} {:>9.0}{:w$}  {:>8.0} … {:>8.0}  {:.2}",
            row.name,
            median(&rates),
            "",
            rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates.iter().copied().fold(0.0, f64::max),
            median(&ratios.collect::<Vec<_>>()),
            w = unit.len(),
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
