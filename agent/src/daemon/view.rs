//! What the agent tells of itself: plain data, made by the daemon, read by metrics, the
//! API and the commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::tracked::gained_nothing;
use crate::probe::{HookState, Ran};
use crate::profile::{Called, Notices, Outcome, Past};
use crate::workload;

/// Upper bounds of the buckets of [`Histogram`] for times, seconds.
pub const LEAD_BOUNDS: [f64; 10] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Signals by which a start may be known first: the cgroup that was made; somebody who said
/// so; containerd's events; a bundle that its runtime wrote; the cgroup that it had, filled
/// again. Their order stays: the store has them by number.
pub const SIGNALS: [&str; 5] = ["bundle", "cgroup", "notify", "runtime", "refill"];

/// The feature that starts are kept.
pub(super) const STORE: &str = "store";

/// Everything that can be asked, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When the agent started, ms since the epoch.
    pub started_ms: u64,
    /// Something turned in the event loop last, ms since the epoch.
    pub alive_ms: u64,
    /// Hooks are attached and what exists has been looked at.
    pub ready: bool,
    /// What this machine lets the agent do.
    pub features: Vec<Feature>,
    /// The kernel hooks.
    pub hooks: Vec<HookState>,
    /// Sums since the agent started.
    pub totals: Totals,
    /// Cgroups that exist and belong to a workload.
    pub cgroups: u64,
    /// Starts that are being learned now.
    pub learning: u64,
    /// Plans that are being carried out now.
    pub warming: u64,
    /// Plans that wait for that.
    pub waiting: u64,
    /// Workloads that were seen since the agent started, by key. Shared by all views
    /// between which nothing changed: there may be ten thousand.
    pub workloads: Arc<BTreeMap<String, Arc<WorkloadView>>>,
    /// The configuration in use was read at, ms since the epoch.
    pub config_read_ms: u64,
    /// The last reload was refused for this; empty where it was not.
    pub config_error: String,
    /// What the store had to say that is no error.
    pub store: Notices,
}

/// Something that the agent can do only where the machine lets it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// `recording`, `names`, `store`, `containerd`, …
    pub name: &'static str,
    /// Whether it works.
    pub live: bool,
    /// Why it does not; empty where it does.
    pub reason: String,
}

/// Sums since the agent started.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Totals {
    /// Starts that were noticed, by signal.
    pub starts: BTreeMap<&'static str, u64>,
    /// Starts that somebody told of before, whether they came or not.
    pub notifications: u64,
    /// Starts that were not learned, by reason.
    pub starts_not_learned: BTreeMap<&'static str, u64>,
    /// Runs merged into a profile.
    pub runs_learned: u64,
    /// Records of the probes, taken from the ring buffer.
    pub records: u64,
    /// Records lost: the ring buffer was full.
    pub records_lost: u64,
    /// Signals lost: their ring buffer was full, or too many cgroups wait to be filled again.
    pub signals_lost: u64,
    /// Signals of runtimes that were lost: there were too many.
    pub runtime_signals_lost: u64,
    /// Bytes of plans by what became of them: `read`, `resident`, `failed`, `gone`,
    /// `evicted`, `left`, `joined`.
    pub warmed_bytes: BTreeMap<&'static str, u64>,
    /// Bytes of files that were read, by whose cgroup they are charged to: `warm`,
    /// `workload`, `agent`.
    pub charged_bytes: BTreeMap<&'static str, u64>,
    /// Plans that were not charged to the cgroup that they should have been, by reason.
    pub charge_fallbacks: BTreeMap<&'static str, u64>,
    /// Looks at what reads cost on a disk, by result: `measured`, `busy`, `failed`.
    pub disk_measurements: BTreeMap<&'static str, u64>,
    /// Entries of the probes' maps that another took the place of, by map.
    pub evictions: BTreeMap<&'static str, u64>,
    /// What the probes' programs cost, by program; none where the kernel does not measure it.
    pub programs: BTreeMap<&'static str, Ran>,
    /// How often the helper in the warm cgroup had to be started again.
    pub helper_restarts: u64,
    /// Planned bytes by what the start made of them: `used`, `late`, `wasted`, `unknown`.
    pub outcome_bytes: BTreeMap<&'static str, u64>,
    /// Certainly used and not in the plan, bytes.
    pub missed_bytes: u64,
    /// Plans held back or cut, by reason.
    pub throttled: BTreeMap<&'static str, u64>,
    /// Time for which the read-path hooks were attached, seconds.
    pub hooks_attached_seconds: f64,
    /// Time since the agent started, seconds.
    pub uptime_seconds: f64,
    /// From the first signal to the first touch of a file on disk, seconds; by signal.
    pub lead: BTreeMap<&'static str, Histogram>,
    /// Each stage's sums: in, out, lost, filtered.
    pub stages: Vec<crate::model::StageCounts>,
}

