//! The configuration file.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::fs::OFlags;
use serde::{Deserialize, Deserializer};

use crate::api::{DEFAULT_METRICS_LISTEN, DEFAULT_METRICS_WORKLOADS, DEFAULT_SOCKET};
use crate::attribute::regular;
use crate::daemon::{ChargeTo, Heeded, Limits, Room, Settings};
use crate::model::{escape, parse_size};
use crate::run::RING_BYTES;
use crate::warm::IoClass;
use crate::workload::Roots;
use crate::workload::runtime::Storage;

use super::args::parse_duration;
use super::format;

/// Read if it exists and `--config` names no other.
pub const DEFAULT_PATH: &str = "/etc/headstart/config.toml";

/// Largest file that is read.
pub const MAX_BYTES: u64 = 1 << 20;

/// What can be configured; `config.toml` beside this file says what it means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where profiles are kept.
    #[serde(deserialize_with = "path")]
    pub state_dir: PathBuf,
    /// Most bytes read for one start.
    #[serde(deserialize_with = "size")]
    pub budget: u64,
    /// Size of the ring buffer that the probes write to.
    #[serde(deserialize_with = "ring_size")]
    pub ring_bytes: u32,
    /// How warming competes for the disk.
    pub io_priority: IoPriority,
    /// The agent's Unix socket.
    #[serde(deserialize_with = "path")]
    pub socket: PathBuf,
    /// Where the agent serves metrics; `None`: nowhere.
    #[serde(deserialize_with = "address")]
    pub metrics_listen: Option<SocketAddr>,
    /// Most workloads with metrics of their own.
    pub metrics_workloads: usize,
    /// The daemon.
    pub agent: AgentConfig,
}

/// What only `headstart agent` heeds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Learn, and warm nothing.
    pub observe_only: bool,
    /// Only workloads whose key begins with one of these; empty: all.
    pub only: Vec<String>,
    /// No workload whose key begins with one of these.
    pub never: Vec<String>,
    /// Workloads whose plans come first, by what their keys begin with.
    pub high_priority: Vec<String>,
    /// Workloads whose plans come last.
    pub low_priority: Vec<String>,
    /// A start is over when hardly anything was new for so long.
    #[serde(deserialize_with = "duration")]
    pub settle_after: Duration,
    /// It is over then, whatever it does.
    #[serde(deserialize_with = "duration")]
    pub learn_at_most: Duration,
    /// Starts that are learned at a time.
    pub learn_at_once: usize,
    /// Most of the time for which the hooks on the read path may be attached, 0 to 1.
    #[serde(deserialize_with = "share")]
    pub hook_share: f64,
    /// What is known is not learned while some task waits for a processor for more than
    /// this, percent.
    #[serde(deserialize_with = "percent")]
    pub cpu_pressure: f64,
    /// Find out what reads cost on idle disks.
    pub measure_disks: bool,
    /// Have the kernel map one page at a fault while something is learned.
    pub narrow_fault_around: bool,
    /// Plans that are carried out at a time.
    pub plans_at_once: usize,
    /// Most bytes of all plans that are carried out at a time.
    #[serde(deserialize_with = "size")]
    pub node_budget: u64,
    /// Most bytes a second that are read for all starts; 0: no bound.
    #[serde(deserialize_with = "size")]
    pub bytes_per_second: u64,
    /// The same for one start; 0: no bound but that.
    #[serde(deserialize_with = "size")]
    pub workload_bytes_per_second: u64,
    /// Whom a container's own files are charged to.
    pub charge: ChargeConfig,
    /// Memory that stays available.
    #[serde(deserialize_with = "size")]
    pub free_memory_floor: u64,
    /// Nothing is warmed while tasks wait for memory for more than this, percent.
    #[serde(deserialize_with = "percent")]
    pub memory_pressure: f64,
    /// Nothing is warmed ahead of a start while all tasks wait for the disk for more than
    /// this, percent.
    #[serde(deserialize_with = "percent")]
    pub io_pressure: f64,
    /// Listen to containerd's events.
    pub signal_runtime: bool,
    /// Watch the bundles that container runtimes write.
    pub signal_bundle: bool,
    /// Where container runtimes keep what they know.
    pub runtimes: RuntimesConfig,
}

