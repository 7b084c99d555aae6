//! `cargo xtask bench starts`: cold, zero-lead, warmed and hot starts of real
//! programs, on the disk as it is or on a slow one.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::bound::{Speed, bytes_used};
use super::compared::{Compared, RECORDED_RUNS};
use super::programs::{self, Program};
use super::publish::Findings;
use super::stats::{Spread, Table};
use super::throttle::{Limits, Throttle};
use super::{Bench, prototype};
use crate::run;

/// The slow disk.
const SLOW: Limits = Limits {
    bytes: Some(100_000_000),
    requests: Some(2_000),
};

/// One program's starts: from plans with maybe pages and without.
struct Measured {
    name: &'static str,
    with: Compared,
    without: Compared,
    bytes_used: u64,
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench, wanted: &[String], slow: bool) -> Result<String> {
    let agent = bench.agent()?;
    let programs = programs::prepare(&bench.directory, wanted)?;
    ensure!(!programs.is_empty(), "there is nothing to measure");
    let state = State::fresh(&bench.directory)?;
    let unthrottled = Speed::measure(&programs::large_file(&bench.directory)?)?;
    let speed = if slow {
        unthrottled.within(SLOW)
    } else {
        unthrottled
    };
    let mut all = Vec::new();
    for program in &programs {
        eprintln!("{}: {}", program.name, program.what);
        let throttle = match slow {
            true => Some(Throttle::new(Path::new(&program.command[0]), SLOW)?),
            false => None,
        };
        let headstart = || state.command(&agent, throttle.as_ref());
        all.push(one(program, bench.rounds, headstart)?);
    }
    Ok(findings(&all, bench.rounds, slow, speed).into_markdown())
}

/// Records one hot run, then compares.
fn one(program: &Program, rounds: u32, headstart: impl Fn() -> Command) -> Result<Measured> {
    // Hot, so that recording sees what is used and not what a first run does.
    run::captured(Command::new(&program.command[0]).args(&program.command[1..]))?;
    run::captured(
        headstart()
            .args(["record", "--profile", program.name, "--"])
            .args(&program.command),
    )?;
    let compare = |more: &[&str]| -> Result<Compared> {
        let text = run::captured(
            headstart()
                .args(["--json", "compare", "--profile", program.name])
                .args(["--rounds", &rounds.to_string()])
                .args(more)
                .arg("--")
                .args(&program.command),
        )?;
        let compared: Compared = serde_json::from_str(&text).context("reading the comparison")?;
        ensure!(
            compared.runs_recorded == RECORDED_RUNS,
            "the profile holds {} runs",
            compared.runs_recorded
        );
        Ok(compared)
    };
    Ok(Measured {
        name: program.name,
        with: compare(&[])?,
        without: compare(&["--no-maybe"])?,
        bytes_used: bytes_used(program)?,
    })
}

/// Profiles and measured device costs of this measurement alone: what another
/// left behind, of another disk perhaps, is not used.
struct State(PathBuf);

impl State {
    fn fresh(dir: &Path) -> Result<Self> {
        let state = dir.join("state");
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("emptying {}", state.display()))?;
        }
        Ok(Self(state))
    }

    fn command(&self, agent: &Path, throttle: Option<&Throttle>) -> Command {
        let mut command = match throttle {
            Some(throttle) => throttle.command(agent),
            None => Command::new(agent),
        };
        command.arg(OsStr::new("--state-dir")).arg(&self.0);
        command
    }
}

fn findings(all: &[Measured], rounds: u32, slow: bool, speed: Speed) -> Findings {
    let disk = match slow {
        true => {
            "The disk is throttled to 100 MB/s and 2,000 reads a second, for the program and \
             what warms it together (blkio)."
        }
        false => "The disk is as it is.",
    };
    let method = format!(
        "{disk} Each program is run once, then one hot run of it is recorded. Then come {rounds} \
         rounds and one before them that is not counted; each round starts the program cold (page \
         cache, dentries and inodes dropped), hot, with zero lead (all dropped, warming begins \
         together with the program) and with lead (all dropped, warmed, started). This is done \
         with plans that hold maybe pages and again with plans that do not. Times are in seconds, \
         from the request to the program's end: median (least to greatest). Ratios are taken \
         round by round; the share of the cold-to-hot gap closed is taken of medians."
    );
    Findings::new(&method)
        .table("Seconds:", &times(all))
        .table(
            "What is gained; beside it what a first, naive prototype gained (recorded windows in \
             order of first use, then an lstat of each name, four threads), measured earlier:",
            &gains(all, slow),
        )
        .table(
            &format!(
                "What bounds it. *Used* is what a cold run reads from the disk when nothing is \
                 read ahead, metadata included; planned is what is warmed, maybe pages included. \
                 The disk gives {:.0} MB/s of large reads and {:.0} small reads a second. The last \
                 columns are the zero-lead start ÷ the longest of used ÷ bandwidth, planned reads \
                 ÷ IOPS and a hot start:",
                speed.bytes_per_s / 1e6,
                speed.reads_per_s
            ),
            &bounds(all, speed),
        )
}

