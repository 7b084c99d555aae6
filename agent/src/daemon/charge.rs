//! Who pays for what is warmed: the cgroup of the process that reads it.
//!
//! | what | charged to | `to` |
//! |---|---|---|
//! | all, as it is configured by default | the warm cgroup, by its helper | `warm` |
//! | a container's own files, where `charge` is `workload` | the workload's cgroup, by a guest | `workload` |
//! | all, where there is no warm cgroup | the agent's cgroup, by its own threads | `agent` |
//!
//! A plan that a helper never had is carried out by the agent's own threads. One that a
//! helper died with counts as failed: what killed the helper is not tried on the agent.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::helper::wire::Terms;
use super::helper::{Helper, NotCarried};
use super::lock;
use super::options::{ChargeTo, Settings};
use super::view::Feature;
use crate::model::{Action, PAGE_SIZE, Plan};
use crate::plan::Timing;
use crate::run::{WarmCgroup, Warmup};
use crate::warm::{Cancel, Dues, Pace, Progress, Rate, WarmReport};

/// A guest is not worth its start for less, bytes.
const LEAST_OWN: u64 = 1 << 20;

/// Slot of the node's bound among the dues.
const NODES: usize = 0;

/// The slot that plans share which find no other.
const OVERFLOW: usize = Dues::SLOTS - 1;

/// What was charged to whom, since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Charged {
    /// Bytes of files that were read, by who pays for them.
    pub(super) bytes: BTreeMap<&'static str, u64>,
    /// Plans that were not charged to whom they should have been, by reason.
    pub(super) fallbacks: BTreeMap<&'static str, u64>,
}

/// Who carries plans out.
pub(super) struct Charge {
    /// Before its cgroup, so that it is gone first.
    helper: Option<Helper>,
    cgroup: Option<WarmCgroup>,
    /// Why there is no warm cgroup; empty where there is one.
    reason: String,
    high: AtomicU64,
    /// One at a time sets it.
    setting: Mutex<()>,
    dues: Arc<Dues>,
    /// Of what the agent reads itself; the helper has its own.
    pace: Arc<Pace>,
    /// Slots of the dues that no plan has.
    free: Mutex<Vec<usize>>,
    charged: Mutex<Charged>,
}

/// Bounds on bytes a second of one plan.
pub(super) struct Bounds<'a> {
    pub(super) rates: Vec<Arc<Rate>>,
    pub(super) pace: Arc<Pace>,
    /// The slot that it has for itself.
    own: Option<usize>,
    free: &'a Mutex<Vec<usize>>,
}

impl Drop for Bounds<'_> {
    fn drop(&mut self) {
        lock(self.free).extend(self.own);
    }
}

impl Charge {
    /// Makes the warm cgroup, where that can be, with a bound of `high` bytes.
    ///
    /// # Errors
    /// There is no memory for the bounds on bytes a second.
    pub(super) fn new(high: u64) -> io::Result<Self> {
        let dues = Arc::new(Dues::new()?);
        let made = WarmCgroup::make(high).map_err(|error| error.to_string());
        let made = made.and_then(|cgroup| {
            let helper = Helper::new(cgroup.as_fd(), dues.clone());
            let helper = helper.map_err(|error| format!("starting a helper in it: {error}"))?;
            Ok((cgroup, helper))
        });
        let (cgroup, helper, reason) = match made {
            Ok((cgroup, helper)) => (Some(cgroup), Some(helper), String::new()),
            Err(reason) => {
                tracing::debug!(
                    reason,
                    "no warm cgroup: pages are charged to the agent's own"
                );
                (None, None, reason)
            }
        };
        Ok(Self {
            helper,
            cgroup,
            reason,
            high: AtomicU64::new(high),
            setting: Mutex::default(),
            pace: Arc::new(Pace::new(dues.clone())),
            dues,
            free: Mutex::new((NODES + 1..OVERFLOW).collect()),
            charged: Mutex::default(),
        })
    }

