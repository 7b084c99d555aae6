//! `cargo xtask bench`: measurements. Each builds the agent, then runs it or an
//! example of it; what they share is here.

pub mod cold;
pub mod stats;
pub mod throttle;

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Result, bail};

use crate::build;
use crate::load::sample;
use crate::run::{self, Stages};
use crate::workspace::{Workspace, is_root};

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Cold, run, warmed and hot starts of a program
    Start(Common),
    /// How much of what is warmed is used, and how much of what is used was warmed
    Precision(Common),
    /// What each hook costs the read path
    Probes(Common),
    /// What recording costs the recorded program
    Record(Common),
    /// Bytes and names warmed a second
    WarmRate(Common),
    /// What the agent costs a machine where nothing starts
    Overhead(Common),
    /// Reading and writing profiles, by size
    ProfileLoad(Common),
}

/// Options of every measurement.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Rounds to count
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Passed on; for `start`, the command to measure
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Runs one.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!("measurements load probes and drop caches: run as root");
    }
    let workspace = Workspace::here();
    match &args.bench {
        Bench::Start(common) => start(&workspace, common),
        Bench::Precision(common) => example(&workspace, "precision", common),
        Bench::Probes(common) => example(&workspace, "probes", common),
        Bench::Record(common) => example(&workspace, "record", common),
        Bench::WarmRate(common) => example(&workspace, "warm_rate", common),
        Bench::Overhead(common) => example(&workspace, "overhead", common),
        Bench::ProfileLoad(common) => example(&workspace, "profile_load", common),
    }
}

/// `headstart compare`, on the command given or on a program that is here.
fn start(workspace: &Workspace, common: &Common) -> Result<()> {
    let agent = build::build(workspace, &mut Stages::default(), false)?;
    let command = match common.rest.as_slice() {
        [] => sample::choose(&workspace.target.join("sample"))?.command,
        given => given.to_vec(),
    };
    run::run(
        Command::new(agent)
            .arg("--state-dir")
            .arg(workspace.target.join("state"))
            .args(["compare", "--rounds", &common.rounds.to_string(), "--"])
            .args(command),
    )
}

/// An example of the agent: it sees the library, as `headstart` does.
fn example(workspace: &Workspace, name: &str, common: &Common) -> Result<()> {
    let example = format!("bench_{name}");
    let source = workspace
        .root
        .join("agent/examples")
        .join(format!("{example}.rs"));
    if !source.exists() {
        bail!(
            "there is no measurement `{name}` yet: it would be {}",
            source.display()
        );
    }
    let object = build::probes(workspace, &mut Stages::default())?;
    run::run(
        Command::new("cargo")
            .args([
                "run",
                "--locked",
                "--release",
                "--package",
                "headstart",
                "--example",
                &example,
            ])
            .args(["--", "--rounds", &common.rounds.to_string()])
            .args(&common.rest)
            .current_dir(&workspace.root)
            .env("HEADSTART_PROBES", object),
    )
}
