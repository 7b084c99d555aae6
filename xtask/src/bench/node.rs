//! A node to measure: a tree of cgroups in which units start, and an agent over it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::throttle::command_in;
use crate::run;

/// Longest that the agent may take to tell something.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is used of what `status --json` says.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) ready: bool,
    pub(super) cgroups: u64,
    pub(super) learning: u64,
    pub(super) workloads: u64,
    pub(super) config_read_ms: u64,
    pub(super) totals: Totals,
}

/// See [`Status`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) starts: BTreeMap<String, u64>,
    pub(super) signals_lost: u64,
    pub(super) records_lost: u64,
}

/// A v2 tree of cgroups, mounted apart; what was made in it is removed when it is dropped.
pub(super) struct Tree {
    mount: PathBuf,
    slice: PathBuf,
}

impl Tree {
    pub(super) fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        // A measurement that was interrupted leaves it.
        if !at.join("cgroup.controllers").exists() {
            run::run(
                Command::new("mount")
                    .args(["-t", "cgroup2", "none"])
                    .arg(at),
            )?;
        }
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

    /// Makes so many, `bench0.service` and on.
    pub(super) fn fill(&self, units: u32) -> Result<()> {
        (0..units).try_for_each(|number| self.make(&format!("bench{number}.service")).map(drop))
    }

    /// Makes a unit's cgroup.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf> {
        let unit = self.slice.join(name);
        fs::create_dir(&unit).with_context(|| format!("making {}", unit.display()))?;
        Ok(unit)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let units = fs::read_dir(&self.slice).into_iter().flatten().flatten();
        for unit in units.filter(|entry| entry.path().is_dir()) {
            let _ = fs::remove_dir(unit.path());
        }
        let _ = fs::remove_dir(&self.slice);
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

/// Heads of what [`Agent::costs`] tells.
pub(super) const COSTS: [&str; 4] = ["", "resident, MiB", "of it its own, MiB", "of a core"];

/// How an agent is started.
#[derive(Clone, Copy, Default)]
pub(super) struct Setup<'a> {
    /// Where it serves its metrics; empty: nowhere.
    pub(super) listen: &'a str,
    /// More keys of `[agent]`.
    pub(super) more: &'a str,
    /// In which cgroup.
    pub(super) cgroup: Option<&'a Path>,
}

/// An agent with a configuration of its own; ended when dropped.
pub(super) struct Agent {
    child: Child,
    program: PathBuf,
    config: PathBuf,
    state: PathBuf,
    listen: String,
    socket: PathBuf,
}

impl Agent {
    /// Starts one that keeps what it knows below `directory`, in `state`, and waits until
    /// it is ready.
    pub(super) fn start(program: &Path, directory: &Path, setup: Setup<'_>) -> Result<Self> {
        fs::create_dir_all(directory)?;
        // Sockets have short paths.
        let socket = PathBuf::from(format!("/tmp/headstart-bench-{}.sock", std::process::id()));
        let (config, state) = (directory.join("config.toml"), directory.join("state"));
        write_config(&config, setup.listen, setup.more)?;
        let mut command = match setup.cgroup {
            Some(cgroup) => command_in(cgroup, program),
            None => Command::new(program),
        };
        let child = command
            .arg("--config")
            .arg(&config)
            .arg("--state-dir")
            .arg(&state)
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
            state,
            listen: setup.listen.to_owned(),
            socket,
        };
        agent.wait("it is ready", |status| status.ready)?;
        Ok(agent)
    }

    /// Gives it other keys of `[agent]`, and waits until they hold.
    pub(super) fn configure(&self, more: &str) -> Result<()> {
        let before = self.status().unwrap_or_default().config_read_ms;
        write_config(&self.config, &self.listen, more)?;
        run::run(Command::new("kill").args(["-HUP", &self.child.id().to_string()]))?;
        self.wait("its configuration holds", |status| {
            status.config_read_ms > before
        })
        .map(drop)
    }

    /// A command that asks it.
    pub(super) fn headstart(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(&self.state);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    /// What it answers, if it does.
    pub(super) fn json<T: DeserializeOwned>(&self, what: &str) -> Option<T> {
        let output = self.headstart(&["--json", what]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    pub(super) fn status(&self) -> Option<Status> {
        self.json("status")
    }

    pub(super) fn wait(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status> {
        self.until(what, || self.status().filter(&holds))
    }

    /// Waits until something is found.
    pub(super) fn until<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(found) = found() {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                bail!("of the agent: waited in vain until {what}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it costs while something goes on: a row below [`COSTS`].
    pub(super) fn costs(
        &self,
        what: &str,
        during: impl FnOnce() -> Result<()>,
    ) -> Result<[String; COSTS.len()]> {
        let (before, began) = (self.processor()?, Instant::now());
        during()?;
        let share = (self.processor()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
        let (resident, own) = self.memory()?;
        Ok([
            what.to_owned(),
            format!("{resident:.1}"),
            format!("{own:.1}"),
            format!("{:.2} %", share * 100.0),
        ])
    }

    /// Processor time, user and system.
    pub(super) fn processor(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        let sum = ticks(11)
            .zip(ticks(12))
            .context("reading the agent's stat")?;
        Ok(Duration::from_millis((sum.0 + sum.1) * 10))
    }

    /// Memory, MiB: all that is resident, and what is its own of that.
    pub(super) fn memory(&self) -> Result<(f64, f64)> {
        let status = self.proc("status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib = line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
            Some(kib / 1024.0)
        };
        let both = field("VmRSS:").zip(field("RssAnon:"));
        both.context("reading the agent's memory")
    }

    /// Bytes that it has had read from disks, it or a helper that it started.
    pub(super) fn bytes_read(&self) -> Result<u64> {
        let own = read_bytes(&self.proc("io")?).context("reading what the agent read")?;
        // By the thread that started them: each has those of its own.
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let children = threads.flatten().flat_map(|thread| {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let ids = children.split_whitespace();
            // One that has ended meanwhile reads no more.
            let io = ids.filter_map(|id| fs::read_to_string(format!("/proc/{id}/io")).ok());
            io.filter_map(|io| read_bytes(&io)).collect::<Vec<_>>()
        });
        Ok(own + children.sum::<u64>())
    }

    /// Waits until it reads no more of what it was told to warm.
    pub(super) fn rests(&self) -> Result<()> {
        self.until("it has warmed", || {
            let before = self.bytes_read().ok()?;
            // Who takes turns beside others may pause for long.
            std::thread::sleep(Duration::from_secs(2));
            let more = self.bytes_read().ok()? - before;
            (more < 1 << 20).then_some(())
        })
    }

    fn proc(&self, name: &str) -> Result<String> {
        let file = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&file).with_context(|| format!("reading {file}"))
    }
}

fn write_config(config: &Path, listen: &str, more: &str) -> Result<()> {
    let new = config.with_extension("new");
    fs::write(
        &new,
        format!("metrics_listen = {listen:?}\n[agent]\n{more}\n"),
    )?;
    fs::rename(&new, config).with_context(|| format!("writing {}", config.display()))
}

/// `read_bytes` of a process's `io` in /proc.
pub(super) fn read_bytes(io: &str) -> Option<u64> {
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes:"))?;
    line.trim().parse().ok()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_read_is_found() {
        assert_eq!(
            read_bytes("rchar: 9\nread_bytes: 4096\nwrite_bytes: 1\n"),
            Some(4096)
        );
        assert_eq!(read_bytes("rchar: 9\n"), None);
    }
}