/// Directories of container runtimes; those that are not there cost nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimesConfig {
    /// State directories of containerd, Docker's too.
    #[serde(deserialize_with = "paths")]
    pub containerd: Vec<PathBuf>,
    /// Storages of Podman and CRI-O.
    pub storage: Vec<StorageConfig>,
    /// Docker's data directories.
    #[serde(deserialize_with = "paths")]
    pub docker: Vec<PathBuf>,
    /// The kubelet's directories.
    #[serde(deserialize_with = "paths")]
    pub kubelet: Vec<PathBuf>,
}

/// A storage of Podman or CRI-O.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Images and layers: `graphroot` of storage.conf.
    #[serde(deserialize_with = "path")]
    pub graph: PathBuf,
    /// What does not outlive a reboot: `runroot`.
    #[serde(deserialize_with = "path")]
    pub run: PathBuf,
}

/// I/O scheduling class of warming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoPriority {
    /// Only when nothing else wants the disk.
    Idle,
    /// The lowest level that others compete with.
    BestEffort,
}

/// Whom a container's own files are charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChargeConfig {
    /// The agent's warm cgroup.
    Node,
    /// The container's own cgroup.
    Workload,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: PathBuf::from("/var/lib/headstart"),
            budget: 2 << 30,
            ring_bytes: RING_BYTES,
            io_priority: IoPriority::Idle,
            socket: DEFAULT_SOCKET.into(),
            metrics_listen: Some(DEFAULT_METRICS_LISTEN),
            metrics_workloads: DEFAULT_METRICS_WORKLOADS,
            agent: AgentConfig::default(),
        }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        let settings = Settings::default();
        let heeded = Heeded::default();
        Self {
            observe_only: settings.observe_only,
            only: settings.only,
            never: settings.never,
            high_priority: settings.high_priority,
            low_priority: settings.low_priority,
            settle_after: settings.learn.settle,
            learn_at_most: settings.learn.most,
            learn_at_once: settings.learn_at_once,
            hook_share: settings.hook_share,
            cpu_pressure: settings.cpu_pressure,
            measure_disks: settings.measure_disks,
            narrow_fault_around: settings.narrow_fault_around,
            plans_at_once: 4,
            node_budget: settings.room.per_node,
            bytes_per_second: settings.bytes_per_second,
            workload_bytes_per_second: settings.workload_bytes_per_second,
            charge: ChargeConfig::Node,
            free_memory_floor: settings.room.floor,
            memory_pressure: settings.room.memory_pressure,
            io_pressure: settings.room.io_pressure,
            signal_runtime: heeded.runtime,
            signal_bundle: heeded.bundle,
            runtimes: RuntimesConfig::default(),
        }
    }
}

impl Default for RuntimesConfig {
    fn default() -> Self {
        let Roots {
            containerd,
            storage,
            docker,
            kubelet,
        } = Roots::default();
        let storage = storage.into_iter();
        Self {
            containerd,
            storage: storage
                .map(|Storage { graph, run }| StorageConfig { graph, run })
                .collect(),
            docker,
            kubelet,
        }
    }
}

impl RuntimesConfig {
    /// As the daemon takes them.
    pub fn roots(&self) -> Roots {
        let storage = self.storage.iter().cloned();
        Roots {
            containerd: self.containerd.clone(),
            storage: storage
                .map(|StorageConfig { graph, run }| Storage { graph, run })
                .collect(),
            docker: self.docker.clone(),
            kubelet: self.kubelet.clone(),
        }
    }
}

/// Absolute: relative to what the agent was started in it would be found by chance.
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    absolute(PathBuf::deserialize(deserializer)?)
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(deserializer)?;
    paths.into_iter().map(absolute).collect()
}

fn absolute<E: serde::de::Error>(path: PathBuf) -> Result<PathBuf, E> {
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| E::custom("not an absolute path"))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

fn within<'de, D: Deserializer<'de>>(deserializer: D, most: f64) -> Result<f64, D::Error> {
    let number = f64::deserialize(deserializer)?;
    let is_within = (0.0..=most).contains(&number);
    is_within
        .then_some(number)
        .ok_or_else(|| serde::de::Error::custom(format!("not a number from 0 to {most}")))
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, 1.0)
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    within(deserializer, 100.0)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_size(&text).map_err(serde::de::Error::custom)
}

/// Empty is nowhere.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().map_err(|_| {
        serde::de::Error::custom("neither empty nor an address with a port, as 127.0.0.1:9469")
    })?;
    Ok(Some(address))
}

