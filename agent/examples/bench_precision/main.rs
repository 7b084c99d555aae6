//! How much of what a program uses is warmed, and how much of what is warmed it
//! uses: `cargo xtask bench precision`.
//!
//! Arguments: a directory for what programs work on, the number of times that
//! the truth is taken, and programs (all, without any).

mod opened;
mod pages;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use headstart::model::{Action, Plan, Profile, RunInfo};
use headstart::plan::Timing;
use headstart::predict::{Sureness, predict};
use headstart::profile::{from_trace, merge};
use headstart::run::{Output, RING_BYTES, Recorder, Warmup, drop_caches};
use headstart::warm::measure;
use xtask::bench::disk::Disk;
use xtask::bench::programs::{self, Program};
use xtask::bench::publish::Findings;
use xtask::bench::stats::Table;

use pages::Pages;

/// What a disk reads ahead if nobody changed it, KiB.
const STOCK: u32 = 128;

/// Pages of one program. What no dropping of caches gets out of memory
/// (others use it) is in none of them.
struct Found {
    /// Used, by one cold run or another.
    used: Pages,
    /// Of these, not by all runs.
    not_always: u64,
    certain: Pages,
    maybe: Pages,
    /// Warmed because they lie between others.
    between: Pages,
    /// Left by a cold run with stock read-ahead.
    stock: Pages,
    /// The same with this disk's.
    own: Pages,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args.next().map_or(Ok(2), |a| a.parse())?;
    let wanted: Vec<String> = args.collect();
    let mut coverage = Table::new([
        "program",
        "used, MiB",
        "not used each time",
        "covered by certain",
        "and maybe",
        "and between",
        "certain never used",
        "maybe never used",
        "between never used",
    ]);
    let mut amounts = Table::new([
        "program",
        "certain, MiB",
        "maybe, MiB",
        "between, MiB",
        "warmed, MiB",
        "left by a cold run, 128 KiB ahead",
        "warmed ÷ this",
        "certain ÷ this",
        "left by a cold run, this disk's read-ahead",
    ]);
    for program in programs::prepare(&directory, &wanted)? {
        eprintln!("{}: {}", program.name, program.what);
        let found = find(&program, &directory, rounds.max(2))
            .with_context(|| format!("measuring {}", program.name))?;
        let (covered, amount) = found.rows(program.name);
        coverage.row(covered);
        amounts.row(amount);
    }
    let findings = Findings::new(&format!(
        "What a program *uses* is what is resident (mincore) after a cold run while the disk reads \
         nothing ahead, in all files that its profile names or that strace sees it open to read, \
         and does not see it write; the union of {} runs. *Warmed* is the plan of a start with lead after two recorded runs, \
         in three parts: pages that a run certainly used, pages that only were in the windows of \
         faults, and pages that lie between such. Pages that stay resident when caches are dropped \
         (something else uses them) are left out everywhere.",
        rounds.max(2)
    ))
    .table("Coverage, and what is warmed for nothing:", &coverage)
    .table(
        "Amounts, against what a cold run leaves resident:",
        &amounts,
    );
    print!("{}", findings.into_markdown());
    Ok(())
}

fn find(program: &Program, scratch: &Path, rounds: usize) -> anyhow::Result<Found> {
    let command = &program.command;
    let profile = record(command)?;
    let plan = plan(&profile);
    let mut files: BTreeSet<PathBuf> = plan
        .files
        .iter()
        .map(|file| path(&plan.volumes[file.volume as usize].absolute(&file.path)))
        .collect();
    let opened = opened::opened(command, scratch)?;
    files.extend(opened.read);
    files.retain(|file| !opened.written.contains(file));

    let disk = Disk::of(Path::new(&command[0]))?;
    let mut always = Pages::default();
    let truth = cold_run(command, &files, &disk, 0)?;
    let mut runs = vec![truth];
    for _ in 1..rounds {
        runs.push(cold_run(command, &files, &disk, 0)?);
    }
    for (stays, _) in &runs {
        always = always.or(stays);
    }
    let (stays, stock) = cold_run(command, &files, &disk, STOCK)?;
    always = always.or(&stays);
    let (stays, own) = cold_run(command, &files, &disk, disk.read_ahead()?)?;
    always = always.or(&stays);

    let mut used = Pages::default();
    let mut each_time = runs[0].1.clone();
    for (_, run) in &runs {
        used = used.or(run);
        each_time = each_time.and(run);
    }
    let (certain, maybe, warmed) = planned(&profile, &plan);
    let without = |pages: &Pages| pages.without(&always);
    let used = without(&used);
    Ok(Found {
        not_always: used.without(&each_time).count(),
        used,
        certain: without(&certain),
        maybe: without(&maybe),
        between: without(&warmed.without(&certain).without(&maybe)),
        stock: without(&stock),
        own: without(&own),
    })
}