/// Counts by size, as Prometheus has them: each bucket holds those of smaller ones too.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Histogram {
    /// One for each of [`LEAD_BOUNDS`].
    pub buckets: [u64; LEAD_BOUNDS.len()],
    /// All, those above the last bound too.
    pub count: u64,
    /// Of all values, seconds.
    pub sum: f64,
}

/// A workload.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct WorkloadView {
    /// What it is called in the store: the profile's name.
    pub key: String,
    /// `unit` or `container`.
    pub kind: &'static str,
    /// What people call it.
    pub called: Called,
    /// Runs that the profile holds.
    pub runs: u64,
    /// File data in the profile, bytes.
    pub profile_bytes: u64,
    /// Starts since the agent started.
    pub starts: u64,
    /// Cgroups of it that exist now.
    pub live: u64,
    /// Seen since the agent started; of others only the store tells.
    pub seen: bool,
    /// Whether its starts are warmed; where not, why: `observe_only`, `no_gain`,
    /// `opted_out`, `no_profile`; empty where they are.
    pub not_warmed: &'static str,
    /// The last start; `None` before the first.
    pub last: Option<StartView>,
}

/// One start, as far as it is known. File data in bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct StartView {
    /// When it was noticed, ms since the epoch.
    pub began_ms: u64,
    /// What told of it first, one of [`SIGNALS`].
    pub signal: &'static str,
    /// The start is over and what follows is final.
    pub over: bool,
    /// Why nothing was learned from it; empty where it was, or may yet be.
    pub not_learned: &'static str,
    /// How long it was learned, seconds.
    pub seconds: f64,
    /// From the signal to the first touch of a file on disk, seconds; `None` before it.
    pub lead_seconds: Option<f64>,
    /// From the signal to the first byte asked for, seconds; negative where that was before,
    /// for another start; `None` where nothing was.
    pub warm_delay_seconds: Option<f64>,
    /// How long warming took, seconds.
    pub warm_seconds: f64,
    /// Asked for by the plan.
    pub planned: u64,
    /// Were there already.
    pub resident_before: u64,
    /// Brought in.
    pub read: u64,
    /// Of a plan that was carried out once for several starts, this being a later one:
    /// all of it.
    pub joined: u64,
    /// There before the start first used them, and used.
    pub used: u64,
    /// Used, but not there before.
    pub late: u64,
    /// Of `late`: asked for before, and on their way.
    pub on_the_way: u64,
    /// Of `used` and `on_the_way`: brought in for it.
    pub gained: u64,
    /// Not used.
    pub wasted: u64,
    /// Not read, or the start was not seen.
    pub unknown: u64,
    /// Certainly used, not planned.
    pub missed: u64,
    /// Names that were looked up for it.
    pub names_warmed: u64,
    /// Files of the plan with what became of them, those of most bytes first; bounded.
    pub files: Vec<FileView>,
}

/// A file of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FileView {
    /// Id of the volume.
    pub volume: String,
    /// Path in it, escaped.
    pub path: String,
    /// As in [`StartView`].
    pub planned: u64,
    /// As in [`StartView`].
    pub used: u64,
    /// As in [`StartView`].
    pub late: u64,
    /// As in [`StartView`].
    pub wasted: u64,
    /// As in [`StartView`].
    pub unknown: u64,
}

impl Totals {
    /// Leads whatever the signal.
    pub fn all_leads(&self) -> Histogram {
        let mut all = Histogram::default();
        for lead in self.lead.values() {
            for (sum, n) in all.buckets.iter_mut().zip(lead.buckets) {
                *sum += n;
            }
            all.count += lead.count;
            all.sum += lead.sum;
        }
        all
    }
}

impl Histogram {
    /// Counts one more.
    pub fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (bucket, bound) in self.buckets.iter_mut().zip(LEAD_BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
    }
}

impl StartView {
    /// What is kept of it beside the profile.
    pub(super) fn outcome(&self) -> Outcome {
        let signal = SIGNALS.iter().position(|signal| *signal == self.signal);
        Outcome {
            began_ms: self.began_ms,
            signal: signal.map_or(u64::MAX, |at| at as u64),
            learned_ms: (self.seconds * 1e3) as u64,
            lead_us: self.lead_seconds.map(|lead| (lead * 1e6) as u64),
            planned: self.planned,
            resident_before: self.resident_before,
            read: self.read,
            used: self.used,
            late: self.late,
            on_the_way: self.on_the_way,
            gained: self.gained,
            wasted: self.wasted,
            unknown: self.unknown,
            missed: self.missed,
            observed: 0,
        }
    }

