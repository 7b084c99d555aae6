//! Where containers run: a mount namespace with a cgroup v2 tree, Podman in it, and agents
//! beside; all of them together are throttled.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::images::Container;
use crate::bench::throttle::Throttle;
use crate::run;

/// runc finds a v2 tree and nothing else; it is there until standard input ends.
const NAMESPACE: &str = "umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup && echo ready && read -r _";

/// Longest that an agent may take to tell something.
const DEADLINE: Duration = Duration::from_secs(180);

/// A namespace.
#[derive(Debug)]
pub(in crate::bench) struct Host {
    namespace: Child,
}

/// A store of Podman's.
#[derive(Debug)]
pub(in crate::bench) struct Store {
    graph: PathBuf,
    run: PathBuf,
}

/// How long a start took, seconds.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Took {
    /// `podman run`, to its end.
    pub(in crate::bench) all: f64,
    /// Of this the command alone, as Podman has it.
    pub(in crate::bench) command: f64,
    /// When the command ended, since the epoch.
    pub(in crate::bench) ended: f64,
}

impl Store {
    pub(in crate::bench) fn new(dir: &Path) -> Self {
        Self {
            graph: dir.join("graph"),
            run: dir.join("run"),
        }
    }
}

impl Host {
    pub(in crate::bench) fn new() -> Result<Self> {
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let mut line = String::new();
        let said = namespace.stdout.take().context("its output is piped")?;
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "ready\n", "no cgroup2 tree could be mounted");
        Ok(Self { namespace })
    }

    /// A command in the namespace; it becomes the program.
    pub(in crate::bench) fn command(&self, throttle: Option<&Throttle>, program: &Path) -> Command {
        let mut command = match throttle {
            Some(throttle) => throttle.command("nsenter"),
            None => Command::new("nsenter"),
        };
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.namespace.id());
        command.args([&namespace, "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// `podman`, as fast as it can.
    pub(in crate::bench) fn podman(&self, store: &Store) -> Command {
        self.podman_in(store, None)
    }

    fn podman_in(&self, store: &Store, throttle: Option<&Throttle>) -> Command {
        let mut command = self.command(throttle, Path::new("podman"));
        command.arg("--root").arg(&store.graph);
        command.arg("--runroot").arg(&store.run);
        command.args(["--cgroup-manager=cgroupfs", "--runtime=runc"]);
        command
    }

    /// Starts a container, and removes it when it has ended.
    pub(in crate::bench) fn start(
        &self,
        store: &Store,
        container: &Container,
        throttle: &Throttle,
    ) -> Result<Took> {
        let mut podman = run_options(self.podman_in(store, Some(throttle)));
        podman.args(["--name", container.name]);
        if let Some(volume) = &container.volume {
            let volume = volume.display();
            podman.arg(format!("--volume={volume}:{volume}:ro"));
        }
        podman.arg(container.image()).args(&container.command);
        let began = Instant::now();
        run::captured(&mut podman)?;
        let all = began.elapsed().as_secs_f64();
        let format = "{{.State.StartedAt.UnixNano}} {{.State.FinishedAt.UnixNano}}";
        let mut inspect = self.podman(store);
        let said = run::captured(inspect.args(["inspect", "-f", format, container.name]))?;
        run::captured(self.podman(store).args(["rm", container.name]))?;
        let times: Vec<i64> = said.split_whitespace().flat_map(str::parse).collect();
        let [from, to] = times[..] else {
            bail!("podman says `{said}` of when the container ran");
        };
        Ok(Took {
            all,
            command: (to - from) as f64 / 1e9,
            ended: to as f64 / 1e9,
        })
    }

    /// Has Podman, runc and what they keep in memory, as they are on a node that runs
    /// containers.
    pub(in crate::bench) fn start_nothing(&self, store: &Store, image: &str) -> Result<()> {
        let mut podman = run_options(self.podman(store));
        run::captured(podman.args(["--rm", image, "/bin/true"]))?;
        Ok(())
    }
}

/// Podman's limits ask for more than a container may be given everywhere.
fn run_options(mut podman: Command) -> Command {
    podman
        .args(["run", "--network=none", "--pids-limit=-1"])
        .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]);
    podman
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
    }
}

/// A node's agent: its directory, and what it runs over.
#[derive(Debug)]
pub(in crate::bench) struct Node<'a> {
    host: &'a Host,
    agent: PathBuf,
    dir: PathBuf,
}