    /// No warm cgroup: for tests of what does not need one.
    #[cfg(test)]
    pub(super) fn of_agent() -> Self {
        let dues = Arc::new(Dues::new().expect("memory"));
        Self {
            helper: None,
            cgroup: None,
            reason: "a test".to_owned(),
            high: AtomicU64::new(0),
            setting: Mutex::default(),
            pace: Arc::new(Pace::new(dues.clone())),
            dues,
            free: Mutex::new((NODES + 1..OVERFLOW).collect()),
            charged: Mutex::default(),
        }
    }

    /// What this machine lets it do.
    pub(super) fn features(&self, settings: &Settings) -> Vec<Feature> {
        let mut features = vec![Feature {
            name: "warm_cgroup",
            live: self.reason.is_empty(),
            reason: self.reason.clone(),
        }];
        if settings.charge == ChargeTo::Workload {
            let can = Guest::can_be();
            features.push(Feature {
                name: "charge_workload",
                live: can.is_ok(),
                reason: can.err().unwrap_or_default().to_owned(),
            });
        }
        features
    }

    /// What was charged to whom.
    pub(super) fn charged(&self) -> Charged {
        lock(&self.charged).clone()
    }

    /// How often the helper had to be started again.
    pub(super) fn restarts(&self) -> u64 {
        self.helper.as_ref().map_or(0, Helper::restarts)
    }

    /// Notes the bound of the warm cgroup; whether it is another one now, and to be set.
    pub(super) fn wants_high(&self, bytes: u64) -> bool {
        self.high.swap(bytes, Ordering::Relaxed) != bytes && self.cgroup.is_some()
    }

    /// Sets that bound. Takes as long as the kernel needs to take back what is above it.
    pub(super) fn set_high(&self) {
        let _one = lock(&self.setting);
        let set = (self.cgroup.as_ref()).map(|c| c.set_high(self.high.load(Ordering::Relaxed)));
        if let Some(Err(error)) = set {
            tracing::warn!(%error, "the warm cgroup keeps its bound");
        }
    }

    /// Bounds for one plan: that of the node, and one of its own; 0 is none.
    pub(super) fn bounds(&self, node: u64, own: u64) -> Bounds<'_> {
        let mut rates: Vec<_> = Rate::new(node, self.dues.clone(), NODES)
            .into_iter()
            .collect();
        let slot = match own {
            0 => None,
            _ => lock(&self.free).pop(),
        };
        if let Some(rate) = Rate::new(own, self.dues.clone(), slot.unwrap_or(OVERFLOW)) {
            if slot.is_some() {
                rate.reset();
            }
            rates.push(rate);
        }
        Bounds {
            rates: rates.into_iter().map(Arc::new).collect(),
            pace: self.pace.clone(),
            own: slot,
            free: &self.free,
        }
    }

    /// Carries a plan out: what is the workload's own by a guest in its cgroup, where there
    /// is one.
    ///
    /// # Errors
    /// The mount table can't be read.
    pub(super) fn execute(
        &self,
        warmup: &Warmup,
        plan: &Plan,
        timing: Timing,
        cancel: &Cancel,
        guest: Option<&Guest<'_>>,
    ) -> io::Result<WarmReport> {
        let began = Instant::now();
        let Some((guest, own, rest)) = guest.and_then(|guest| {
            let (own, rest) = split(plan, |volume, path| guest.owns(volume, path));
            (own.plan.totals.bytes >= LEAST_OWN).then_some((guest, own, rest))
        }) else {
            return self.for_node(warmup, plan, timing, cancel);
        };
        let terms = terms(warmup, timing);
        let (theirs, ours) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| {
                let report = guest.carry(&own.plan, &terms, cancel, &self.dues);
                match report {
                    Ok(report) => {
                        self.count("workload", &report);
                        Ok(as_of(began, report))
                    }
                    Err(reason) => {
                        self.falls_back(reason);
                        self.for_node(warmup, &own.plan, timing, cancel)
                    }
                }
            });
            let ours = match rest.plan.actions.is_empty() {
                true => Ok(WarmReport {
                    verified: true,
                    ..WarmReport::default()
                }),
                false => self.for_node(warmup, &rest.plan, timing, cancel),
            };
            let theirs = theirs.join();
            (
                theirs.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                ours,
            )
        });
        let (theirs, ours) = (theirs?, ours?);
        let seconds = began.elapsed().as_secs_f64();
        Ok(WarmReport {
            seconds,
            ..theirs.as_of(began).join(ours.as_of(began))
        })
    }

    fn for_node(
        &self,
        warmup: &Warmup,
        plan: &Plan,
        timing: Timing,
        cancel: &Cancel,
    ) -> io::Result<WarmReport> {
        if let Some(helper) = &self.helper {
            let began = Instant::now();
            let terms = terms(warmup, timing);
            match helper.carry(plan, &terms, cancel) {
                Ok(report) => {
                    self.count("warm", &report);
                    return Ok(as_of(began, report));
                }
                Err(NotCarried::Died) => {
                    self.falls_back("helper_died");
                    return Ok(WarmReport::failed(
                        plan,
                        terms.metadata,
                        "the helper that read it died",
                    ));
                }
                Err(NotCarried::NotThere(why)) => {
                    tracing::warn!(why, "a plan is charged to the agent's own cgroup");
                    self.falls_back("no_helper");
                }
            }
        }
        let progress = Arc::new(Progress::default());
        let report = warmup.execute(plan.clone(), timing, &progress, cancel)?;
        self.count("agent", &report);
        Ok(report)
    }

    fn count(&self, to: &'static str, report: &WarmReport) {
        *lock(&self.charged).bytes.entry(to).or_default() += report.data.read;
    }

    fn falls_back(&self, reason: &'static str) {
        *lock(&self.charged).fallbacks.entry(reason).or_default() += 1;
    }
}

