//! The daemon's view as messages.

use std::collections::BTreeMap;

use super::proto::v1;
use crate::daemon::{
    Feature, FileView, Histogram, LEAD_BOUNDS, Notified, StartView, Totals, Touched, View,
    WorkloadView,
};
use crate::model::{StageCounts, escape};
use crate::probe::{HookState, Ran};
use crate::warm::WarmReport;

pub(super) fn status(view: &View) -> v1::StatusResponse {
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_ms: view.started_ms,
        alive_ms: view.alive_ms,
        ready: view.ready,
        features: view.features.iter().map(feature).collect(),
        hooks: view.hooks.iter().map(hook).collect(),
        totals: Some(totals(&view.totals)),
        cgroups: view.cgroups,
        learning: view.learning,
        warming: view.warming,
        workloads: view.workloads.len() as u64,
        config_read_ms: view.config_read_ms,
        config_error: view.config_error.clone(),
        store_notices: view.store.last.iter().cloned().collect(),
    }
}

pub(super) fn planned(notified: &Notified) -> v1::WarmResponse {
    v1::WarmResponse {
        key: notified.key.clone(),
        planned: notified.planned,
        ..v1::WarmResponse::default()
    }
}

pub(super) fn warmed(key: String, report: &WarmReport) -> v1::WarmResponse {
    v1::WarmResponse {
        key,
        planned: report.data.planned,
        resident_before: report.data.resident_before,
        read: report.data.read,
        failed: report.data.failed,
        gone: report.data.gone,
        evicted: report.data.evicted,
        left: report.data.left,
        names_planned: report.names_planned,
        names_warmed: report.names_warmed,
        names_failed: report.names_failed,
        names_left: report.names_left,
        seconds: report.seconds,
        done: true,
    }
}

fn feature(feature: &Feature) -> v1::Feature {
    v1::Feature {
        name: feature.name.to_owned(),
        live: feature.live,
        reason: feature.reason.clone(),
    }
}

fn hook(hook: &HookState) -> v1::Hook {
    v1::Hook {
        program: hook.program.to_owned(),
        group: format!("{:?}", hook.group).to_ascii_lowercase(),
        place: hook.place.clone(),
        live: hook.live,
        reason: hook.reason.clone(),
        without: hook.without.to_owned(),
    }
}

fn counts(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts.map(|(key, n)| ((*key).to_owned(), *n)).collect()
}

fn totals(totals: &Totals) -> v1::Totals {
    v1::Totals {
        starts: counts(&totals.starts),
        notifications: totals.notifications,
        starts_not_learned: counts(&totals.starts_not_learned),
        runs_learned: totals.runs_learned,
        records: totals.records,
        records_lost: totals.records_lost,
        signals_lost: totals.signals_lost,
        warmed_bytes: counts(&totals.warmed_bytes),
        outcome_bytes: counts(&totals.outcome_bytes),
        missed_bytes: totals.missed_bytes,
        throttled: counts(&totals.throttled),
        hooks_attached_seconds: totals.hooks_attached_seconds,
        uptime_seconds: totals.uptime_seconds,
        lead: Some(histogram(&totals.all_leads())),
        lead_by_signal: by_signal(&totals.lead),
        runtime_signals_lost: totals.runtime_signals_lost,
        stages: totals.stages.iter().map(stage).collect(),
        charged_bytes: counts(&totals.charged_bytes),
        charge_fallbacks: counts(&totals.charge_fallbacks),
        disk_measurements: counts(&totals.disk_measurements),
        evictions: counts(&totals.evictions),
        program_seconds: by_program(&totals.programs, |ran| ran.measured(ran.seconds)),
        program_runs: by_program(&totals.programs, |ran| ran.measured(ran.runs)),
        program_runs_missed: by_program(&totals.programs, |ran| {
            (ran.missed > 0).then_some(ran.missed)
        }),
        helper_restarts: totals.helper_restarts,
    }
}

fn by_program<T>(
    programs: &BTreeMap<&'static str, Ran>,
    value: impl Fn(&Ran) -> Option<T>,
) -> BTreeMap<String, T> {
    let programs = programs.iter();
    programs
        .filter_map(|(name, ran)| Some(((*name).to_owned(), value(ran)?)))
        .collect()
}

fn by_signal(leads: &BTreeMap<&'static str, Histogram>) -> BTreeMap<String, v1::Histogram> {
    let leads = leads.iter();
    leads
        .map(|(signal, lead)| ((*signal).to_owned(), histogram(lead)))
        .collect()
}

fn histogram(histogram: &Histogram) -> v1::Histogram {
    v1::Histogram {
        bounds: LEAD_BOUNDS.to_vec(),
        buckets: histogram.buckets.to_vec(),
        count: histogram.count,
        sum_seconds: histogram.sum,
    }
}

fn stage(stage: &StageCounts) -> v1::Stage {
    v1::Stage {
        name: stage.name.to_owned(),
        unit: stage.unit.to_owned(),
        seen: stage.seen,
        out: stage.out,
        lost: stage.lost,
        filtered: counts(&stage.filtered),
    }
}

/// With the files of its last start if `files`.
pub(super) fn workload(workload: &WorkloadView, files: bool) -> v1::Workload {
    v1::Workload {
        key: workload.key.clone(),
        kind: workload.kind.to_owned(),
        name: workload.called.name.clone(),
        namespace: workload.called.namespace.clone(),
        image: workload.called.image.clone(),
        also: workload.called.also.clone(),
        runs: workload.runs,
        profile_bytes: workload.profile_bytes,
        starts: workload.starts,
        live: workload.live,
        not_warmed: workload.not_warmed.to_owned(),
        last: workload.last.as_ref().map(|last| start(last, files)),
        seen: workload.seen,
    }
}

fn start(start: &StartView, files: bool) -> v1::Start {
    let shown = if files { &start.files[..] } else { &[] };
    v1::Start {
        began_ms: start.began_ms,
        signal: start.signal.to_owned(),
        not_learned: start.not_learned.to_owned(),
        over: start.over,
        seconds: start.seconds,
        lead_seconds: start.lead_seconds,
        warm_delay_seconds: start.warm_delay_seconds,
        warm_seconds: start.warm_seconds,
        planned: start.planned,
        resident_before: start.resident_before,
        read: start.read,
        used: start.used,
        late: start.late,
        on_the_way: start.on_the_way,
        wasted: start.wasted,
        unknown: start.unknown,
        missed: start.missed,
        names_warmed: start.names_warmed,
        joined: start.joined,
        files: shown.iter().map(file).collect(),
    }
}

fn file(file: &FileView) -> v1::File {
    v1::File {
        volume: file.volume.clone(),
        path: file.path.clone(),
        planned: file.planned,
        used: file.used,
        late: file.late,
        wasted: file.wasted,
        unknown: file.unknown,
    }
}

/// A workload's profile; `None` where it has none.
pub(super) fn profile(workload: &WorkloadView) -> Option<v1::Profile> {
    (workload.runs > 0).then(|| v1::Profile {
        name: workload.key.clone(),
        runs: workload.runs,
        bytes: workload.profile_bytes,
    })
}

pub(super) fn touch(touched: &Touched, lost: u64) -> v1::WatchTouchesResponse {
    v1::WatchTouchesResponse {
        workload: touched.workload.clone(),
        since_start_ns: touched.since_start_ns,
        path: escape(&touched.path),
        page: touched.page,
        pages: touched.pages,
        maybe: touched.maybe,
        lost,
    }
}
