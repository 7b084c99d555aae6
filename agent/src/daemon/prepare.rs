//! On a start's signal: who is it, is there a profile, what may be warmed, and warming.
//! Runs on the daemon's workers; the start itself waits for none of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::admit::{NOTIFIED_HOLDS, Readings, admit};
use super::charge::Charge;
use super::guest::{Except, Guest};
use super::options::{ChargeTo, Settings};
use super::start::Warmed;
use super::wishes::{Mode, Wishes};
use crate::attribute::mountinfo::{Mount, Table};
use crate::model::{Action, Plan, Profile};
use crate::plan::Timing;
use crate::profile::{Past, Store, StoreError, Totals};
use crate::run::{MemoryLimits, Warmup, device_cost, doubt, is_doubtful, main_volume};
use crate::warm::Cancel;
use crate::workload::{self, Containerd, Identified, Keys, Place, Roots, Volumes, Workload};

/// What workers share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) runtimes: Roots,
    containerd: Vec<Containerd>,
    mounts: Mutex<Table>,
    pub(super) settings: Mutex<Settings>,
    /// Bytes of the plans that are being carried out.
    taken: Mutex<u64>,
    limits: MemoryLimits,
    /// Who carries plans out.
    pub(super) charge: Charge,
}

/// Whose start is warmed for.
pub(super) struct Whom<'a> {
    /// Its cgroup; `None` ahead of a start.
    pub(super) cgroup: Option<u64>,
    pub(super) volumes: &'a Volumes,
    pub(super) wishes: Wishes,
    pub(super) except: &'a Except<'a>,
}