/// A report with its times since `began`, when it was sent for: all that it does not tell
/// of is taken for the time before it.
fn as_of(began: Instant, mut report: WarmReport) -> WarmReport {
    let elapsed = began.elapsed();
    let took = Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
    report.began = Some(began + elapsed.saturating_sub(took));
    report.seconds = elapsed.as_secs_f64();
    report.as_of(began)
}

/// What a helper is told beside the plan.
fn terms(warmup: &Warmup, timing: Timing) -> Terms {
    let options = warmup.options(timing);
    let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_millis() as u64;
    let bound = |rate: &Arc<Rate>| (rate.slot() as u32, rate.per_second());
    Terms {
        within_ms: options.deadline.map(left),
        io_class: options.io_class,
        metadata: options.metadata,
        lead: options.lead,
        threads: options.threads,
        verify: options.verify,
        cost: options.cost,
        bounds: options.rates.iter().map(bound).collect(),
    }
}

/// Some of a plan's actions, and which they were.
struct Part {
    plan: Plan,
    places: Vec<usize>,
}

/// Parts a plan in two, by volume and path of its files and names: those that `is_own`
/// takes, and the rest.
fn split(
    plan: &Plan,
    is_own: impl Fn(&crate::model::Volume, &crate::model::RelPath) -> bool,
) -> (Part, Part) {
    let part = || Part {
        plan: Plan {
            volumes: plan.volumes.clone(),
            files: plan.files.clone(),
            names: plan.names.clone(),
            ..Plan::default()
        },
        places: Vec::new(),
    };
    let (mut own, mut rest) = (part(), part());
    // What was left out of the whole is told once.
    rest.plan.totals.over_budget_bytes = plan.totals.over_budget_bytes;
    let takes = |volume: u32, path| {
        let volume = plan.volumes.get(volume as usize);
        volume.is_some_and(|volume| is_own(volume, path))
    };
    let files: Vec<bool> = plan
        .files
        .iter()
        .map(|file| takes(file.volume, &file.path))
        .collect();
    for (at, action) in plan.actions.iter().enumerate() {
        let is_own = match *action {
            Action::Read { file, .. } => files.get(file as usize) == Some(&true),
            Action::Name { name } => {
                let name = plan.names.get(name as usize);
                name.is_some_and(|name| takes(name.volume, &name.path))
            }
            // Of a device, which many share.
            Action::Blocks { .. } => false,
        };
        let part = if is_own { &mut own } else { &mut rest };
        part.plan.actions.push(*action);
        part.places.push(at);
    }
    for part in [&mut own, &mut rest] {
        part.plan.totals.bytes = bytes(&part.plan);
    }
    (own, rest)
}