    /// A start of which that was kept.
    pub(super) fn kept(outcome: &Outcome) -> Self {
        let signal = usize::try_from(outcome.signal).ok();
        let signal = signal.and_then(|at| SIGNALS.get(at));
        Self {
            began_ms: outcome.began_ms,
            signal: signal.copied().unwrap_or_default(),
            over: true,
            seconds: outcome.learned_ms as f64 / 1e3,
            lead_seconds: outcome.lead_us.map(|us| us as f64 / 1e6),
            planned: outcome.planned,
            resident_before: outcome.resident_before,
            read: outcome.read,
            used: outcome.used,
            late: outcome.late,
            on_the_way: outcome.on_the_way,
            gained: outcome.gained,
            wasted: outcome.wasted,
            unknown: outcome.unknown,
            missed: outcome.missed,
            ..Self::default()
        }
    }
}

impl WorkloadView {
    /// A workload that was not seen since the agent started, as the store has it.
    pub fn stored(past: &Past) -> Self {
        let key = &past.entry.name;
        let (kind, name) = workload::named_by(key);
        // As it was called when it was learned, if that was here.
        let called = past.called.clone().unwrap_or_else(|| Called {
            name: name.to_owned(),
            ..Called::default()
        });
        Self {
            key: key.clone(),
            kind,
            called,
            runs: past.entry.runs,
            profile_bytes: past.entry.data_bytes,
            not_warmed: if gained_nothing(&past.outcomes) {
                "no_gain"
            } else {
                ""
            },
            last: past.outcomes.last().map(StartView::kept),
            ..Self::default()
        }
    }
}

impl View {
    /// Says of a feature why it is not live; nothing where it is.
    pub(super) fn set_feature(&mut self, name: &'static str, reason: String) {
        let feature = Feature {
            name,
            live: reason.is_empty(),
            reason,
        };
        match self.features.iter_mut().find(|f| f.name == name) {
            Some(there) => *there = feature,
            None => self.features.push(feature),
        }
    }

    /// Adds a workload, or replaces what was known of it.
    pub fn add(&mut self, workload: WorkloadView) {
        let key = workload.key.clone();
        Arc::make_mut(&mut self.workloads).insert(key, Arc::new(workload));
    }

    /// Forgets a workload.
    pub fn forget(&mut self, key: &str) {
        Arc::make_mut(&mut self.workloads).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_start_is_told_again() {
        let start = StartView {
            began_ms: 5,
            signal: "notify",
            over: true,
            seconds: 2.5,
            lead_seconds: Some(0.25),
            planned: 6,
            used: 1,
            on_the_way: 1,
            late: 2,
            wasted: 2,
            unknown: 1,
            ..StartView::default()
        };
        assert_eq!(StartView::kept(&start.outcome()), start);
    }

    #[test]
    fn a_workload_is_named_by_its_key_where_nothing_else_tells() {
        let named = |key: &str, called: Option<Called>| {
            let entry = crate::profile::Entry {
                name: key.to_owned(),
                bytes: 0,
                runs: 1,
                files: 0,
                extents: 0,
                names: 0,
                data_bytes: 0,
                updated_ms: 0,
            };
            let view = WorkloadView::stored(&Past {
                entry,
                outcomes: Vec::new(),
                called,
            });
            (view.kind, view.called.name)
        };
        let called = Called {
            name: "redis".to_owned(),
            ..Called::default()
        };
        assert_eq!(
            named("image:0123456789ab#1", Some(called)),
            ("container", "redis".to_owned())
        );
        for (key, kind, name) in [
            ("unit:getty@.service", "unit", "getty@.service"),
            ("user-unit:1000/a.service", "unit", "a.service"),
            (
                "container:shop/web/app@sha256:0#1",
                "container",
                "shop/web/app",
            ),
            ("image:app:1#1", "container", "app:1"),
            ("compile", "command", "compile"),
        ] {
            assert_eq!(named(key, None), (kind, name.to_owned()), "{key}");
        }
    }

    #[test]
    fn a_bucket_holds_those_of_smaller_ones() {
        let mut leads = Histogram::default();
        for seconds in [0.001, 0.3, 60.0] {
            leads.observe(seconds);
        }
        assert_eq!(leads.count, 3);
        assert_eq!(leads.buckets[0], 1);
        assert_eq!(leads.buckets[5], 2);
        assert_eq!(leads.buckets[9], 2);
    }
}
