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
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use headstart::model::{Action, Plan, PlanFile, Profile, RunInfo};
use headstart::plan::Timing;
use headstart::predict::{Sureness, predict, wants_exact};
use headstart::profile::{from_trace, merge};
use headstart::run::{Output, RING_BYTES, Recorder, Traced, Warmup, drop_caches};
use headstart::warm::measure;
use xtask::bench::disk::Disk;
use xtask::bench::programs::{self, Program};
use xtask::bench::publish::Findings;
use xtask::bench::stats::Table;

use pages::Pages;

/// What a disk reads ahead if nobody changed it, KiB.
const STOCK: u32 = 128;

/// How a program's runs are recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// As `headstart record` does: the first run is traced, page by page.
    Auto,
    /// As they run.
    Untraced,
}

/// What a program uses. What no dropping of caches gets out of memory, because
/// others use it, is left out of it and of all that is compared with it.
struct Truth {
    /// Never out of memory.
    always: Pages,
    /// Used, by one cold run or another.
    used: Pages,
    /// Of these, not by all runs.
    not_always: u64,
    /// Left by a cold run with stock read-ahead.
    stock: Pages,
    /// The same with this disk's.
    own: Pages,
}

/// What is warmed for it.
struct Warmed {
    certain: Pages,
    maybe: Pages,
    /// Only because they lie between others.
    between: Pages,
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
        let both = find(&program, &directory, rounds.max(2));
        let (truth, auto, untraced) =
            both.with_context(|| format!("measuring {}", program.name))?;
        for (name, warmed) in [
            (program.name.to_owned(), auto),
            (format!("{}, untraced", program.name), untraced),
        ] {
            let (covered, amount) = rows(&name, &truth, &warmed);
            coverage.row(covered);
            amounts.row(amount);
        }
    }
    let findings = Findings::new(&format!(
        "What a program *uses* is what is resident (mincore) after a cold run while the disk reads \
         nothing ahead, in all files that its profile names or that strace sees it open to read, \
         without those it writes; the union of {} runs. *Warmed* is the plan of a start with lead \
         after two recorded runs, in three parts: pages that a run certainly used, pages that only were in the windows of \
         faults, and pages that lie between such. Pages that stay resident when caches are dropped \
         (something else uses them) are left out everywhere. *Untraced*: both runs were recorded \
         with `--exact never`; else as `headstart record` does it.",
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

fn find(
    program: &Program,
    scratch: &Path,
    rounds: usize,
) -> anyhow::Result<(Truth, Warmed, Warmed)> {
    let command = &program.command;
    let began = SystemTime::now();
    let mut files = opened::opened(command, scratch)?;
    let mut plans = Vec::new();
    for recording in [Recording::Auto, Recording::Untraced] {
        let profile = record(command, recording)?;
        let plan = plan(&profile);
        files.extend(plan.files.iter().map(|file| path_of(&plan, file)));
        plans.push(planned(&profile, &plan));
    }
    // What a run writes is in memory without having been read.
    files.retain(|file| !written_since(file, began));
    let truth = truth(command, &files, rounds)?;
    let mut warmed = plans.into_iter().map(|(certain, maybe, all)| Warmed {
        between: all.without(&certain).without(&maybe).without(&truth.always),
        certain: certain.without(&truth.always),
        maybe: maybe.without(&truth.always),
    });
    let two = warmed.next().zip(warmed.next());
    let (auto, untraced) = two.context("there are two plans")?;
    Ok((truth, auto, untraced))
}

/// File times are a little behind the clock.
fn written_since(file: &Path, began: SystemTime) -> bool {
    let modified = file.metadata().and_then(|m| m.modified());
    modified.is_ok_and(|time| time + Duration::from_secs(1) > began)
}

fn truth(command: &[OsString], files: &BTreeSet<PathBuf>, rounds: usize) -> anyhow::Result<Truth> {
    let disk = Disk::of(Path::new(&command[0]))?;
    let as_it_is = disk.read_ahead()?;
    let mut always = Pages::default();
    let mut cold = |read_ahead: u32| -> anyhow::Result<Pages> {
        let (stays, left) = cold_run(command, files, &disk, read_ahead)?;
        always = always.or(&stays);
        Ok(left)
    };
    let mut used = cold(0)?;
    let mut each_time = used.clone();
    for _ in 1..rounds {
        let run = cold(0)?;
        used = used.or(&run);
        each_time = each_time.and(&run);
    }
    let (stock, own) = (cold(STOCK)?, cold(as_it_is)?);
    let used = used.without(&always);
    Ok(Truth {
        not_always: used.without(&each_time).count(),
        used,
        stock: stock.without(&always),
        own: own.without(&always),
        always,
    })
}

/// Two hot runs.
fn record(command: &[OsString], how: Recording) -> anyhow::Result<Profile> {
    run(command)?;
    let mut recorder = Recorder::new(RING_BYTES)?;
    let mut profile = Profile::default();
    for id in 0..2 {
        let exact = how == Recording::Auto && wants_exact(&profile);
        let (recording, _) = if exact {
            recorder.record_exact(command, Output::Null, None)?
        } else {
            recorder.record(command, Output::Null, None)?
        };
        ensure!(recording.trace.lost == 0, "records were lost");
        let info = RunInfo {
            started_ms: id,
            id,
            duration_ns: recording.trace.duration_ns,
            exact: recording.traced.as_ref().is_some_and(Traced::is_exact),
            blind_ns: 0,
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
    match largest.map(|file| measure(&path_of(&plan, file))) {
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
            let path = path_of(plan, &plan.files[file as usize]);
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

fn path_of(plan: &Plan, file: &PlanFile) -> PathBuf {
    path(&plan.volumes[file.volume as usize].absolute(&file.path))
}

fn path(bytes: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(bytes));
    // As strace's files are named.
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Rows of the two tables.
fn rows(name: &str, truth: &Truth, warmed: &Warmed) -> ([String; 9], [String; 9]) {
    let percent = |part: u64, whole: u64| match whole {
        0 => "–".to_owned(),
        _ => format!("{:.1} %", part as f64 / whole as f64 * 100.0),
    };
    let Warmed {
        certain,
        maybe,
        between,
    } = warmed;
    let with_maybe = certain.or(maybe);
    let all = with_maybe.or(between);
    let covered = |pages: &Pages| percent(truth.used.and(pages).count(), truth.used.count());
    let unused = |pages: &Pages| percent(pages.without(&truth.used).count(), pages.count());
    for (file, count) in truth.used.without(&all).files().iter().take(5) {
        eprintln!("  {name}: not covered: {count} pages of {}", file.display());
    }
    let mebibytes = |pages: &Pages| format!("{:.1}", pages.mebibytes());
    (
        [
            name.to_owned(),
            mebibytes(&truth.used),
            format!("{} pages", truth.not_always),
            covered(certain),
            covered(&with_maybe),
            covered(&all),
            unused(certain),
            unused(maybe),
            unused(between),
        ],
        [
            name.to_owned(),
            mebibytes(certain),
            mebibytes(maybe),
            mebibytes(between),
            mebibytes(&all),
            mebibytes(&truth.stock),
            percent(all.count(), truth.stock.count()),
            percent(certain.count(), truth.stock.count()),
            mebibytes(&truth.own),
        ],
    )
}
