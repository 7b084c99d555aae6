//! `headstart warm`: make a profile's bytes and names resident.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;

use super::args::{Global, WarmArgs};
use super::progress::ProgressLine;
use super::{common, context, format, interrupt, profile};
use crate::model::{PAGE_SIZE, Volume, escape};
use crate::plan::Timing;
use crate::profile::Access;
use crate::run::Warmup;
use crate::warm::{Cancel, FailureKind, Progress, VolumeRoots, WarmReport};

pub(super) fn run(global: &Global, args: &WarmArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let cancel = Cancel::new();
    interrupt::cancel_on_signal(&cancel);
    let store = context::open_store(global, Access::Read)?;
    let Some(found) = store.get(&args.name)? else {
        bail!("{}", profile::missing(&store, &args.name)?);
    };
    let cost = crate::run::device_cost(&store, &found, false);
    let warmup = Warmup {
        maybe: !args.no_maybe,
        metadata: !args.no_metadata,
        deadline: args.deadline.map(|after| began + after),
        ..common::warmup(&context::config(global)?, cost)
    };
    let warmup = match args.budget {
        Some(budget) => Warmup { budget, ..warmup },
        None => warmup,
    };
    let plan = warmup.plan(&found, Timing::Ahead);
    let totals = plan.totals;
    let progress = Arc::new(Progress::default());
    let report = {
        let _line = ProgressLine::start(&progress, global.json);
        warmup
            .execute(plan, Timing::Ahead, &progress, &cancel)
            .context("reading the mount table")?
    };
    let seconds = began.elapsed().as_secs_f64();
    // Where all is as it was, the place was the right one.
    let differs = report.files_missing > 0 || report.files_changed > 0;
    let elsewhere = match differs {
        true => elsewhere(&found.volumes),
        false => Vec::new(),
    };
    for volume in &report.without_device {
        tracing::debug!(
            volume = escape(volume.volume.as_bytes()),
            error = volume.error,
            "metadata blocks are left to the look-ups of names: no device to read them from"
        );
    }
    if global.json {
        format::emit_json(&json!({
            "profile": args.name,
            "bytes_planned": report.data.planned,
            "bytes_certain": totals.certain_bytes,
            "bytes_maybe": totals.maybe_bytes,
            "bytes_gap": totals.gap_bytes,
            "bytes_over_budget": totals.over_budget_bytes,
            "bytes_resident_before": report.data.resident_before,
            "bytes_read": report.data.read,
            "bytes_failed": report.data.failed,
            "bytes_gone": report.data.gone,
            "bytes_evicted": report.data.evicted,
            "bytes_left": report.data.left,
            "bytes_unverified": report.unverified_bytes,
            "names_planned": report.names_planned,
            "names_warmed": report.names_warmed,
            "names_failed": report.names_failed,
            "seconds": seconds,
            "volumes_elsewhere": elsewhere.iter().map(|volume| json!({
                "volume": escape(volume.id.0.as_bytes()),
                "looked_at": escape(&volume.mount_point),
            })).collect::<Vec<_>>(),
            "complete": complete(&report),
            "cancelled": report.cancelled,
            "deadline_reached": report.deadline_reached,
            "report": report,
        }))?;
    } else {
        format::emit(text(&args.name, &report, totals.over_budget_bytes, seconds))?;
        for volume in &elsewhere {
            format::tell(format!(
                "note: volume {} is not mounted; what is at {} was looked at in its place\n",
                escape(volume.id.0.as_bytes()),
                escape(&volume.mount_point),
            ));
        }
    }
    Ok(if complete(&report) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The volumes that are not mounted here, so that it was looked elsewhere for them.
fn elsewhere(volumes: &[Volume]) -> Vec<&Volume> {
    let Ok(roots) = VolumeRoots::read() else {
        return Vec::new();
    };
    let missing = volumes.iter().filter(|volume| roots.is_elsewhere(volume));
    missing.collect()
}

/// Whether all that could be had is there. Metadata blocks are a shortcut that
/// a device may not allow; names do their work.
fn complete(report: &WarmReport) -> bool {
    report.data.failed == 0
        && report.data.left == 0
        && report.data.evicted == 0
        && report.names_failed == 0
        && report.names_left == 0
}

fn text(name: &str, report: &WarmReport, over_budget: u64, seconds: f64) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let data = &report.data;
    let rate = data.read as f64 / report.seconds.max(1e-9);
    let _ = writeln!(
        out,
        "{}: {} planned, {} there already, {} read in {} ({}/s)",
        escape(name.as_bytes()),
        format::bytes(data.planned),
        format::bytes(data.resident_before),
        format::bytes(data.read),
        format::seconds(seconds),
        format::bytes(rate as u64),
    );
    let _ = writeln!(
        out,
        "{} of {} names looked up; {} files, {} changed since they were profiled, {} gone",
        report.names_warmed + report.names_gone,
        report.names_planned,
        report.files_planned,
        report.files_changed,
        report.files_missing,
    );
    let losses = [
        (over_budget, "left out: over the budget"),
        (data.failed, "failed"),
        (data.evicted, "evicted before the end: memory is short"),
        (data.left, "not got to"),
        (data.gone, "no longer there: the file is missing or shorter"),
        (
            report.unverified_bytes,
            "may have been there before, or not be there now: only who owns a file, or root, is told",
        ),
    ];
    for (bytes, what) in losses.iter().filter(|(bytes, _)| *bytes > 0) {
        let _ = writeln!(out, "{} {what}", format::bytes(*bytes));
    }
    let reasons = [
        (report.cancelled, "interrupted"),
        (report.deadline_reached, "the deadline came before the end"),
        (report.stuck_threads > 0, "a volume does not answer"),
    ];
    for (_, why) in reasons.iter().filter(|(is, _)| *is) {
        let _ = writeln!(out, "{why}");
    }
    for failure in &report.failures {
        let _ = write!(
            out,
            "  {} {}: ",
            escape(failure.volume.as_bytes()),
            failure.path
        );
        if failure.kind == FailureKind::Read {
            let offset = failure.start_page.saturating_mul(PAGE_SIZE);
            let _ = write!(out, "{} bytes at {offset}: ", failure.bytes);
        }
        let _ = writeln!(out, "{}", failure.error);
    }
    if report.failures_unnamed > 0 {
        let _ = writeln!(out, "  and {} more", report.failures_unnamed);
    }
    out
}
