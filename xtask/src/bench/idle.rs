//! `cargo xtask bench idle`: what the agent costs a node on which nothing starts, and one
//! on which cgroups come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Bench;
use super::publish::Findings;
use super::stats::{Spread, Table};
use crate::run;

/// Cgroups that live while nothing starts.
const LIVE: u32 = 500;
/// For how long that is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Cgroups made and removed again.
const CHURN: u32 = 10_000;
/// In this time.
const CHURN_IN: Duration = Duration::from_secs(60);
/// Longest that the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is used of what `status --json` says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    ready: bool,
    cgroups: u64,
    learning: u64,
    totals: Totals,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Totals {
    starts: std::collections::BTreeMap<String, u64>,
    signals_lost: u64,
    records_lost: u64,
}

/// A v2 tree of cgroups, mounted apart; removed when dropped.
struct Tree {
    mount: PathBuf,
    slice: PathBuf,
}

impl Tree {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        run::run(
            Command::new("mount")
                .args(["-t", "cgroup2", "none"])
                .arg(at),
        )?;
        let tree = Self {
            mount: at.to_owned(),
            slice: at.join("headstart-bench.slice"),
        };
        match fs::create_dir(&tree.slice) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).context("making a cgroup")
            }
            _ => Ok(tree),
        }
    }

    fn unit(&self, number: u32) -> PathBuf {
        self.slice.join(format!("bench{number}.service"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for number in 0..LIVE.max(CHURN) {
            let _ = fs::remove_dir(self.unit(number));
        }
        let _ = fs::remove_dir(&self.slice);
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

/// An agent with a configuration of its own; ended when dropped.
struct Agent {
    child: Child,
    program: PathBuf,
    socket: PathBuf,
}

impl Agent {
    fn start(bench: &Bench) -> Result<(Self, Duration)> {
        let directory = &bench.directory;
        // Sockets have short paths.
        let socket = PathBuf::from(format!("/tmp/headstart-bench-{}.sock", std::process::id()));
        let config = directory.join("idle.toml");
        fs::write(&config, "metrics_listen = \"\"\n")?;
        let program = bench.agent()?;
        let began = Instant::now();
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .arg("--state-dir")
            .arg(directory.join("idle-state"))
            .arg("--socket")
            .arg(&socket)
            .arg("agent")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the agent")?;
        let agent = Self {
            child,
            program,
            socket,
        };
        agent.wait(|status| status.ready)?;
        Ok((agent, began.elapsed()))
    }

    fn status(&self) -> Option<Status> {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(&self.socket);
        let output = command.args(["--json", "status"]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    fn wait(&self, holds: impl Fn(&Status) -> bool) -> Result<Status> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.status().filter(&holds) {
                return Ok(status);
            }
            if began.elapsed() > PATIENCE {
                bail!("the agent does not get there");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time, user and system.
    fn processor(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let sum = ticks(11)
            .zip(ticks(12))
            .context("reading the agent's stat")?;
        Ok(Duration::from_millis((sum.0 + sum.1) * 10))
    }

    /// Memory, MiB: all that is resident, and what is its own of that.
    fn memory(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib = line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
            Some(kib / 1024.0)
        };
        let both = field("VmRSS:").zip(field("RssAnon:"));
        both.context("reading the agent's memory")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let tree = Tree::mount(&bench.directory.join("cgroups"))?;
    for number in 0..LIVE {
        fs::create_dir(tree.unit(number)).context("making a cgroup")?;
    }
    let mut ready = Vec::new();
    for _ in 0..bench.rounds {
        let (agent, took) = Agent::start(bench)?;
        drop(agent);
        ready.push(took.as_secs_f64() * 1e3);
    }
    let (agent, _) = Agent::start(bench)?;
    agent.wait(|status| status.cgroups >= u64::from(LIVE))?;
    let mut table = Table::new(["", "resident, MiB", "of it its own, MiB", "of a core"]);
    let mut look = |what: &str, during: &dyn Fn() -> Result<()>| -> Result<()> {
        let (before, began) = (agent.processor()?, Instant::now());
        during()?;
        let share = (agent.processor()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
        let (resident, own) = agent.memory()?;
        table.row([
            what.to_owned(),
            format!("{resident:.1}"),
            format!("{own:.1}"),
            format!("{:.2} %", share * 100.0),
        ]);
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
    let after = agent.wait(|status| {
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

/// Makes and removes cgroups at an even pace; each lives for a moment.
fn churn(tree: &Tree) -> Result<()> {
    let began = Instant::now();
    for number in 0..CHURN {
        let unit = tree.slice.join(format!("churn{number}.service"));
        fs::create_dir(&unit).context("making a cgroup")?;
        fs::remove_dir(&unit).context("removing a cgroup")?;
        let due = CHURN_IN * number / CHURN;
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
    Ok(())
}