/// Two hot runs.
fn record(command: &[OsString]) -> anyhow::Result<Profile> {
    run(command)?;
    let mut recorder = Recorder::new(RING_BYTES)?;
    let mut profile = Profile::default();
    for id in 0..2 {
        let (recording, _) = recorder.record(command, Output::Null, None)?;
        ensure!(recording.trace.lost == 0, "records were lost");
        let info = RunInfo {
            started_ms: id,
            id,
            duration_ns: recording.trace.duration_ns,
            exact: false,
        };
        profile = merge(&profile, &from_trace(&recording.trace, info));
    }
    Ok(profile)
}

/// With lead, for the disk as it is.
fn plan(profile: &Profile) -> Plan {
    let mut warmup = Warmup::default();
    let plan = warmup.plan(profile, Timing::Ahead);
    let largest = plan.files.iter().max_by_key(|file| file.version.size);
    let largest = largest.map(|f| path(&plan.volumes[f.volume as usize].absolute(&f.path)));
    match largest.map(|file| measure(&file)) {
        Some(Ok(cost)) => warmup.cost = cost,
        Some(Err(error)) => eprintln!("the disk is not measured: {error}"),
        None => {}
    }
    warmup.plan(profile, Timing::Ahead)
}

/// Certain pages, maybe pages, and all that the plan reads.
fn planned(profile: &Profile, plan: &Plan) -> (Pages, Pages, Pages) {
    let (mut certain, mut maybe, mut warmed) = Default::default();
    let prediction = predict(profile);
    for file in &prediction.files {
        let path = path(&prediction.volumes[file.volume as usize].absolute(&file.path));
        for extent in &file.extents {
            let pages: &mut Pages = match extent.sureness {
                Sureness::Certain => &mut certain,
                Sureness::Maybe => &mut maybe,
            };
            pages.add(&path, extent.start_page, u64::from(extent.pages));
        }
    }
    for action in &plan.actions {
        if let Action::Read {
            file,
            start_page,
            pages,
            ..
        } = *action
        {
            let file = &plan.files[file as usize];
            let path = path(&plan.volumes[file.volume as usize].absolute(&file.path));
            let warmed: &mut Pages = &mut warmed;
            // What is not there any more is not warmed.
            if path.is_file() {
                warmed.add(&path, start_page, u64::from(pages));
            }
        }
    }
    // What the plan leaves out is not warmed, however certain.
    (certain.and(&warmed), maybe.and(&warmed), warmed)
}

/// What dropping caches leaves resident, and what a run after it does.
fn cold_run(
    command: &[OsString],
    files: &BTreeSet<PathBuf>,
    disk: &Disk,
    read_ahead: u32,
) -> anyhow::Result<(Pages, Pages)> {
    let _put_back = disk.set_read_ahead(read_ahead)?;
    drop_caches()?;
    let before = Pages::resident(files)?;
    drop_caches()?;
    run(command)?;
    Ok((before, Pages::resident(files)?))
}

fn run(command: &[OsString]) -> anyhow::Result<()> {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "the command failed: {status}");
    Ok(())
}

fn path(bytes: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(bytes));
    // As strace's files are named.
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl Found {
    fn rows(&self, name: &str) -> ([String; 9], [String; 9]) {
        let percent = |part: u64, whole: u64| match whole {
            0 => "–".to_owned(),
            _ => format!("{:.1} %", part as f64 / whole as f64 * 100.0),
        };
        let used = self.used.count();
        let with_maybe = self.certain.or(&self.maybe);
        let warmed = with_maybe.or(&self.between);
        let covered = |pages: &Pages| percent(self.used.and(pages).count(), used);
        let unused = |pages: &Pages| percent(pages.without(&self.used).count(), pages.count());
        for (file, count) in self.used.without(&warmed).files().iter().take(5) {
            eprintln!("  not covered: {count} pages of {}", file.display());
        }
        let mebibytes = |pages: &Pages| format!("{:.1}", pages.mebibytes());
        (
            [
                name.to_owned(),
                mebibytes(&self.used),
                format!("{} pages", self.not_always),
                covered(&self.certain),
                covered(&with_maybe),
                covered(&warmed),
                unused(&self.certain),
                unused(&self.maybe),
                unused(&self.between),
            ],
            [
                name.to_owned(),
                mebibytes(&self.certain),
                mebibytes(&self.maybe),
                mebibytes(&self.between),
                mebibytes(&warmed),
                mebibytes(&self.stock),
                percent(warmed.count(), self.stock.count()),
                percent(self.certain.count(), self.stock.count()),
                mebibytes(&self.own),
            ],
        )
    }
}