/// As the kernel wants it: a power of two, and whole pages.
fn ring_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let bytes = size(deserializer)?;
    let fits = bytes.is_power_of_two() && (4 << 10..=1 << 30).contains(&bytes);
    u32::try_from(bytes)
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| serde::de::Error::custom("not a power of two from 4KiB to 1GiB"))
}

impl Config {
    /// What the daemon may be told anew while it runs.
    pub fn settings(&self) -> Settings {
        let agent = &self.agent;
        Settings {
            observe_only: agent.observe_only,
            learn: Limits {
                settle: agent.settle_after,
                most: agent.learn_at_most,
            },
            learn_at_once: agent.learn_at_once,
            hook_share: agent.hook_share,
            cpu_pressure: agent.cpu_pressure,
            measure_disks: agent.measure_disks,
            narrow_fault_around: agent.narrow_fault_around,
            room: Room {
                per_start: self.budget,
                per_node: agent.node_budget,
                floor: agent.free_memory_floor,
                memory_pressure: agent.memory_pressure,
                io_pressure: agent.io_pressure,
            },
            io_class: self.io_class(),
            bytes_per_second: agent.bytes_per_second,
            workload_bytes_per_second: agent.workload_bytes_per_second,
            charge: match agent.charge {
                ChargeConfig::Node => ChargeTo::Node,
                ChargeConfig::Workload => ChargeTo::Workload,
            },
            only: agent.only.clone(),
            never: agent.never.clone(),
            high_priority: agent.high_priority.clone(),
            low_priority: agent.low_priority.clone(),
        }
    }

    /// With which priority data is warmed.
    pub fn io_class(&self) -> IoClass {
        match self.io_priority {
            IoPriority::Idle => IoClass::Idle,
            IoPriority::BestEffort => IoClass::BestEffort(7),
        }
    }

    /// Reads `file`, which must exist; without one, [`DEFAULT_PATH`] if it does.
    ///
    /// # Errors
    /// It can't be read, or is not as it should be.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Config> {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        let bytes = match regular::read(path, OFlags::RDONLY, MAX_BYTES) {
            Err(e) if e.kind() == ErrorKind::NotFound && file.is_none() => {
                return Ok(Config::default());
            }
            bytes => {
                bytes.with_context(|| format!("reading configuration {}", format::path(path)))?
            }
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| anyhow!("{}: not UTF-8 text", format::path(path)))?;
        Config::parse(&text).map_err(|problem| anyhow!("{}, {problem}", format::path(path)))
    }

    /// The keys that differ in `now` and are only heeded at the agent's start.
    pub fn heeded_at_start(&self, now: &Config) -> Vec<&'static str> {
        let (agent, now_agent) = (&self.agent, &now.agent);
        let keys = [
            ("state_dir", self.state_dir != now.state_dir),
            ("ring_bytes", self.ring_bytes != now.ring_bytes),
            ("socket", self.socket != now.socket),
            ("metrics_listen", self.metrics_listen != now.metrics_listen),
            (
                "metrics_workloads",
                self.metrics_workloads != now.metrics_workloads,
            ),
            (
                "agent.plans_at_once",
                agent.plans_at_once != now_agent.plans_at_once,
            ),
            (
                "agent.signal_runtime",
                agent.signal_runtime != now_agent.signal_runtime,
            ),
            (
                "agent.signal_bundle",
                agent.signal_bundle != now_agent.signal_bundle,
            ),
            ("agent.runtimes", agent.runtimes != now_agent.runtimes),
        ];
        let differ = keys.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(key, _)| key).collect()
    }

    /// Takes the file's text apart.
    ///
    /// # Errors
    /// What is wrong, with the line's number and the line, for the key is on it.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let message = error.message();
            let Some(span) = error.span() else {
                return message.to_owned();
            };
            let before = text.get(..span.start).unwrap_or(text);
            let number = before.matches('\n').count();
            let line = text.lines().nth(number).unwrap_or_default().trim();
            let line = escape(line.as_bytes());
            format!(
                "line {}: {} in `{line}`",
                number + 1,
                escape(message.as_bytes())
            )
        })?;
        // Each plan has threads of its own.
        match config.agent.plans_at_once {
            1..=MOST_PLANS => Ok(config),
            _ => Err(format!("agent.plans_at_once: 1 to {MOST_PLANS}")),
        }
    }
}

