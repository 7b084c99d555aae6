//! An agent over cgroups as systemd makes them for units, for measurements of what it costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run;

/// Longest that the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is used of what `status --json` says.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) ready: bool,
    pub(super) cgroups: u64,
    pub(super) learning: u64,
    pub(super) workloads: u64,
    pub(super) totals: Totals,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) starts: std::collections::BTreeMap<String, u64>,
    pub(super) signals_lost: u64,
    pub(super) records_lost: u64,
}

/// A v2 tree of cgroups, mounted apart; removed when dropped.
pub(super) struct Tree {
    mount: PathBuf,
    pub(super) slice: PathBuf,
    units: u32,
}

impl Tree {
    /// With so many units in it.
    pub(super) fn mount(at: &Path, units: u32) -> Result<Self> {
        fs::create_dir_all(at)?;
        run::run(
            Command::new("mount")
                .args(["-t", "cgroup2", "none"])
                .arg(at),
        )?;
        let tree = Self {
            mount: at.to_owned(),
            slice: at.join("headstart-bench.slice"),
            units,
        };
        let slice = std::iter::once(tree.slice.clone());
        for cgroup in slice.chain((0..units).map(|number| tree.unit(number))) {
            match fs::create_dir(&cgroup) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("making {}", cgroup.display()));
                }
                _ => {}
            }
        }
        Ok(tree)
    }

    fn unit(&self, number: u32) -> PathBuf {
        self.slice.join(format!("bench{number}.service"))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for number in 0..self.units {
            let _ = fs::remove_dir(self.unit(number));
        }
        let _ = fs::remove_dir(&self.slice);
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

/// An agent with a configuration of its own; ended when dropped.
pub(super) struct Agent {
    child: Child,
    program: PathBuf,
    config: PathBuf,
    state: PathBuf,
    socket: PathBuf,
}

impl Agent {
    /// Starts it over a state directory and waits until it is ready: how long that took.
    /// Metrics are at `metrics_listen`; empty: nowhere.
    pub(super) fn start(
        program: &Path,
        state: &Path,
        metrics_listen: &str,
    ) -> Result<(Self, Duration)> {
        // Sockets have short paths.
        let socket = PathBuf::from(format!("/tmp/headstart-bench-{}.sock", std::process::id()));
        let config = state.with_extension("toml");
        fs::write(&config, format!("metrics_listen = {metrics_listen:?}\n"))?;
        let began = Instant::now();
        let mut command = Command::new(program);
        command.arg("--config").arg(&config);
        command.arg("--state-dir").arg(state);
        let child = command
            .arg("--socket")
            .arg(&socket)
            .arg("agent")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the agent")?;
        let agent = Self {
            child,
            program: program.to_owned(),
            config,
            state: state.to_owned(),
            socket,
        };
        agent.wait(|status| status.ready)?;
        Ok((agent, began.elapsed()))
    }

    /// `headstart`, to be told more.
    pub(super) fn headstart(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        command.arg("--state-dir").arg(&self.state);
        command.arg("--socket").arg(&self.socket);
        command
    }

    pub(super) fn status(&self) -> Option<Status> {
        let output = self.headstart().args(["--json", "status"]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Waits until what it says of itself `holds`.
    pub(super) fn wait(&self, holds: impl Fn(&Status) -> bool) -> Result<Status> {
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
    pub(super) fn processor(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let sum = ticks(11)
            .zip(ticks(12))
            .context("reading the agent's stat")?;
        Ok(Duration::from_millis((sum.0 + sum.1) * 10))
    }

    /// Memory, MiB: all that is resident, and what is its own of that.
    pub(super) fn memory(&self) -> Result<(f64, f64)> {
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