/// Why a start is not warmed for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotWarmed {
    /// The configuration or the profile says so; the name is that of the metric.
    #[error("{0}")]
    For(&'static str),
    /// There is too little of something.
    #[error("{0}")]
    Throttled(&'static str),
    /// The store failed.
    #[error("{0}")]
    Store(String),
}

/// A workload, and what is in the store of it.
pub(super) struct Known {
    pub(super) workload: Workload,
    /// `None` where it has no profile, or that can't be read.
    pub(super) past: Option<Past>,
}

/// Neither learned nor warmed for.
pub(super) const OPTED_OUT: NotWarmed = NotWarmed::For("opted_out");

impl Shared {
    pub(super) fn new(store: Store, runtimes: Roots, settings: Settings, charge: Charge) -> Self {
        Self {
            store,
            containerd: Containerd::of(&runtimes),
            runtimes,
            mounts: Mutex::default(),
            settings: Mutex::new(settings),
            taken: Mutex::new(0),
            limits: MemoryLimits::of_self(),
            charge,
        }
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who a cgroup is, as far as it is written down now.
    pub(super) fn look_up(&self, place: &Place) -> Identified {
        workload::identify(place, &self.runtimes, || self.mounts(), &self.containerd)
    }

    /// What is in the store of a workload.
    pub(super) fn recall(&self, workload: Workload) -> Known {
        let key = workload.keys.0.first();
        let past = key.and_then(|key| self.store.past(key).ok().flatten());
        Known { workload, past }
    }

    /// Who a container is that has no cgroup yet.
    pub(super) fn foresee(&self, id: &str, namespace: Option<&str>) -> Identified {
        let mounts = || self.mounts();
        workload::foresee(id, namespace, &self.runtimes, mounts, &self.containerd)
    }

    /// The mount table; where it can't be read, none of it is known.
    fn mounts(&self) -> Arc<[Mount]> {
        let mut table = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        table.now().unwrap_or_else(|error| {
            tracing::warn!(%error, "the mount table can't be read");
            Arc::default()
        })
    }

    /// The profile of the surest key that has one.
    pub(super) fn profile(&self, keys: &Keys) -> Result<Option<(String, Profile)>, StoreError> {
        self.store.find(&keys.0)
    }

    /// Where a profile's layers are on this node, while there is no container that tells.
    pub(super) fn stored(&self, profile: &Profile) -> Volumes {
        let ids = profile.volumes.iter().map(|volume| volume.id.0.as_str());
        let layers = ids.filter(|id| id.starts_with("layer:")).collect();
        Volumes {
            directories: workload::layers::stored(&self.runtimes, &layers),
            root: None,
        }
    }

    /// Makes and carries out the plan for a start, or for several that want the same.
    ///
    /// # Errors
    /// Why nothing is warmed.
    pub(super) fn warm(
        &self,
        mut profile: Profile,
        whom: &Whom<'_>,
        timing: Timing,
        cancel: &Cancel,
    ) -> Result<Warmed, NotWarmed> {
        workload::localize(whom.volumes, &mut profile);
        let settings = self.settings().clone();
        let cost = device_cost(&self.store, &profile, false);
        let per_second = whom.wishes.per_second(&settings);
        let bounds = self.charge.bounds(settings.bytes_per_second, per_second);
        let warmup = Warmup {
            io_class: settings.io_class,
            cost,
            // By then whoever was told of has come, or will not.
            deadline: match timing {
                Timing::Ahead => Instant::now().checked_add(NOTIFIED_HOLDS),
                Timing::Beside => None,
            },
            rates: bounds.rates.clone(),
            pace: Some(bounds.pace.clone()),
            ..Warmup::default()
        };
        let within = |budget| Warmup {
            budget,
            ..warmup.clone()
        };
        let wanted = within(whom.wishes.budget(&settings)).plan(&profile, timing);
        let (budget, _held) = self.hold(&settings, wanted.totals.bytes, timing)?;
        let plan = match wanted.totals.bytes <= budget {
            true => wanted,
            false => within(budget).plan(&profile, timing),
        };
        let guest = whom.cgroup.map(|cgroup| Guest {
            cgroup,
            volumes: whom.volumes,
            except: whom.except,
        });
        let guest = guest.filter(|_| settings.charge == ChargeTo::Workload);
        let report = self
            .charge
            .execute(&warmup, &plan, timing, cancel, guest.as_ref())
            .map_err(|error| {
                tracing::warn!(%error, "nothing is warmed: the mount table can't be read");
                NotWarmed::For("no_mount_table")
            })?;
        if timing == Timing::Beside
            && bounds.rates.is_empty()
            && is_doubtful(&cost, reads(&plan), &report)
            && let Some((volume, _)) = main_volume(&profile)
        {
            doubt(&self.store, volume, &cost);
        }
        Ok(Warmed {
            plan: Arc::new(plan),
            report: Arc::new(report),
        })
    }

    /// Takes what a plan needs of what there is; less, where there is less.
    fn hold(
        &self,
        settings: &Settings,
        wanted: u64,
        timing: Timing,
    ) -> Result<(u64, Held<'_>), NotWarmed> {
        // What a workload pays for is bounded by its own limit, by the kernel.
        let pays = settings.charge == ChargeTo::Node;
        let readings = Readings::now(pays.then_some(&self.limits));
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ahead = timing == Timing::Ahead;
        let room = admit(&readings, &settings.room, *taken, wanted, is_ahead);
        let budget = room.map_err(NotWarmed::Throttled)?;
        *taken += budget;
        Ok((budget, Held(&self.taken, budget)))
    }

    /// File data that a plan ahead of a start would ask for, bytes.
    pub(super) fn planned(&self, profile: &Profile) -> u64 {
        let budget = self.settings().room.per_start;
        let warmup = Warmup {
            budget,
            cost: device_cost(&self.store, profile, false),
            ..Warmup::default()
        };
        warmup.plan(profile, Timing::Ahead).totals.bytes
    }

    /// Whether a workload is to be warmed for at all, by its key and its labels.
    pub(super) fn wants_warming(
        &self,
        key: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), NotWarmed> {
        let settings = self.settings();
        let mode = Mode::of(labels);
        if !settings.wants(key) || mode == Mode::Off {
            return Err(OPTED_OUT);
        }
        if settings.observe_only || mode == Mode::Observe {
            return Err(NotWarmed::For("observe_only"));
        }
        Ok(())
    }
}

/// Reads that a plan makes of a disk, look-ups of names aside.
fn reads(plan: &Plan) -> u64 {
    let is_read = |action: &&Action| !matches!(action, Action::Name { .. });
    plan.actions.iter().filter(is_read).count() as u64
}

/// Bytes of a plan, for as long as it is carried out.
struct Held<'a>(&'a Mutex<u64>, u64);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.1;
    }
}

/// Runs and bytes of file data.
pub(super) fn size_of(profile: &Profile) -> (u64, u64) {
    (profile.runs.len() as u64, Totals::of(profile).data_bytes())
}
