//! `cargo xtask bench starts`: cold, zero-lead, warmed and hot starts of real
//! programs, on the disk as it is or on a slow one.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::bound::{Speed, bytes_used};
use super::compared::{Compared, RECORDED_RUNS};
use super::disk::{Disk, drop_caches};
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

/// Never reached, but counted.
const UNLIMITED: Limits = Limits {
    bytes: Some(1 << 50),
    requests: Some(u32::MAX as u64 - 1),
};

/// One program's starts, from three plans.
struct Measured {
    name: &'static str,
    /// Recorded as `record` records a first run: traced, so that each page that
    /// is used is known.
    exact: Compared,
    /// Recorded as it runs: pages that only were in a fault's window are maybe
    /// used.
    maybe: Compared,
    /// The same, without these.
    certain: Compared,
    bytes_used: u64,
    /// Reads that warming makes, those for names and metadata included.
    reads_made: u64,
}

impl Measured {
    fn each(&self) -> [&Compared; 3] {
        [&self.exact, &self.maybe, &self.certain]
    }
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
        let headstart = |throttle: Option<&Throttle>| state.command(&agent, throttle);
        all.push(one(program, bench.rounds, throttle.as_ref(), headstart)?);
    }
    Ok(findings(&all, bench.rounds, slow, speed).into_markdown())
}

/// Records one hot run, then compares.
fn one(
    program: &Program,
    rounds: u32,
    throttle: Option<&Throttle>,
    command: impl Fn(Option<&Throttle>) -> Command,
) -> Result<Measured> {
    let headstart = || command(throttle);
    // Hot, so that recording sees what is used and not what a first run does.
    run::captured(Command::new(&program.command[0]).args(&program.command[1..]))?;
    let record = |name: &str, exact: &str| {
        run::captured(
            headstart()
                .args(["record", "--profile", name, "--exact", exact, "--"])
                .args(&program.command),
        )
    };
    let compare = |name: &str, more: &[&str]| -> Result<Compared> {
        let text = run::captured(
            headstart()
                .args(["--json", "compare", "--profile", name])
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
    let untraced = format!("{}-untraced", program.name);
    record(program.name, "auto")?;
    record(&untraced, "never")?;
    Ok(Measured {
        name: program.name,
        reads_made: reads_made(program, throttle.is_some(), &command)?,
        exact: compare(program.name, &[])?,
        maybe: compare(&untraced, &[])?,
        certain: compare(&untraced, &["--no-maybe"])?,
        bytes_used: bytes_used(program)?,
    })
}

/// Reads made by warming the program's traced profile when nothing is cached, as
/// what bounds them counts: a throttle each one, a disk merged neighbours as one.
fn reads_made(
    program: &Program,
    throttled: bool,
    command: impl Fn(Option<&Throttle>) -> Command,
) -> Result<u64> {
    let path = Path::new(&program.command[0]);
    let disk = Disk::of(path)?;
    let counted = match throttled {
        true => Some(Throttle::new(path, UNLIMITED)?),
        false => None,
    };
    drop_caches()?;
    let before = disk.reads()?;
    run::captured(command(counted.as_ref()).args(["warm", program.name]))?;
    match counted {
        Some(throttle) => throttle.reads(),
        None => Ok(disk.reads()? - before),
    }
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
         together with the program) and with lead (all dropped, warmed, started), hot after cold, \
         the others in another order each round. This is done \
         three times: with a profile as `headstart record` makes it of a first run (traced, page \
         by page); with one recorded untraced (`--exact never`), in which pages that only were in \
         the windows of faults are *maybe* used; and with that one, but no maybe pages in the plan. \
         Times are in seconds, from the request to the program's end: median (least to greatest). \
         Ratios are taken round by round; the share of the cold-to-hot gap closed is taken of \
         medians."
    );
    Findings::new(&method)
        .table("Seconds:", &times(all))
        .table(
            "Share of the cold-to-hot gap closed; *naive* is what a first prototype closed \
             (recorded windows in order of first use, then an lstat of each name, four threads), \
             measured earlier:",
            &gaps(all, slow),
        )
        .table("Ratios:", &ratios(all, slow))
        .table(
            &format!(
                "What bounds it. *Used* is what a cold run reads from the disk when nothing is \
                 read ahead, metadata included; planned is what is warmed; *reads made* are those \
                 of warming all of the traced profile, the filesystem's own for names and \
                 metadata included, counted as what bounds them counts (a throttle each one, a disk \
                 merged neighbours as one). The disk gives {:.0} \
                 MB/s of large reads and {:.0} small reads a second. The bound is the longest of \
                 used ÷ bandwidth, reads made ÷ IOPS and a hot start:",
                speed.bytes_per_s / 1e6,
                speed.reads_per_s
            ),
            &bounds(all, speed),
        )
}

/// A heading for each plan.
fn heads(what: &str) -> [String; 3] {
    [
        what.to_owned(),
        format!("{what}, untraced"),
        format!("{what}, no maybes"),
    ]
}

