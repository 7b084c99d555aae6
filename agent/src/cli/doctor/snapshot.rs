//! What the machine said, before anyone judges it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::probe::HookState;

/// A system call or file that was tried: it worked, or why not.
pub(super) type Tried = Result<(), String>;

/// Everything `headstart doctor` judges. Plain data, so that a test can make up
/// any machine.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// `uname -r`.
    pub(super) release: String,
    /// Bytes of a page.
    pub(super) page_size: u64,
    /// Bytes of `/sys/kernel/btf/vmlinux`, or why it can't be read.
    pub(super) btf: Result<u64, String>,
    /// The active word of the kernel's lockdown file; `None` where there is none to read.
    pub(super) lockdown: Option<String>,
    /// Effective capabilities, one bit each.
    pub(super) capabilities: u64,
    pub(super) cgroups: Cgroups,
    /// Directories of container runtimes that are there, and whether their runtime can be
    /// asked, where that is of use.
    pub(super) runtimes: Vec<(PathBuf, Tried)>,
    /// Where tracefs is mounted.
    pub(super) tracefs: Option<PathBuf>,
    /// Where a bpffs is mounted.
    pub(super) bpffs: Option<PathBuf>,
    /// What became of each hook when it was attached, or why none could be.
    pub(super) hooks: Result<Vec<HookState>, String>,
    /// Where none could be: the trace points that this kernel has.
    pub(super) places: BTreeSet<String>,
    /// The kernel's fault-around window can be narrowed.
    pub(super) fault_around: Tried,
    /// A command can be traced so that nothing is mapped around its faults.
    pub(super) tracing: Tried,
    pub(super) cachestat: Tried,
    pub(super) openat2: Tried,
    pub(super) mincore: Tried,
    /// `/dev/fuse` can be opened.
    pub(super) fuse: Tried,
    /// Pressure of I/O can be read.
    pub(super) pressure: Tried,
    pub(super) drop_caches: Tried,
    pub(super) state_dir: StateDir,
    /// Why the configuration can't be read.
    pub(super) broken_config: Option<String>,
    /// Soft and hard limits; `None` is unlimited.
    pub(super) memlock: Limit,
    pub(super) nofile: Limit,
    /// Bytes of kernel programs in this binary.
    pub(super) probes: Option<usize>,
}

/// A resource limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// The cgroup hierarchies.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    /// Where the v2 tree is mounted.
    pub(super) v2: Option<PathBuf>,
    /// Whether it can be mounted apart, as `record` does.
    pub(super) reachable: bool,
    /// Controllers in v1 trees.
    pub(super) v1_controllers: Vec<String>,
    /// Whether the root of v2 has the memory controller.
    pub(super) v2_memory: Tried,
}

/// Where profiles are kept.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    pub(super) path: PathBuf,
    /// Whether it exists; else the facts are those of the nearest directory that does.
    pub(super) exists: bool,
    pub(super) writable: Tried,
    pub(super) free_bytes: u64,
    /// Readahead of the device below it.
    pub(super) read_ahead_kb: Option<u64>,
}

impl Snapshot {
    /// Major and minor of the release.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut numbers = self
            .release
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        (next(), next())
    }
}
