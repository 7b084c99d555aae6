//! `cargo xtask bench idle`: what the agent costs a node on which nothing starts, and one
//! on which cgroups come and go.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Bench;
use super::node::{Agent, COSTS, Setup, Status, Tree};
use super::publish::Findings;
use super::stats::{Spread, Table};

/// Cgroups that live while nothing starts.
const LIVE: u32 = 500;
/// For how long that is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Cgroups made and removed again.
const CHURN: u32 = 10_000;
/// In this time.
const CHURN_IN: Duration = Duration::from_secs(60);

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let tree = Tree::mount(&bench.directory.join("cgroups"))?;
    tree.fill(LIVE)?;
    let mut ready = Vec::new();
    for _ in 0..bench.rounds {
        let (agent, took) = start(bench)?;
        drop(agent);
        ready.push(took.as_secs_f64() * 1e3);
    }
    let (agent, _) = start(bench)?;
    agent.wait("it knows the cgroups", |status| {
        status.cgroups >= u64::from(LIVE)
    })?;
    let mut table = Table::new(COSTS);
    let mut look = |what: &str, during: &dyn Fn() -> Result<()>| -> Result<()> {
        table.row(agent.costs(what, during)?);
        Ok(())
    };
    look(
        &format!("{LIVE} cgroups, nothing starts, for 30 s"),
        &|| {
            std::thread::sleep(LOOK);
            Ok(())
        },
    )?;
    let known = agent.status().unwrap_or_default();
    let noticed = |status: &Status| status.totals.starts.get("cgroup").copied().unwrap_or(0);
    look(
        &format!("{CHURN} cgroups made and removed in a minute"),
        &|| churn(&tree),
    )?;
    let after = agent.wait("it noticed all", |status| {
        status.learning == 0 && noticed(status) >= noticed(&known) + u64::from(CHURN)
    })?;
    look("nothing starts again, for 30 s", &|| {
        std::thread::sleep(LOOK);
        Ok(())
    })?;
    let method = "An agent in release, with the default configuration, over cgroups as systemd \
         makes them for units. Processor time is that of its process, by the kernel's count in \
         steps of 10 ms; hooks on cgroups run in the process that makes or removes one.";
    let ready = Spread::of(&ready).unwrap_or(Spread::NONE);
    let note = format!(
        "From its start until it is ready, with {LIVE} cgroups there: {ready:.0} ms ({} starts). \
         Of the {CHURN} cgroups that came and went it noticed {}; {} signals and {} records were \
         lost.",
        bench.rounds,
        noticed(&after) - noticed(&known),
        after.totals.signals_lost,
        after.totals.records_lost,
    );
    Ok(Findings::new(method)
        .table("", &table)
        .note(&note)
        .into_markdown())
}

/// An agent that knows nothing yet, and how long it took until it was ready.
fn start(bench: &Bench) -> Result<(Agent, Duration)> {
    let program = bench.agent()?;
    let directory = bench.directory.join("idle");
    let began = Instant::now();
    let agent = Agent::start(&program, &directory, Setup::default())?;
    Ok((agent, began.elapsed()))
}

/// Makes and removes cgroups at an even pace; each lives for a moment.
fn churn(tree: &Tree) -> Result<()> {
    let began = Instant::now();
    for number in 0..CHURN {
        let unit = tree.make(&format!("churn{number}.service"))?;
        fs::remove_dir(&unit).context("removing a cgroup")?;
        let due = CHURN_IN * number / CHURN;
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
    Ok(())
}