fn times(all: &[Measured]) -> Table {
    let mut table = Table::new([
        "program",
        "cold",
        "zero lead",
        "zero lead, no maybes",
        "lead",
        "lead, no maybes",
        "hot",
    ]);
    for Measured {
        name,
        with,
        without,
        ..
    } in all
    {
        let cells = [
            &with.ways.cold,
            &with.ways.zero_lead,
            &without.ways.zero_lead,
            &with.ways.warmed,
            &without.ways.warmed,
            &with.ways.hot,
        ];
        let cells =
            cells.map(|way| format!("{:.3}", Spread::of(&way.seconds).unwrap_or(Spread::NONE)));
        table.row(std::iter::once((*name).to_owned()).chain(cells));
    }
    table
}

fn gains(all: &[Measured], slow: bool) -> Table {
    let mut table = Table::new([
        "program",
        "gap closed, zero lead",
        "no maybes",
        "naive",
        "gap closed, lead",
        "no maybes",
        "naive",
        "cold ÷ zero lead",
        "no maybes",
        "naive",
        "warmed ÷ hot",
        "no maybes",
    ]);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let naive = |share: Option<f64>| share.map_or("".to_owned(), |s| format!("{:.0} %", s * 100.0));
    for measured in all {
        let before = prototype::of(measured.name, slow);
        let (with, without) = (&measured.with, &measured.without);
        table.row([
            measured.name.to_owned(),
            percent(with.closed_zero_lead()),
            percent(without.closed_zero_lead()),
            naive(before.map(|b| b.closed_zero_lead())),
            percent(with.closed_lead()),
            percent(without.closed_lead()),
            naive(before.map(|b| b.closed_lead())),
            format!("{:.2}", with.cold_over_zero_lead()),
            format!("{:.2}", without.cold_over_zero_lead()),
            before.map_or(String::new(), |b| format!("{:.2}", b.cold / b.zero_lead)),
            format!("{:.3}", with.warmed_over_hot()),
            format!("{:.3}", without.warmed_over_hot()),
        ]);
    }
    let median = |of: &dyn Fn(&Measured) -> f64| {
        let values: Vec<f64> = all.iter().map(of).collect();
        Spread::of(&values).unwrap_or(Spread::NONE).median
    };
    table.row([
        "median of all".to_owned(),
        percent(median(&|m| m.with.closed_zero_lead())),
        percent(median(&|m| m.without.closed_zero_lead())),
        String::new(),
        percent(median(&|m| m.with.closed_lead())),
        percent(median(&|m| m.without.closed_lead())),
        String::new(),
        format!("{:.2}", median(&|m| m.with.cold_over_zero_lead().median)),
        format!("{:.2}", median(&|m| m.without.cold_over_zero_lead().median)),
        String::new(),
        format!("{:.3}", median(&|m| m.with.warmed_over_hot().median)),
        format!("{:.3}", median(&|m| m.without.warmed_over_hot().median)),
    ]);
    table
}

fn bounds(all: &[Measured], speed: Speed) -> Table {
    let mut table = Table::new([
        "program",
        "used, MiB",
        "planned, MiB",
        "no maybes",
        "reads",
        "no maybes",
        "names",
        "used ÷ bandwidth",
        "reads ÷ IOPS",
        "no maybes",
        "zero lead ÷ bound",
        "no maybes",
    ]);
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1048576.0);
    for measured in all {
        let (with, without) = (&measured.with, &measured.without);
        let bytes_s = measured.bytes_used as f64 / speed.bytes_per_s;
        let reads_s = |of: &Compared| of.reads_planned as f64 / speed.reads_per_s;
        let over_bound = |of: &Compared| {
            let bound = bytes_s.max(reads_s(of)).max(of.ways.hot.median);
            format!("{:.2}", of.ways.zero_lead.median / bound)
        };
        table.row([
            measured.name.to_owned(),
            mebibytes(measured.bytes_used),
            mebibytes(with.bytes_planned),
            mebibytes(without.bytes_planned),
            with.reads_planned.to_string(),
            without.reads_planned.to_string(),
            with.names.to_string(),
            format!("{bytes_s:.3} s"),
            format!("{:.3} s", reads_s(with)),
            format!("{:.3} s", reads_s(without)),
            over_bound(with),
            over_bound(without),
        ]);
    }
    table
}
