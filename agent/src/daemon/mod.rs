//! The daemon: it watches every workload of this machine and warms the next start.
//!
//! One thread, the loop (`watch`), takes signals and records from the kernel and owns
//! all that is known; workers (`jobs`) find out who starts, warm, and learn. What is told
//! (`view`) is a copy that the loop replaces.
//!
//! Invariant: no start waits for anything here, and what fails here costs only speed.

mod admit;
mod charge;
mod existing;
mod expected;
mod guest;
mod handle;
pub mod helper;
mod hooks;
mod jobs;
mod learn;
mod narrow;
mod options;
mod phase;
mod pool;
mod prepare;
mod priority;
mod queue;
mod relief;
mod signals;
mod spare;
mod start;
mod starts;
mod survey;
mod tracked;
mod view;
mod warmers;
mod watch;
mod wishes;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

pub use admit::Room;
pub use handle::{Finished, Handle, Listener, Notified, Order, OrderError, Replied, Touched};
pub use options::{ChargeTo, DaemonError, Heeded, Options, Settings};
pub use phase::Limits;
pub use view::{
    Feature, FileView, Histogram, LEAD_BOUNDS, SIGNALS, StartView, Totals, View, WorkloadView,
};

use crate::probe::{ProbeError, Probes};
use crate::profile::{Store, StoreError};
use crate::run::{existing_paths, now_ms};
use charge::Charge;
use hooks::Hooks;
use jobs::{Done, Outbox};
use narrow::Narrower;
use prepare::Shared;
use view::STORE;
use watch::{Kernel, Watch};

/// What is guarded here is consistent between any two statements: a panic in between
/// spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longest that the agent waits for others to let go of the store before it goes on without
/// keeping anything.
const STORE_WAIT: Duration = Duration::from_millis(500);

/// Between two attempts at keeping something, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// In the state directory; locked by the agent that works with it.
const LOCK: &str = "agent.lock";

/// All that is configured holds.
const CONFIGURED: &str = "configuration";

/// What may change while the daemon runs; asked for every half second.
pub trait Reload {
    /// New settings, if there are any since the last time; a reason, where they are
    /// refused and the old ones stay.
    fn reload(&mut self) -> Option<Result<Settings, String>>;
    /// What was changed and holds from the next start on; empty: nothing.
    fn pending(&self) -> String {
        String::new()
    }
    /// The loop has turned: for a watchdog.
    fn alive(&mut self) {}
}

/// Runs until `stop` can be read.
///
/// # Errors
/// Another agent works with the state directory, or threads can't be started. That nothing
/// can be recorded or kept is no error: what is known is warmed all the same.
pub fn run(
    options: Options,
    handle: &Handle,
    orders: Receiver<Order>,
    stop: BorrowedFd<'_>,
    reload: &mut dyn Reload,
) -> Result<(), DaemonError> {
    let (store, kept) = open_store(&options.state_dir);
    let _alone = alone(&options.state_dir)?;
    // Before the hooks, which would see its cgroups made.
    let charge = Charge::new(options.settings.room.per_node).map_err(io("sharing memory"))?;
    let kernel = load(options.ring_bytes);
    let mut base = View {
        started_ms: now_ms(),
        config_read_ms: now_ms(),
        ..View::default()
    };
    match &kernel {
        Ok(kernel) => {
            base.features = kernel.hooks.features();
            base.hooks = kernel.hooks.states().to_vec();
        }
        Err(error) => {
            tracing::warn!(%error, "nothing is recorded, and no start is noticed but what runtimes tell of");
            let features = [
                "record_pages",
                "record_names",
                "signal_cgroup",
                "signal_refill",
            ];
            base.features = features.map(|name| missing(name, error)).into();
        }
    }
    let existing = existing_paths();
    let told_apart = told_apart(&existing);
    base.features.push(Feature {
        name: "cgroup_v2",
        live: told_apart.is_ok(),
        reason: told_apart.err().unwrap_or_default(),
    });
    base.set_feature(STORE, why_not(&kept));
    let shared = Shared::new(store, options.runtimes, options.settings, charge);
    let shared = Arc::new(shared);
    let (mut watch, outbox) = Watch::new(
        kernel.ok(),
        shared.clone(),
        handle.clone(),
        options.plans_at_once,
        options.heeded,
        base,
        Narrower::start(options.state_dir).map_err(io("starting threads"))?,
    )
    .map_err(io("starting threads"))?;
    // The store is closed when the loop has ended, whoever could still ask.
    let stored = Arc::downgrade(&shared);
    if kept.is_err() {
        let (stored, outbox) = (stored.clone(), outbox.clone());
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || keep_later(&stored, &outbox))
            .map_err(io("starting threads"))?;
    }
    // It ends with the last handle.
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            while let Ok(order) = orders.recv() {
                // The loop waits for no disk.
                if let Order::Stored { from, most, reply } = order {
                    let pasts = match stored.upgrade() {
                        Some(shared) => shared.store.pasts(&from, most),
                        None => break,
                    };
                    let _ = reply.send(pasts.map_err(|e| OrderError::Store(e.to_string())));
                    continue;
                }
                if !outbox.send(Done::Ordered(order)) {
                    break;
                }
            }
        })
        .map_err(io("starting threads"))?;
    match existing {
        Ok(existing) => watch.take_up(existing),
        Err(error) => tracing::warn!(%error, "what runs already is not known"),
    }
    watch.run(stop, &mut |watch| {
        reload.alive();
        match reload.reload() {
            None => {}
            Some(Ok(settings)) => {
                if shared.charge.wants_high(settings.room.per_node) {
                    set_bound(shared.clone());
                }
                *shared.settings() = settings;
                watch.base().config_read_ms = now_ms();
                watch.base().config_error.clear();
                let pending = reload.pending();
                watch.base().set_feature(CONFIGURED, pending);
            }
            Some(Err(reason)) => watch.base().config_error = reason,
        }
    });
    Ok(())
}

