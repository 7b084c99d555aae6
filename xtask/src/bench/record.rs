//! `cargo xtask bench record`: what recording costs the recorded command.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Bench;
use super::programs::{self, Program};
use super::publish::Findings;
use super::stats::{Spread, Table};

/// Programs whose hot start is short: what is paid once weighs most there.
const PROGRAMS: [&str; 3] = ["rustc", "python", "node"];

/// What is used of what `record --json` says.
#[derive(Deserialize)]
struct Recorded {
    /// From the command's birth to its end.
    seconds: f64,
}

/// Seconds, by round.
#[derive(Default)]
struct Series {
    bare: Vec<f64>,
    /// The command, recorded as it runs.
    command: Vec<f64>,
    /// `record`, from its start to its end.
    whole: Vec<f64>,
    /// The command, recorded page by page.
    traced: Vec<f64>,
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let agent = bench.agent()?;
    let programs = programs::prepare(&bench.directory, &PROGRAMS.map(str::to_owned))?;
    let mut table = Table::new([
        "program",
        "bare, ms",
        "recorded, ms",
        "recorded ÷ bare",
        "whole `record`, ms",
        "whole − bare, ms",
        "traced, ms",
        "traced ÷ bare",
    ]);
    for program in &programs {
        eprintln!("{}: {}", program.name, program.what);
        let series = rounds(bench, &agent, program)?;
        let ms = |values: &[f64]| -> Spread {
            let values: Vec<f64> = values.iter().map(|s| s * 1e3).collect();
            Spread::of(&values).unwrap_or(Spread::NONE)
        };
        let ratio = |of| Spread::of_ratios(of, &series.bare).unwrap_or(Spread::NONE);
        let around = series.whole.iter().zip(&series.bare).map(|(w, b)| w - b);
        table.row([
            program.name.to_owned(),
            format!("{:.1}", ms(&series.bare)),
            format!("{:.1}", ms(&series.command)),
            format!("{:.3}", ratio(&series.command)),
            format!("{:.1}", ms(&series.whole)),
            format!("{:.1}", ms(&around.collect::<Vec<_>>())),
            format!("{:.1}", ms(&series.traced)),
            format!("{:.3}", ratio(&series.traced)),
        ]);
    }
    let method = format!(
        "Hot starts of a command, bare, under `headstart record --exact never` and under `--exact \
         always` (traced, as a first run is), one after the other in each of {} rounds, the order \
         changing from round to round, after one round that is not counted. *Recorded* is the command's own time, from its birth to its end, as `record` \
         reports it; *whole* is `record` from its start to its end: it loads and attaches the \
         probes before, and resolves and stores what was recorded afterwards. *Traced* is the command's own time again. Median (least to \
         greatest); ratios and differences are taken round by round.",
        bench.rounds
    );
    Ok(Findings::new(&method).table("", &table).into_markdown())
}

fn rounds(bench: &Bench, agent: &Path, program: &Program) -> Result<Series> {
    let state = bench.directory.join("state");
    let mut series = Series::default();
    for round in 0..=bench.rounds {
        let mut bare = 0.0;
        let (mut untraced, mut traced) = ((0.0, 0.0), (0.0, 0.0));
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => bare = start_bare(program)?,
                1 => untraced = record(agent, &state, program, "never")?,
                _ => traced = record(agent, &state, program, "always")?,
            }
        }
        if round > 0 {
            series.bare.push(bare);
            series.whole.push(untraced.0);
            series.command.push(untraced.1);
            series.traced.push(traced.1);
        }
    }
    Ok(series)
}

fn start_bare(program: &Program) -> Result<f64> {
    let mut command = Command::new(&program.command[0]);
    command
        .args(&program.command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status().context("starting the program")?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(status.success(), "{} failed: {status}", program.name);
    Ok(seconds)
}

/// Seconds of the whole, and of the command in it.
fn record(agent: &Path, state: &Path, program: &Program, exact: &str) -> Result<(f64, f64)> {
    let mut command = Command::new(agent);
    command
        .arg("--state-dir")
        .arg(state)
        .args(["--json", "record", "--profile", "bench-record"])
        .args(["--exact", exact, "--"])
        .args(&program.command)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let began = Instant::now();
    let output = command.output().context("starting the agent")?;
    let whole = began.elapsed().as_secs_f64();
    ensure!(output.status.success(), "record failed: {}", output.status);
    // The command's own output comes first.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let recorded: Recorded = serde_json::from_str(last).context("reading what record says")?;
    Ok((whole, recorded.seconds))
}
