//! What reads cost on the disks that starts read from. It is measured once a day, when a disk
//! is idle: what is planned for it depends on that.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use super::pool::{LAST, Pool};
use super::prepare::Shared;
use crate::model::{Volume, escape};
use crate::run::{kept_cost, measure_and_keep};
use crate::warm::{MeasureError, is_idle};

/// Volumes that wait to be looked at. More are looked at when they are learned from again.
const QUEUE: usize = 16;

/// How long a disk is waited for that somebody uses.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the agent's end waits for a look that is under way, which is left alone then.
const LONGEST_END: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Seen {
    counts: BTreeMap<&'static str, u64>,
    /// Volumes that can't be measured, by id: each try may leave a thread with one that hangs.
    failed: HashSet<String>,
}

/// Who measures disks.
pub(super) struct Survey {
    shared: Arc<Shared>,
    seen: Arc<Mutex<Seen>>,
    pool: Option<Pool>,
}

impl Survey {
    pub(super) fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        Ok(Self {
            shared,
            seen: Arc::default(),
            pool: Some(Pool::new("survey", 1, QUEUE, LAST)?),
        })
    }

    /// Has a volume looked at, by a file in it, if nobody knows it and that is wanted.
    pub(super) fn look(&self, volume: Volume, path: Vec<u8>) {
        let settings = self.shared.settings();
        let is_wanted = settings.measure_disks && !settings.observe_only;
        drop(settings);
        let Some(pool) = self.pool.as_ref().filter(|_| is_wanted) else {
            return;
        };
        let (shared, seen) = (self.shared.clone(), self.seen.clone());
        // Where too many wait it is looked at another time.
        pool.submit(move || {
            if let Some(result) = measure(&shared, &seen, &volume, &path) {
                *lock(&seen).counts.entry(result).or_default() += 1;
            }
        });
    }

    /// How often disks were looked at, by result.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.seen).counts.clone()
    }

    /// Ends it; what goes on is left alone, and is over in seconds.
    pub(super) fn end(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.finish_but(LONGEST_END, || 0);
        }
    }
}

/// What came of a look; `None` where there was no need, or nothing to look at.
fn measure(
    shared: &Shared,
    seen: &Mutex<Seen>,
    volume: &Volume,
    path: &[u8],
) -> Option<&'static str> {
    let id = &volume.id.0;
    let holds = kept_cost(&shared.store, volume).is_some_and(|(_, holds)| holds);
    if holds || lock(seen).failed.contains(id) {
        return None;
    }
    let why = match is_idle(Path::new(std::ffi::OsStr::from_bytes(path)), PATIENCE) {
        Some(false) => return Some("busy"),
        None => "it is on no disk of this machine".to_owned(),
        Some(true) => match measure_and_keep(&shared.store, volume, path) {
            Ok(cost) => {
                tracing::info!(
                    volume = id,
                    reads_per_second = (1e9 / cost.read_ns).round(),
                    bytes_per_second = cost.bytes_per_s.round(),
                    latency_us = (cost.latency_ns / 1e3).round(),
                    "a disk was measured: plans are made for it"
                );
                return Some("measured");
            }
            // Another file may do.
            Err(MeasureError::TooSmall(_)) => return None,
            Err(error) => error.to_string(),
        },
    };
    tracing::info!(
        why,
        volume = id,
        path = escape(path),
        "reads can't be measured: they are taken for those of a modest SSD"
    );
    lock(seen).failed.insert(id.clone());
    Some("failed")
}