fn median_of(all: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let values: Vec<f64> = all.iter().map(of).collect();
    Spread::of(&values).unwrap_or(Spread::NONE).median
}

fn times(all: &[Measured]) -> Table {
    let mut head = vec!["program".to_owned(), "cold".to_owned()];
    head.extend(heads("zero lead"));
    head.extend(heads("lead"));
    head.push("hot".to_owned());
    let mut table = Table::new(head);
    for measured in all {
        let each = measured.each();
        let mut ways = vec![&measured.exact.ways.cold];
        ways.extend(each.map(|compared| &compared.ways.zero_lead));
        ways.extend(each.map(|compared| &compared.ways.warmed));
        ways.push(&measured.exact.ways.hot);
        let cells = ways
            .iter()
            .map(|way| format!("{:.3}", Spread::of(&way.seconds).unwrap_or(Spread::NONE)));
        table.row(std::iter::once(measured.name.to_owned()).chain(cells));
    }
    table
}

fn gaps(all: &[Measured], slow: bool) -> Table {
    let mut head = vec!["program".to_owned()];
    head.extend(heads("zero lead"));
    head.push("naive".to_owned());
    head.extend(heads("lead"));
    head.push("naive".to_owned());
    let mut table = Table::new(head);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let naive = |share: Option<f64>| share.map_or(String::new(), |s| format!("{:.0} %", s * 100.0));
    for measured in all {
        let before = prototype::of(measured.name, slow);
        let mut cells = vec![measured.name.to_owned()];
        cells.extend(measured.each().map(|c| percent(c.closed_zero_lead())));
        cells.push(naive(before.map(|b| b.closed_zero_lead())));
        cells.extend(measured.each().map(|c| percent(c.closed_lead())));
        cells.push(naive(before.map(|b| b.closed_lead())));
        table.row(cells);
    }
    let median = |plan: usize, of: fn(&Compared) -> f64| {
        percent(median_of(all, |measured| of(measured.each()[plan])))
    };
    let mut cells = vec!["median of all".to_owned()];
    cells.extend([0, 1, 2].map(|plan| median(plan, Compared::closed_zero_lead)));
    cells.push(String::new());
    cells.extend([0, 1, 2].map(|plan| median(plan, Compared::closed_lead)));
    table.row(cells);
    table
}

fn ratios(all: &[Measured], slow: bool) -> Table {
    let mut head = vec!["program".to_owned()];
    head.extend(heads("cold ÷ zero lead"));
    head.push("naive".to_owned());
    head.extend(heads("warmed ÷ hot"));
    let mut table = Table::new(head);
    for measured in all {
        let before = prototype::of(measured.name, slow);
        let mut cells = vec![measured.name.to_owned()];
        cells.extend(
            measured
                .each()
                .map(|c| format!("{:.2}", c.cold_over_zero_lead())),
        );
        cells.push(before.map_or(String::new(), |b| format!("{:.2}", b.cold / b.zero_lead)));
        cells.extend(
            measured
                .each()
                .map(|c| format!("{:.3}", c.warmed_over_hot())),
        );
        table.row(cells);
    }
    let median = |plan: usize, of: fn(&Compared) -> Spread| {
        median_of(all, |measured| of(measured.each()[plan]).median)
    };
    let mut cells = vec!["median of all".to_owned()];
    cells.extend(
        [0, 1, 2].map(|plan| format!("{:.2}", median(plan, Compared::cold_over_zero_lead))),
    );
    cells.push(String::new());
    cells.extend([0, 1, 2].map(|plan| format!("{:.3}", median(plan, Compared::warmed_over_hot))));
    table.row(cells);
    table
}

fn bounds(all: &[Measured], speed: Speed) -> Table {
    let mut head: Vec<String> = ["program", "names", "used, MiB"].map(str::to_owned).into();
    head.extend(heads("planned, MiB"));
    head.extend(heads("reads of data"));
    head.push("reads made".to_owned());
    head.push("used ÷ bandwidth".to_owned());
    head.push("reads made ÷ IOPS".to_owned());
    head.extend(heads("zero lead ÷ bound"));
    let mut table = Table::new(head);
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1048576.0);
    for measured in all {
        let each = measured.each();
        let bytes_s = measured.bytes_used as f64 / speed.bytes_per_s;
        let reads_s = measured.reads_made as f64 / speed.reads_per_s;
        let bound = bytes_s.max(reads_s).max(measured.exact.ways.hot.median);
        let mut cells = vec![
            measured.name.to_owned(),
            measured.exact.names.to_string(),
            mebibytes(measured.bytes_used),
        ];
        cells.extend(each.map(|c| mebibytes(c.bytes_planned)));
        cells.extend(each.map(|c| c.reads_planned.to_string()));
        cells.push(measured.reads_made.to_string());
        cells.push(format!("{bytes_s:.3} s"));
        cells.push(format!("{reads_s:.3} s"));
        cells.extend(each.map(|c| format!("{:.2}", c.ways.zero_lead.median / bound)));
        table.row(cells);
    }
    table
}
