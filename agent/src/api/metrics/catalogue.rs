//! Every metric: name, type, unit, labels, stability, meaning, and where its values come
//! from.
//!
//! Names follow Prometheus' rules: base units, `_total` for what only grows, one unit a
//! metric. [docs/metrics.md] is made from this table.
//!
//! [docs/metrics.md]: ../../../../docs/metrics.md

use super::labels::group_name;
use super::samples::{by, count, flag, one, programs, sample, stages, time};
use super::workloads::{self, Groups};
use crate::daemon::{Histogram, SIGNALS, View};

/// What Prometheus calls a metric's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the agent runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stability {
    /// Name, labels and meaning stay within a major version.
    Stable,
    /// May change or go with any version.
    Experimental,
}

impl Stability {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Experimental => "experimental",
        }
    }
}

/// What values are made from.
pub(super) struct Input<'a> {
    pub(super) view: &'a View,
    /// The workloads, so many as have series of their own.
    pub(super) groups: Groups<'a>,
}

/// One value: those of the labels, in their order.
pub(super) struct Sample {
    pub(super) labels: Vec<String>,
    pub(super) value: f64,
}

/// Where a metric's values come from.
pub(super) enum Source {
    /// One series for each combination of the labels' values.
    Samples(fn(&Input<'_>) -> Vec<Sample>),
    /// A histogram for each value of the label.
    Times(fn(&View) -> Vec<(&'static str, Histogram)>),
}

/// A metric.
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// A base unit; empty for what is counted.
    pub(super) unit: &'static str,
    pub(super) labels: &'static [&'static str],
    pub(super) stability: Stability,
    /// One sentence, without its full stop.
    pub(super) help: &'static str,
    pub(super) source: Source,
}

impl Metric {
    const fn new(kind: Kind, name: &'static str, help: &'static str, source: Source) -> Self {
        Self {
            name,
            kind,
            unit: "",
            labels: &[],
            stability: Stability::Stable,
            help,
            source,
        }
    }

    const fn counter(
        name: &'static str,
        help: &'static str,
        samples: fn(&Input<'_>) -> Vec<Sample>,
    ) -> Self {
        Self::new(Kind::Counter, name, help, Source::Samples(samples))
    }

    const fn gauge(
        name: &'static str,
        help: &'static str,
        samples: fn(&Input<'_>) -> Vec<Sample>,
    ) -> Self {
        Self::new(Kind::Gauge, name, help, Source::Samples(samples))
    }

    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn labels(mut self, labels: &'static [&'static str]) -> Self {
        self.labels = labels;
        self
    }

    const fn experimental(mut self) -> Self {
        self.stability = Stability::Experimental;
        self
    }
}

/// Label values that are there from the first scrape on, so that a rate has a zero to
/// begin from.
const RESULTS: [&str; 7] = [
    "evicted", "failed", "gone", "joined", "left", "read", "resident",
];
const MEASUREMENTS: [&str; 3] = ["busy", "failed", "measured"];
const CHARGED: [&str; 3] = ["agent", "warm", "workload"];
const OUTCOMES: [&str; 4] = ["late", "unknown", "used", "wasted"];

const MAPS: [&str; 4] = ["addresses", "names", "pages", "paths"];

/// Signals by which starts are noticed: all but `notify`, after which none may come.
const NOTICED: [&str; 4] = ["bundle", "cgroup", "runtime", "refill"];

/// Labels of what there is for each workload.
const WORKLOAD: &[&str] = &["kind", "namespace", "workload"];

/// All of them, in the order in which they are rendered and described.
pub(super) const CATALOGUE: &[Metric] = &[
    // The agent itself.
    Metric::gauge(
        "headstart_build_info",
        "Always 1; the label says which version of the agent runs",
        |_| vec![sample([env!("CARGO_PKG_VERSION")], 1.0)],
    )
    .labels(&["version"]),
    Metric::gauge(
        "headstart_ready",
        "Whether the event loop runs: hooks were tried, and what exists is listed",
        |input| one(flag(input.view.ready)),
    ),
    Metric::gauge(
        "headstart_start_time_seconds",
        "When the agent started, since the epoch",
        |input| one(time(input.view.started_ms)),
    )
    .unit("seconds"),
    Metric::gauge(
        "headstart_alive_timestamp_seconds",
        "When the event loop turned last, since the epoch",
        |input| one(time(input.view.alive_ms)),
    )
    .unit("seconds"),
    Metric::counter(
        "headstart_uptime_seconds_total",
        "Time since the agent started",
        |input| one(input.view.totals.uptime_seconds),
    )
    .unit("seconds"),
    Metric::gauge(
        "headstart_config_reload_success",
        "Whether the configuration was accepted when it was read last; if not, the one before is in use",
        |input| one(flag(input.view.config_error.is_empty())),
    ),
    Metric::gauge(
        "headstart_config_last_reload_success_timestamp_seconds",
        "When the configuration in use was read, since the epoch",
        |input| one(time(input.view.config_read_ms)),
    )
    .unit("seconds"),
    Metric::gauge(
        "headstart_feature_live",
        "Whether the machine lets the agent use a feature",
        |input| {
            let features = input.view.features.iter();
            features
                .map(|feature| sample([feature.name], flag(feature.live)))
                .collect()
        },
    )
    .labels(&["feature"]),
    Metric::gauge(
        "headstart_hook_live",
        "Whether a kernel hook can be attached",
        |input| {
            let hooks = input.view.hooks.iter();
            hooks
                .map(|hook| sample([&group_name(hook.group), hook.program], flag(hook.live)))
                .collect()
        },
    )
    .labels(&["group", "hook"])
    .experimental(),
    Metric::counter(
        "headstart_store_notices_total",
        "Times that the store of profiles, or a profile in it, was damaged and set aside, or was pruned; `headstart status` has the last",
        |input| one(count(input.view.store.count)),
    ),
    // Starts.
    Metric::counter(
        "headstart_starts_total",
        "Starts that were noticed, by the signal by which they were",
        |input| by(&input.view.totals.starts, &NOTICED),
    )
    .labels(&["signal"]),
    Metric::counter(
        "headstart_notifications_total",
        "Starts that somebody told of before, whether they came or not",
        |input| one(count(input.view.totals.notifications)),
    ),
    Metric::counter(
        "headstart_starts_not_learned_total",
        "Starts that were not learned, by reason",
        |input| by(&input.view.totals.starts_not_learned, &[]),
    )
    .labels(&["reason"]),
    Metric::counter(
        "headstart_runs_learned_total",
        "Starts that were merged into a profile",
        |input| one(count(input.view.totals.runs_learned)),
    ),
    Metric::gauge(
        "headstart_starts_learning",
        "Starts that are being learned now",
        |input| one(count(input.view.learning)),
    ),
    Metric::gauge(
        "headstart_plans_warming",
        "Plans that are being carried out now",
        |input| one(count(input.view.warming)),
    ),
    Metric::gauge(
        "headstart_plans_waiting",
        "Plans that wait to be carried out",
        |input| one(count(input.view.waiting)),
    ),
    Metric::new(
        Kind::Histogram,
        "headstart_lead_seconds",
        "From the first signal of a start to its first touch of a file on disk, by that signal",
        Source::Times(|view| {
            let lead = |signal| view.totals.lead.get(signal).cloned().unwrap_or_default();
            SIGNALS.map(|signal| (signal, lead(signal))).into()
        }),
    )
    .unit("seconds")
    .labels(&["signal"]),
    // What warming came to.
    Metric::counter(
        "headstart_warmed_bytes_total",
        "Planned bytes by what warming made of them: read, resident (there already), failed, \
         gone (no such file any more), evicted, left (no time or budget), joined (another \
         start's plan was the same, and what became of it is counted there)",
        |input| by(&input.view.totals.warmed_bytes, &RESULTS),
    )
    .unit("bytes")
    .labels(&["result"]),
    Metric::counter(
        "headstart_charged_bytes_total",
        "Bytes of files that were read, by whose cgroup they are charged to: warm, workload \
         (the one that starts), agent (its own, where there is no other)",
        |input| by(&input.view.totals.charged_bytes, &CHARGED),
    )
    .unit("bytes")
    .labels(&["to"]),
    Metric::counter(
        "headstart_charge_fallbacks_total",
        "Plans that were not charged to the cgroup that they should have been, by reason",
        |input| by(&input.view.totals.charge_fallbacks, &[]),
    )
    .labels(&["reason"]),
    Metric::counter(
        "headstart_disk_measurements_total",
        "Looks at what reads cost on a disk, by result: measured, busy (somebody used it: it is \
         looked at again), failed (it is taken for a modest SSD)",
        |input| by(&input.view.totals.disk_measurements, &MEASUREMENTS),
    )
    .labels(&["result"]),
    Metric::counter(
        "headstart_helper_restarts_total",
        "How often the helper in the warm cgroup had to be started again",
        |input| one(count(input.view.totals.helper_restarts)),
    ),
    Metric::counter(
        "headstart_outcome_bytes_total",
        "Planned bytes by what the start made of them: used (there before it was used), late \
         (used before it was there), wasted (not used), unknown (not read, or the start was not \
         seen)",
        |input| by(&input.view.totals.outcome_bytes, &OUTCOMES),
    )
    .unit("bytes")
    .labels(&["outcome"]),
    Metric::counter(
        "headstart_missed_bytes_total",
        "Bytes that starts certainly used and no plan had, what a plan leaves to readahead too",
        |input| one(count(input.view.totals.missed_bytes)),
    )
    .unit("bytes"),
    Metric::counter(
        "headstart_throttled_total",
        "Plans that were held back or cut, by reason",
        |input| by(&input.view.totals.throttled, &[]),
    )
    .labels(&["reason"]),
    // What is seen.
    Metric::counter(
        "headstart_hooks_attached_seconds_total",
        "Time for which the read-path hooks were attached; its rate is their duty",
        |input| one(input.view.totals.hooks_attached_seconds),
    )
    .unit("seconds"),
    Metric::counter(
        "headstart_probe_records_total",
        "Records taken from the probes' ring buffer",
        |input| one(count(input.view.totals.records)),
    ),
    Metric::counter(
        "headstart_probe_records_lost_total",
        "Records lost because the ring buffer was full",
        |input| one(count(input.view.totals.records_lost)),
    ),
    Metric::counter(
        "headstart_probe_evictions_total",
        "Entries of the probes' maps that another took the place of, by map: what they told of \
         is sent again",
        |input| by(&input.view.totals.evictions, &MAPS),
    )
    .labels(&["map"]),
    Metric::counter(
        "headstart_probe_run_seconds_total",
        "Time that a hook's programs ran, if the kernel measures it \
         (kernel.bpf_stats_enabled=1, which costs time at each run)",
        |input| programs(&input.view.totals, |ran| ran.measured(ran.seconds)),
    )
    .unit("seconds")
    .labels(&["hook"])
    .experimental(),
    Metric::counter(
        "headstart_probe_runs_total",
        "How often a hook's programs ran, if the kernel counts it (kernel.bpf_stats_enabled=1)",
        |input| programs(&input.view.totals, |ran| ran.measured(count(ran.runs))),
    )
    .labels(&["hook"])
    .experimental(),
    Metric::counter(
        "headstart_probe_runs_missed_total",
        "How often the kernel did not run a hook's program because it ran on that processor \
         already: what it would have told of is lost (Linux 5.12)",
        |input| programs(&input.view.totals, |ran| Some(count(ran.missed))),
    )
    .labels(&["hook"])
    .experimental(),
    Metric::counter(
        "headstart_probe_signals_lost_total",
        "Signals of starts lost because their ring buffer was full, or because too many \
         cgroups wait to be filled again",
        |input| one(count(input.view.totals.signals_lost)),
    ),
    Metric::counter(
        "headstart_runtime_signals_lost_total",
        "Signals of container runtimes lost because there were too many at once",
        |input| one(count(input.view.totals.runtime_signals_lost)),
    ),
    Metric::counter(
        "headstart_stage_in_total",
        "What came into a stage between the hooks and the profile",
        |input| stages(input.view, |stage| stage.seen),
    )
    .labels(&["stage", "unit"])
    .experimental(),
    Metric::counter(
        "headstart_stage_out_total",
        "What went on from a stage to the next",
        |input| stages(input.view, |stage| stage.out),
    )
    .labels(&["stage", "unit"])
    .experimental(),
    Metric::counter(
        "headstart_stage_lost_total",
        "What should have gone on from a stage, and had no room",
        |input| stages(input.view, |stage| stage.lost),
    )
    .labels(&["stage", "unit"])
    .experimental(),
    Metric::counter(
        "headstart_stage_filtered_total",
        "What was not to go on from a stage, by reason",
        |input| {
            let stages = input.view.totals.stages.iter();
            stages
                .flat_map(|stage| {
                    let filtered = stage.filtered.iter();
                    filtered.map(|(reason, n)| sample([stage.name, stage.unit, reason], count(*n)))
                })
                .collect()
        },
    )
    .labels(&["stage", "unit", "reason"])
    .experimental(),
    // Workloads.
    Metric::gauge(
        "headstart_cgroups",
        "Cgroups that exist and belong to a workload",
        |input| one(count(input.view.cgroups)),
    ),
    Metric::gauge("headstart_workloads", "Workloads that are known", |input| {
        one(count(input.view.workloads.len() as u64))
    }),
    // Gauges: what is added up as `other` changes with who has a series of its own.
    Metric::gauge(
        "headstart_workload_starts",
        "Starts of a workload since the agent started",
        |input| workloads::sums(&input.groups, |workload| workload.starts),
    )
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_cgroups",
        "Cgroups of a workload that exist",
        |input| workloads::sums(&input.groups, |workload| workload.live),
    )
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_profile_runs",
        "Runs that a workload's profile holds",
        |input| workloads::sums(&input.groups, |workload| workload.runs),
    )
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_profile_bytes",
        "File data in a workload's profile",
        |input| workloads::sums(&input.groups, |workload| workload.profile_bytes),
    )
    .unit("bytes")
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_warmed",
        "Workloads whose starts are warmed: 0 or 1, and how many of those added up as `other`",
        |input| {
            workloads::sums(&input.groups, |workload| {
                u64::from(workload.not_warmed.is_empty())
            })
        },
    )
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_last_start_timestamp_seconds",
        "When a workload's last start was noticed, since the epoch",
        |input| workloads::newest(&input.groups, |start| Some(time(start.began_ms))),
    )
    .unit("seconds")
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_last_start_lead_seconds",
        "From the first signal of a workload's last start to its first touch of a file on disk",
        |input| workloads::newest(&input.groups, |start| start.lead_seconds),
    )
    .unit("seconds")
    .labels(WORKLOAD),
    Metric::gauge(
        "headstart_workload_last_start_bytes",
        "Planned bytes by what a workload's last start made of them",
        |input| workloads::outcomes(&input.groups),
    )
    .unit("bytes")
    .labels(&["kind", "namespace", "workload", "outcome"]),
];