/// File data that a plan's actions ask for.
fn bytes(plan: &Plan) -> u64 {
    let pages = plan.actions.iter().map(|action| match action {
        Action::Read { pages, .. } => u64::from(*pages),
        Action::Blocks { .. } | Action::Name { .. } => 0,
    });
    pages.sum::<u64>() * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileVersion, NameKind, PlanFile, PlanName, RelPath, Volume, VolumeId};

    fn plan() -> Plan {
        let volume = |id: &str| Volume {
            id: VolumeId(id.to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/".to_vec(),
        };
        let path = |text: &str| RelPath::new(text).expect("a path");
        let file = |volume, name: &str| PlanFile {
            volume,
            path: path(name),
            version: FileVersion::default(),
        };
        let read = |file, pages| Action::Read {
            file,
            start_page: 0,
            pages,
            gap_pages: 0,
            certain: true,
        };
        Plan {
            volumes: vec![volume("layer:1"), volume("claim:1")],
            files: vec![file(0, "lib"), file(1, "data")],
            names: vec![PlanName {
                volume: 1,
                path: path("data"),
                kind: NameKind::File,
                listed: false,
            }],
            actions: vec![
                Action::Blocks {
                    volume: 1,
                    start_page: 0,
                    pages: 1,
                },
                read(1, 5),
                read(0, 7),
                Action::Name { name: 0 },
            ],
            totals: crate::model::PlanTotals {
                bytes: 12 * PAGE_SIZE,
                over_budget_bytes: 3,
                ..crate::model::PlanTotals::default()
            },
        }
    }

    #[test]
    fn a_plan_is_parted_and_no_action_is_lost() {
        let plan = plan();
        let (own, rest) = split(&plan, |volume, _| volume.id.0.starts_with("claim:"));
        assert_eq!(
            (&own.places[..], &rest.places[..]),
            (&[1, 3][..], &[0, 2][..])
        );
        for part in [&own, &rest] {
            let whole = part.places.iter().map(|&at| plan.actions[at]);
            assert!(part.plan.actions.iter().copied().eq(whole));
        }
        assert_eq!(own.plan.totals.bytes, 5 * PAGE_SIZE);
        assert_eq!(rest.plan.totals.bytes, 7 * PAGE_SIZE);
        let over = |part: &Part| part.plan.totals.over_budget_bytes;
        assert_eq!((over(&own), over(&rest)), (0, 3));
    }

    #[test]
    fn each_plan_has_a_bound_of_its_own_and_gives_it_back() {
        let charge = Charge::of_agent();
        let slots = |bounds: &Bounds<'_>| -> Vec<(usize, u64)> {
            let rates = bounds.rates.iter();
            rates.map(|rate| (rate.slot(), rate.per_second())).collect()
        };
        assert!(charge.bounds(0, 0).rates.is_empty());
        assert_eq!(slots(&charge.bounds(5, 0)), [(NODES, 5)]);
        let (first, second) = (charge.bounds(5, 7), charge.bounds(5, 7));
        let (a, b) = (slots(&first), slots(&second));
        assert_eq!((a[0], b[0]), ((NODES, 5), (NODES, 5)));
        assert_ne!(a[1].0, b[1].0);
        drop((first, second));
        let free = lock(&charge.free).len();
        assert_eq!(free, OVERFLOW - 1);
        // Where none is left they share one.
        let all: Vec<_> = (0..free).map(|_| charge.bounds(0, 7)).collect();
        assert_eq!(slots(&charge.bounds(0, 7)), [(OVERFLOW, 7)]);
        drop(all);
        assert_eq!(lock(&charge.free).len(), free);
    }

    #[test]
    fn a_plan_that_a_helper_died_with_counts_as_failed() {
        let report = WarmReport::failed(&plan(), true, "it died");
        assert_eq!(report.data.failed, 12 * PAGE_SIZE);
        assert!(report.data.is_consistent() && report.blocks.is_consistent());
        assert_eq!(report.names_failed, 1);
        assert_eq!(report.arrivals, []);
        let joined = report.clone().join(report);
        assert_eq!(joined.data.planned, 24 * PAGE_SIZE);
        assert!(joined.data.is_consistent());
    }
}