/// Most plans that may be carried out at once.
const MOST_PLANS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_at_once_are_bounded() {
        for (plans, is_taken) in [(0, false), (1, true), (64, true), (1_000_000, false)] {
            let text = format!("[agent]\nplans_at_once = {plans}");
            assert_eq!(Config::parse(&text).is_ok(), is_taken, "{plans}");
        }
    }

    /// What is shipped for people to start from.
    const DEFAULTS: &str = include_str!("config.toml");

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        assert_eq!(Config::parse(DEFAULTS), Ok(Config::default()));
        assert_eq!(Config::parse(""), Ok(Config::default()));
        let keys = DEFAULTS.lines().filter(|l| l.contains(" = ")).count();
        assert_eq!(keys, 33, "every key is documented");
    }

    #[test]
    fn errors_name_line_and_key() {
        let unknown = Config::parse("budget = \"1GiB\"\nbugdet = 3\n").expect_err("refused");
        assert!(
            unknown.starts_with("line 2: unknown field `bugdet`"),
            "{unknown}"
        );
        let bad = Config::parse("\n\nbudget = \"2 parsecs\"").expect_err("refused");
        assert!(
            bad.contains("line 3") && bad.contains("unknown unit") && bad.contains("budget"),
            "{bad}"
        );
        let malformed = Config::parse("state_dir = \n").expect_err("refused");
        assert!(
            malformed.contains("line 1") && malformed.contains("state_dir"),
            "{malformed}"
        );
        for key in ["state_dir", "socket"] {
            for path in ["", "headstart", "./x"] {
                let path = Config::parse(&format!("{key} = {path:?}")).expect_err("refused");
                assert!(
                    path.contains("not an absolute path") && path.contains(key),
                    "{path}"
                );
            }
        }
        for size in ["3MiB", "2KiB", "2GiB"] {
            let ring = Config::parse(&format!("ring_bytes = {size:?}")).expect_err("refused");
            assert!(
                ring.contains("power of two") && ring.contains("ring_bytes"),
                "{ring}"
            );
        }
        let priority = Config::parse("io_priority = \"urgent\"").expect_err("refused");
        assert!(
            priority.contains("`idle`") && priority.contains("io_priority"),
            "{priority}"
        );
    }

    #[test]
    fn runtimes_may_keep_their_things_elsewhere() {
        let config = Config::parse(
            "[agent.runtimes]\ncontainerd = []\nstorage = [{ graph = \"/g\", run = \"/r\" }]\n",
        )
        .expect("valid");
        let roots = config.agent.runtimes.roots();
        assert_eq!(roots.containerd, Vec::<PathBuf>::new());
        assert_eq!(roots.storage.len(), 1);
        assert_eq!(roots.storage[0].run, Path::new("/r"));
        assert_eq!(roots.docker, Roots::default().docker);
        assert_eq!(RuntimesConfig::default().roots(), Roots::default());
        for (text, wanted) in [
            ("crio = []", "unknown field `crio`"),
            ("storage = [{ graph = \"/g\" }]", "missing field `run`"),
            ("docker = [\"docker\"]", "not an absolute path"),
        ] {
            let error = Config::parse(&format!("[agent.runtimes]\n{text}\n")).expect_err("refused");
            assert!(
                error.starts_with("line 2") && error.contains(wanted),
                "{error}"
            );
        }
    }

    #[test]
    fn an_address_may_be_none() {
        let listen = |text: &str| Config::parse(&format!("metrics_listen = {text:?}"));
        assert_eq!(listen("").map(|c| c.metrics_listen), Ok(None));
        let all = listen("[::]:9469").map(|c| c.metrics_listen);
        assert_eq!(all, Ok("[::]:9469".parse().ok()));
        let bad = listen("localhost").expect_err("refused");
        assert!(
            bad.contains("address") && bad.contains("metrics_listen"),
            "{bad}"
        );
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let error = Config::load(Some(Path::new("/nonexistent/\x1b.toml"))).expect_err("refused");
        let error = format!("{error:#}");
        assert!(error.contains("/nonexistent/\\x1b.toml"), "{error}");
        let endless = Config::load(Some(Path::new("/dev/zero"))).expect_err("refused");
        assert!(format!("{endless:#}").contains("not a regular file"));
    }
}
