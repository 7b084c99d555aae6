//! What the agent tells of itself: plain data, made by the daemon, read by metrics, the
//! API and the commands.

use std::collections::BTreeMap;

use crate::probe::HookState;

/// Upper bounds of the buckets of [`Histogram`] for times, seconds.
pub const LEAD_BOUNDS: [f64; 10] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Everything that can be asked, as of one moment.
#[derive(Clone, Debug, Default, serde::Serialize)]
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
    /// Workloads that were seen since the agent started, by key.
    pub workloads: BTreeMap<String, WorkloadView>,
    /// The configuration in use was read at, ms since the epoch.
    pub config_read_ms: u64,
    /// The last reload was refused for this; empty where it was not.
    pub config_error: String,
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
    /// Starts that were not learned, by reason.
    pub starts_not_learned: BTreeMap<&'static str, u64>,
    /// Runs merged into a profile.
    pub runs_learned: u64,
    /// Records of the probes, taken from the ring buffer.
    pub records: u64,
    /// Records lost: the ring buffer was full.
    pub records_lost: u64,
    /// Signals lost: their ring buffer was full.
    pub signals_lost: u64,
    /// Bytes of plans by what became of them: `read`, `resident`, `failed`, `gone`,
    /// `evicted`, `left`.
    pub warmed_bytes: BTreeMap<&'static str, u64>,
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
    /// From the first signal to the first touch of a file on disk, seconds.
    pub lead: Histogram,
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
    /// The unit's or container's name, for people.
    pub name: String,
    /// Kubernetes namespace, where it is known; else empty.
    pub namespace: String,
    /// Image reference, where it is known; else empty.
    pub image: String,
    /// Runs that the profile holds.
    pub runs: u64,
    /// File data in the profile, bytes.
    pub profile_bytes: u64,
    /// Starts since the agent started.
    pub starts: u64,
    /// Cgroups of it that exist now.
    pub live: u64,
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
    /// What told of it: `cgroup`, `notify`, `runtime`.
    pub signal: &'static str,
    /// The start is over and what follows is final.
    pub over: bool,
    /// How long it was learned, seconds.
    pub seconds: f64,
    /// From the signal to the first touch of a file on disk, seconds; `None` before it.
    pub lead_seconds: Option<f64>,
    /// From the signal to the first byte asked for, seconds; `None` where nothing was.
    pub warm_delay_seconds: Option<f64>,
    /// How long warming took, seconds.
    pub warm_seconds: f64,
    /// Asked for by the plan.
    pub planned: u64,
    /// Were there already.
    pub resident_before: u64,
    /// Brought in.
    pub read: u64,
    /// There before the start first used them, and used.
    pub used: u64,
    /// Used, but not there before.
    pub late: u64,
    /// Of `late`: asked for before, and on their way.
    pub on_the_way: u64,
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

impl View {
    /// Workloads whose key or name is `text`.
    pub fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a WorkloadView> + 'a {
        self.workloads
            .values()
            .filter(move |workload| workload.key == text || workload.name == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
