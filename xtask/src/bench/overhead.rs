//! `cargo xtask bench overhead`: what commands cost that have nothing to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Bench;
use super::publish::Findings;
use super::stats::{Spread, Table};
use crate::run;

/// Files of the profile.
const FILES: u32 = 10_000;
const PROFILE: &str = "bench-overhead";

/// What is used of what `warm --json` says.
#[derive(Deserialize)]
struct Warmed {
    bytes_planned: u64,
    bytes_read: u64,
    names_planned: u64,
    seconds: f64,
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let agent = bench.agent()?;
    let state = bench.directory.join("state");
    let headstart = || {
        let mut command = Command::new(&agent);
        command.arg("--state-dir").arg(&state);
        command
    };
    let tree = make_files(&bench.directory)?;
    // A shell reads them all: none is started for each.
    let read_all = "find \"$0\" -type f -exec cat {} + >/dev/null";
    run::captured(
        headstart()
            .args(["record", "--profile", PROFILE, "--", "sh", "-c", read_all])
            .arg(&tree),
    )?;
    let mut table = Table::new(["command", "ms"]);
    let mut row = |name: &str, make: &dyn Fn() -> Command| -> Result<()> {
        table.row([name.to_owned(), format!("{:.2}", time(bench.rounds, make)?)]);
        Ok(())
    };
    row("`headstart --version`", &|| {
        let mut command = Command::new(&agent);
        command.arg("--version");
        command
    })?;
    row("`true`, to compare", &|| Command::new("true"))?;
    let warm = || {
        let mut command = headstart();
        command.args(["--json", "warm", PROFILE]);
        command
    };
    row("`headstart warm`, all resident", &warm)?;
    row("`headstart warm --no-metadata`, all resident", &|| {
        let mut command = warm();
        command.arg("--no-metadata");
        command
    })?;
    let text = run::captured(&mut warm())?;
    let last: Warmed = serde_json::from_str(&text).context("reading what warm says")?;
    let method = format!(
        "Wall clock from starting the process to its end, {} rounds after one that is not \
         counted, everything in memory: median (least to greatest). The warmed profile holds \
         {FILES} small files.",
        bench.rounds
    );
    let note = format!(
        "The profile plans {:.1} MiB and {} names; the last warm read {} bytes and says that it took {:.1} ms.",
        last.bytes_planned as f64 / 1048576.0,
        last.names_planned,
        last.bytes_read,
        last.seconds * 1e3
    );
    Ok(Findings::new(&method)
        .table("", &table)
        .note(&note)
        .into_markdown())
}

fn time(rounds: u32, make: &dyn Fn() -> Command) -> Result<Spread> {
    let mut milliseconds = Vec::new();
    for round in 0..=rounds {
        let mut command = make();
        let began = Instant::now();
        run::captured(&mut command)?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        if round > 0 {
            milliseconds.push(took);
        }
    }
    Ok(Spread::of(&milliseconds).unwrap_or(Spread::NONE))
}

fn make_files(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("files");
    for number in 0..FILES {
        let directory = tree.join(format!("{:03}", number / 100));
        let file = directory.join(format!("{number}"));
        if !file.exists() {
            fs::create_dir_all(&directory)?;
            fs::write(&file, "a file of one page\n").context("making files to warm")?;
        }
    }
    Ok(tree)
}