/// An agent that runs; ends when this is dropped.
#[derive(Debug)]
pub(in crate::bench) struct Running<'a> {
    node: &'a Node<'a>,
    child: Child,
}

/// What is used of what the agent says of a workload.
#[derive(Debug, Deserialize)]
pub(in crate::bench) struct Known {
    pub(in crate::bench) key: String,
    image: String,
    starts: u64,
    runs: u64,
    pub(in crate::bench) last: Option<Last>,
}

/// Of its last start; bytes.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::bench) struct Last {
    over: bool,
    pub(in crate::bench) began_ms: u64,
    pub(in crate::bench) signal: String,
    pub(in crate::bench) lead_seconds: Option<f64>,
    pub(in crate::bench) read: u64,
    pub(in crate::bench) used: u64,
    pub(in crate::bench) late: u64,
    pub(in crate::bench) wasted: u64,
    pub(in crate::bench) unknown: u64,
    pub(in crate::bench) missed: u64,
}

#[derive(Deserialize)]
struct AllKnown {
    workloads: Vec<Known>,
}

#[derive(Deserialize)]
struct Status {
    ready: bool,
}

impl<'a> Node<'a> {
    /// One whose agent has the default configuration, but for its places and `more` keys of
    /// `[agent]`.
    pub(in crate::bench) fn new(
        host: &'a Host,
        agent: &Path,
        dir: &Path,
        store: &Store,
        more: &str,
    ) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
        }
        fs::create_dir_all(dir)?;
        let config = format!(
            "socket = {:?}\nmetrics_listen = \"\"\n[agent]\n{more}\n[agent.runtimes]\ncontainerd = []\n\
             storage = [{{ graph = {:?}, run = {:?} }}]\n",
            dir.join("agent.sock"),
            store.graph,
            store.run
        );
        fs::write(dir.join("config.toml"), config)?;
        Ok(Self {
            host,
            agent: agent.to_owned(),
            dir: dir.to_owned(),
        })
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn command(&self, throttle: Option<&Throttle>, args: &[&str]) -> Command {
        let mut command = self.host.command(throttle, &self.agent);
        command.arg("--config").arg(self.dir.join("config.toml"));
        command.arg("--state-dir").arg(self.state()).args(args);
        command
    }

    /// Runs `headstart` to its end.
    pub(in crate::bench) fn headstart(&self, args: &[&str]) -> Result<String> {
        run::captured(&mut self.command(None, args))
    }

    /// What `headstart --json` says.
    pub(in crate::bench) fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Option<T> {
        let text = run::quiet_output(self.command(None, &["--json"]).args(args))?;
        serde_json::from_str(&text).ok()
    }

    /// Puts all that is known by now aside.
    pub(in crate::bench) fn keep(&self) -> Result<()> {
        copy(&self.state(), &self.dir.join("kept"))
    }

    /// Makes what is known what it was then, and starts an agent.
    pub(in crate::bench) fn start_as_kept(&self, throttle: &Throttle) -> Result<Running<'_>> {
        copy(&self.dir.join("kept"), &self.state())?;
        self.start(throttle)
    }

    pub(in crate::bench) fn start(&self, throttle: &Throttle) -> Result<Running<'_>> {
        let child = self.command(Some(throttle), &["agent"]).spawn()?;
        let running = Running { node: self, child };
        running.until("it is ready", || {
            self.json(&["status"])
                .filter(|status: &Status| status.ready)
        })?;
        Ok(running)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    run::run(Command::new("cp").arg("-a").arg(from).arg(to))
}

impl Running<'_> {
    /// Waits until `found` gives something.
    pub(in crate::bench) fn until<T>(
        &self,
        what: &str,
        found: impl Fn() -> Option<T>,
    ) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(value) = found() {
                return Ok(value);
            }
            ensure!(
                began.elapsed() < DEADLINE,
                "of the agent: waited in vain until {what}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is known of a container's image once its only start here is over.
    pub(in crate::bench) fn learned(&self, image: &str) -> Result<Known> {
        self.until("a start is learned", || {
            let all: AllKnown = self.node.json(&["workloads"])?;
            all.workloads.into_iter().find(|known| {
                let is_over = known.last.as_ref().is_some_and(|last| last.over);
                known.image == image && known.starts == 1 && known.runs > 0 && is_over
            })
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = run::quiet_output(Command::new("kill").arg(pid));
        let _ = self.child.wait();
    }
}
