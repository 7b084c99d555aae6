//! What the daemon is told at its start, and what may change while it runs.

use std::path::PathBuf;
use std::time::Duration;

use super::admit::Room;
use super::phase::Limits;
use crate::warm::IoClass;
use crate::workload::runtime::Roots;

/// What stays as it is while the daemon runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where profiles are kept.
    pub state_dir: PathBuf,
    /// Size of the ring buffer that the probes write to, a power of two.
    pub ring_bytes: u32,
    /// Plans that are carried out at a time; others wait.
    pub plans_at_once: usize,
    /// Where runtimes keep what they know.
    pub runtimes: Roots,
    /// Which signals are listened for.
    pub heeded: Heeded,
    /// The rest, until it is reloaded.
    pub settings: Settings,
}

/// Signals of starts that can be left out. (Cgroups made are always heeded.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heeded {
    /// Events of containerd.
    pub runtime: bool,
    /// Bundles that runtimes write.
    pub bundle: bool,
}

impl Default for Heeded {
    fn default() -> Self {
        Self {
            runtime: true,
            bundle: true,
        }
    }
}

/// What a reload may change.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Learn, and warm nothing.
    pub observe_only: bool,
    /// How long a start is learned.
    pub learn: Limits,
    /// Starts that are learned at a time; others are only warmed for.
    pub learn_at_once: usize,
    /// Most of the time for which the read-path hooks may be attached, 0 to 1; above, no
    /// start is learned until it is below again.
    pub hook_share: f64,
    /// What is known is not learned while some task waits for a processor for more than
    /// this share of a second, percent.
    pub cpu_pressure: f64,
    /// Find out what reads cost on idle disks.
    pub measure_disks: bool,
    /// Have the kernel map one page at a fault while something is learned.
    pub narrow_fault_around: bool,
    /// What a plan may take.
    pub room: Room,
    /// Priority of the I/O.
    pub io_class: IoClass,
    /// Most bytes a second that are read for all starts; 0: no bound.
    pub bytes_per_second: u64,
    /// The same for one start; 0: no bound but that.
    pub workload_bytes_per_second: u64,
    /// Whom a container's own files are charged to.
    pub charge: ChargeTo,
    /// Only workloads whose key begins with one of these; empty: all.
    pub only: Vec<String>,
    /// No workload whose key begins with one of these.
    pub never: Vec<String>,
    /// Workloads whose plans come first, by what their keys begin with.
    pub high_priority: Vec<String>,
    /// Workloads whose plans come last.
    pub low_priority: Vec<String>,
}

/// Whom a container's own files are charged to: those in volumes that it claims or that are
/// mounted into it. All others are the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeTo {
    /// The warm cgroup, as all others.
    Node,
    /// The container's cgroup, as if it read them itself.
    Workload,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            observe_only: false,
            learn: Limits {
                settle: Duration::from_secs(5),
                most: Duration::from_secs(120),
            },
            learn_at_once: 256,
            hook_share: 0.5,
            cpu_pressure: 50.0,
            measure_disks: true,
            narrow_fault_around: false,
            room: Room {
                per_start: 2 << 30,
                per_node: 4 << 30,
                floor: 256 << 20,
                memory_pressure: 10.0,
                io_pressure: 60.0,
            },
            io_class: IoClass::Idle,
            bytes_per_second: 0,
            workload_bytes_per_second: 0,
            charge: ChargeTo::Node,
            only: Vec::new(),
            never: Vec::new(),
            high_priority: Vec::new(),
            low_priority: Vec::new(),
        }
    }
}

impl Settings {
    /// Whether a workload of this key is of interest.
    pub(super) fn wants(&self, key: &str) -> bool {
        let begins = |prefixes: &[String]| prefixes.iter().any(|p| key.starts_with(p));
        (self.only.is_empty() || begins(&self.only)) && !begins(&self.never)
    }
}

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Two would learn each start twice, and warm for it twice.
    #[error(
        "another agent works with {}: stop that one, or name another directory with --state-dir",
        crate::model::escape(.0.as_os_str().as_encoded_bytes())
    )]
    Taken(std::path::PathBuf),
    /// Something that it needs of the system failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Cause.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_wanted_goes_before_what_is() {
        let settings = Settings {
            only: vec!["unit:".into()],
            never: vec!["unit:getty@".into()],
            ..Settings::default()
        };
        assert!(settings.wants("unit:nginx.service"));
        assert!(!settings.wants("unit:getty@tty1.service"));
        assert!(!settings.wants("container:web"));
        assert!(Settings::default().wants("container:web"));
    }
}
