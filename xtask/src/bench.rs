//! `cargo xtask bench`: measurements. Each builds the agent, then runs it or an
//! example of it; what they share is here.
//!
//! A measurement gives Markdown, which is printed and, with `--out`, written:
//! into the marks that a file has for it (`docs/benchmarks.md`), or as a file.

mod agent;
mod bound;
mod burst;
mod compared;
pub mod disk;
pub mod fio;
mod harm;
mod idle;
mod node;
mod overhead;
pub mod programs;
mod prototype;
pub mod publish;
mod record;
mod starts;
pub mod stats;
mod store;
pub mod throttle;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::build;
use crate::packages;
use crate::run::{self, Stages};
use crate::workspace::{Workspace, is_root};

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Cold, zero-lead, warmed and hot starts of real programs
    Starts {
        #[command(flatten)]
        common: Common,
        /// On a disk throttled to 100 MB/s and 2,000 reads a second
        #[arg(long)]
        slow: bool,
        /// Programs [default: all]
        programs: Vec<String>,
    },
    /// Starts of containers that the agent knows, and on a second node
    Agent {
        #[command(flatten)]
        common: Common,
        /// Containers [default: all]
        containers: Vec<String>,
    },
    /// How much of what is warmed is used, and how much of what is used was warmed
    Precision {
        #[command(flatten)]
        common: Common,
        /// Programs [default: all]
        programs: Vec<String>,
    },
    /// What each hook costs the read path
    Probes(Common),
    /// What recording costs the recorded program
    Record(Common),
    /// Bytes and extents warmed a second
    WarmRate(Common),
    /// What commands cost that have nothing to do
    Overhead(Common),
    /// Many containers of some images that start at once
    Burst(Common),
    /// What the agent costs a node on which nothing starts, or much comes and goes
    Idle(Common),
    /// An agent over a store of 10,000 workloads and a million files
    Store(Common),
    /// What prefetching at full load costs others on the node
    Harm(Common),
    /// Somebody else on the node, of whom `harm` asks how long its reads take
    #[command(hide = true)]
    Neighbour(harm::NeighbourArgs),
    /// Reading and writing profiles, by size
    ProfileLoad(Common),
    /// All of them
    All(Common),
}

/// Options of every measurement.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Rounds to count [default: as many as the measurement needs]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Write the result into this file too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a measurement works with.
struct Bench {
    workspace: Workspace,
    /// Rounds to count.
    rounds: u32,
    /// For what it makes.
    directory: PathBuf,
}

/// Runs one, or all.
pub fn run(args: &Args) -> Result<()> {
    if let What::Neighbour(args) = &args.what {
        return harm::neighbour(args);
    }
    if !is_root() {
        bail!("measurements load probes and drop caches: run as root");
    }
    packages::install(&packages::missing(packages::BENCH))?;
    match &args.what {
        What::All(common) => all(common).iter().try_for_each(one),
        what => one(what),
    }
}

fn all(common: &Common) -> [What; 13] {
    let starts = |slow| What::Starts {
        common: common.clone(),
        slow,
        programs: Vec::new(),
    };
    let precision = What::Precision {
        common: common.clone(),
        programs: Vec::new(),
    };
    [
        starts(false),
        starts(true),
        What::Agent {
            common: common.clone(),
            containers: Vec::new(),
        },
        What::Burst(common.clone()),
        precision,
        What::Probes(common.clone()),
        What::Record(common.clone()),
        What::WarmRate(common.clone()),
        What::Overhead(common.clone()),
        What::Idle(common.clone()),
        What::Store(common.clone()),
        What::Harm(common.clone()),
        What::ProfileLoad(common.clone()),
    ]
}

/// Measures and publishes; the rounds are those that each needs if not told.
fn one(what: &What) -> Result<()> {
    match what {
        What::Starts {
            common,
            slow: false,
            programs,
        } => common.publish("starts", 7, |b| starts::measure(b, programs, false)),
        What::Starts {
            common, programs, ..
        } => common.publish("starts-slow", 5, |b| starts::measure(b, programs, true)),
        What::Agent { common, containers } => {
            common.publish("agent", 5, |b| agent::measure(b, containers))
        }
        What::Precision { common, programs } => {
            common.publish("precision", 1, |b| b.example("precision", programs))
        }
        What::Probes(common) => common.publish("probes", 20, |b| b.example("probes", &[])),
        What::Record(common) => common.publish("record", 30, record::measure),
        What::WarmRate(common) => common.publish("warm-rate", 7, |b| b.example("warm_rate", &[])),
        What::Overhead(common) => common.publish("overhead", 20, overhead::measure),
        What::Burst(common) => common.publish("burst", 5, burst::measure),
        What::Idle(common) => common.publish("idle", 10, idle::measure),
        What::Store(common) => common.publish("store", 7, store::measure),
        What::Harm(common) => common.publish("harm", 7, harm::measure),
        What::Neighbour(args) => harm::neighbour(args),
        What::ProfileLoad(common) => {
            common.publish("profile-load", 7, |b| b.example("profile_load", &[]))
        }
        What::All(common) => all(common).iter().try_for_each(one),
    }
}

impl Common {
    fn publish(
        &self,
        key: &str,
        rounds: u32,
        measure: impl FnOnce(&Bench) -> Result<String>,
    ) -> Result<()> {
        let workspace = Workspace::here();
        let bench = Bench {
            directory: workspace.target.join("bench"),
            rounds: self.rounds.unwrap_or(rounds),
            workspace,
        };
        publish::publish(self.out.as_deref(), key, &measure(&bench)?)
    }
}

impl Bench {
    /// The agent, built now.
    fn agent(&self) -> Result<PathBuf> {
        build::build(&self.workspace, &mut Stages::default(), false)
    }

    /// An example of the agent: it sees the library, as `headstart` does. What
    /// it prints.
    fn example(&self, name: &str, args: &[String]) -> Result<String> {
        self.example_in(name, &self.directory, args)
    }

    /// The same, in another directory.
    fn example_in(&self, name: &str, directory: &Path, args: &[String]) -> Result<String> {
        let object = build::probes(&self.workspace, &mut Stages::default())?;
        run::captured(
            Command::new("cargo")
                .args(["run", "--locked", "--release", "--package", "headstart"])
                .args(["--example", &format!("bench_{name}"), "--"])
                .arg(directory)
                .arg(self.rounds.to_string())
                .args(args)
                .current_dir(&self.workspace.root)
                .env("HEADSTART_PROBES", object),
        )
    }
}