/// Has the warm cgroup's bound set beside the loop, which is not to wait for it.
fn set_bound(shared: Arc<Shared>) {
    let set = move || shared.charge.set_high();
    let spawned = std::thread::Builder::new().name("bound".into()).spawn(set);
    if let Err(error) = spawned {
        tracing::warn!(%error, "the warm cgroup keeps its bound");
    }
}

/// Whether this machine's units and containers have cgroups of version 2: on one that has
/// them in trees of version 1 there is the root, and nothing else.
fn told_apart(existing: &std::io::Result<Vec<(u64, Vec<u8>)>>) -> Result<(), String> {
    match existing {
        Ok(paths) if paths.iter().any(|(_, path)| path != b"/") => Ok(()),
        Ok(_) => Err(
            "nothing has a cgroup of version 2 here, so that nobody can be told apart: \
             boot with systemd.unified_cgroup_hierarchy=1"
                .to_owned(),
        ),
        Err(error) => Err(format!("the cgroups of version 2 can't be read: {error}")),
    }
}

/// The store, and why nothing can be kept in it; what is in it is warmed all the same.
fn open_store(directory: &Path) -> (Store, Result<(), StoreError>) {
    let store = Store::closed(directory);
    let kept = store.begin_writing(STORE_WAIT).inspect_err(|error| {
        tracing::warn!(%error, "nothing is learned; what is known is warmed");
    });
    (store, kept)
}

/// Why nothing can be kept; empty where it can.
fn why_not(kept: &Result<(), StoreError>) -> String {
    let why_not = kept.as_ref().err().map(ToString::to_string);
    why_not.unwrap_or_default()
}

/// Tries again and again to keep something, until that can be done or the agent is over.
fn keep_later(shared: &Weak<Shared>, outbox: &Outbox) {
    let mut pause = RETRY.0;
    loop {
        std::thread::sleep(pause);
        pause = (2 * pause).min(RETRY.1);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let kept = shared.store.begin_writing(STORE_WAIT);
        if !outbox.send(Done::Keeps(why_not(&kept))) {
            return;
        }
        if kept.is_ok() {
            tracing::info!("the store can be written to: starts are learned from now on");
            return;
        }
    }
}

/// Holds other agents off a state directory for as long as the file lives. Where nothing can
/// be written, or the filesystem has no locks, nobody is held off.
fn alone(state_dir: &Path) -> Result<Option<File>, DaemonError> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let Ok(file) = options.open(state_dir.join(LOCK)) else {
        return Ok(None);
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(DaemonError::Taken(state_dir.to_owned())),
        _ => Ok(Some(file)),
    }
}

fn io(operation: &'static str) -> impl Fn(std::io::Error) -> DaemonError {
    move |source| DaemonError::Io { operation, source }
}

fn missing(name: &'static str, error: &ProbeError) -> Feature {
    Feature {
        name,
        live: false,
        reason: error.to_string(),
    }
}

fn load(ring_bytes: u32) -> Result<Kernel, ProbeError> {
    let mut probes = Probes::load(ring_bytes)?;
    let records = probes.reader()?;
    let signals = probes.signals()?;
    let hooks = Hooks::try_all(&mut probes);
    Ok(Kernel {
        probes,
        records,
        signals,
        hooks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_alone_tells_nobody_apart() {
        let root = (1, b"/".to_vec());
        let version_1 = told_apart(&Ok(vec![root.clone()])).expect_err("nobody");
        assert!(
            version_1.contains("unified_cgroup_hierarchy"),
            "{version_1}"
        );
        let unit = (2, b"/system.slice/a.service".to_vec());
        assert_eq!(told_apart(&Ok(vec![root, unit])), Ok(()));
        assert!(told_apart(&Err(std::io::ErrorKind::NotFound.into())).is_err());
    }
}
