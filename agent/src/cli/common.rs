//! What `record`, `run`, `warm` and `compare` share.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::args::Global;
use super::config::Config;
use super::{context, format, stages};
use crate::model::{DeviceCost, Profile, RunInfo, escape};
use crate::profile::{Access, Store, from_trace};
use crate::run::{
    Child, FaultAround, Left, Output, RecordError, Recorder, Recording, Summary, Warmup, now_ms,
    put_back_left, run_id, summarize,
};

/// Identity of a run that was just recorded.
pub(super) fn run_info(recording: &Recording) -> RunInfo {
    let duration_ns = recording.trace.duration_ns;
    RunInfo {
        started_ms: now_ms().saturating_sub(duration_ns / 1_000_000),
        id: run_id(),
        duration_ns,
        exact: recording.is_exact(),
        blind_ns: recording.trace.blind_ns,
    }
}

/// A recording as a profile of one run.
pub(super) fn profile_of(recording: &Recording) -> Profile {
    from_trace(&recording.trace, run_info(recording))
}

/// How the configuration wants warming to be done.
pub(super) fn warmup(config: &Config, cost: DeviceCost) -> Warmup {
    Warmup {
        budget: config.budget,
        io_class: config.io_class(),
        cost,
        ..Warmup::default()
    }
}

/// Opens the store for writing before a command is run, so that a directory
/// that can't be written is found out before, not after.
pub(super) fn writable_store(global: &Global) -> anyhow::Result<Store> {
    context::open_store(global, Access::Write).context("nothing was run")
}

/// Puts back what a killed process of ours left, before something is recorded. That it
/// can't be is no reason not to record.
pub(super) fn put_back(state_dir: &Path) {
    match put_back_left(state_dir) {
        Ok(Left::PutBack { from, to }) => {
            tracing::warn!(
                "put back fault_around_bytes from {from} to {to}: left by a killed headstart"
            );
        }
        Ok(left) => tracing::debug!(?left, "fault_around_bytes"),
        Err(error) => tracing::warn!(%error, "a killed headstart left fault_around_bytes narrow"),
    }
}

/// Records a command page by page: with the kernel's fault-around window narrowed, where
/// that can be done, else traced. The journal of the first is in `state_dir`.
pub(super) fn record_exactly(
    recorder: &mut Recorder,
    state_dir: &Path,
    command: &[OsString],
    output: Output,
    window: Option<Duration>,
) -> Result<(Recording, Child), RecordError> {
    match FaultAround::claim(state_dir).and_then(|around| around.tried_in(state_dir)) {
        Ok(around) => recorder.record_narrowed(command, output, window, around),
        Err(error) => {
            tracing::debug!(%error, "not narrowed, traced");
            recorder.record_exact(command, output, window)
        }
    }
}

/// What to tell a person about a recorded run.
pub(super) fn describe(name: &str, recording: &Recording, runs: usize) -> String {
    use std::fmt::Write;
    let summary = summarize(&recording.trace);
    let mut out = String::new();
    let plural = if runs == 1 { "" } else { "s" };
    let _ = writeln!(
        out,
        "recorded into profile {} ({runs} run{plural})",
        escape(name.as_bytes())
    );
    let _ = writeln!(
        out,
        "  files {:>8}   used for certain {}, maybe {} more, in {} extents",
        summary.files,
        format::bytes(summary.certain_bytes),
        format::bytes(summary.maybe_bytes),
        summary.extents,
    );
    let _ = writeln!(
        out,
        "  names {:>8}   {} of them not there, {} directories listed, {} of metadata read",
        summary.names,
        summary.names_missing,
        summary.directories_listed,
        format::bytes(summary.block_bytes),
    );
    let share = recording
        .stall_seconds
        .map(|stall| stall / recording.seconds.max(1e-9) * 100.0);
    let stalled = share.map_or("unknown".to_owned(), |share| format!("{share:.0} %"));
    let _ = writeln!(
        out,
        "  time  {:>8}   stalled on I/O: {stalled}",
        format::seconds(recording.seconds),
    );
    if let Some(traced) = &recording.traced {
        let _ = match &traced.error {
            None => writeln!(
                out,
                "  traced, page by page: slower than the runs to come; {} of {} mappings of files kept windows",
                traced.refused,
                traced.refused + traced.mappings,
            ),
            Some(error) => writeln!(out, "  not page by page: {}", escape(error.as_bytes())),
        };
    }
    if let Some(narrowed) = &recording.narrowed {
        let _ = match &narrowed.error {
            None if narrowed.maybe_pages == 0 => writeln!(
                out,
                "  page by page: fault_around_bytes was one page, for the whole machine, and is put back; slower than the runs to come",
            ),
            None => writeln!(
                out,
                "  not page by page: {} pages mapped around faults, though fault_around_bytes was one page",
                narrowed.maybe_pages
            ),
            Some(error) => writeln!(out, "  not page by page: {}", escape(error.as_bytes())),
        };
    }
    for (directory, bytes) in &summary.top_directories {
        let _ = writeln!(
            out,
            "  {:>14}   {}",
            format::bytes(*bytes),
            escape(directory)
        );
    }
    let gaps = &recording.gaps;
    for (count, what) in [
        (
            gaps.path_too_long,
            "files whose path is too long or too deep",
        ),
        (gaps.no_path, "files without a path"),
        (gaps.names_unresolved, "names that were not resolved"),
    ] {
        if count > 0 {
            let _ = writeln!(out, "  left out: {count} {what}");
        }
    }
    if gaps.names_without_blocks > 0 {
        let _ = writeln!(
            out,
            "  of {} names on ext4 it is not known which blocks of the disk they take: it can't be opened or read (-v tells); looking them up warms them",
            gaps.names_without_blocks
        );
    }
    if recording.trace.blind_ns > 0 {
        let _ = writeln!(
            out,
            "  the first {} were not seen: the probes were being loaded",
            format::seconds(recording.trace.blind_ns as f64 / 1e9)
        );
    }
    if recording.trace.lost > 0 {
        let _ = writeln!(
            out,
            "  INCOMPLETE: {} records were lost (ring buffer full); the next run adds what is missing, and a larger `ring_bytes` in the configuration loses none",
            recording.trace.lost
        );
    }
    out
}

/// The same for a program.
pub(super) fn recording_json(name: &str, recording: &Recording, runs: usize) -> Value {
    let summary: Summary = summarize(&recording.trace);
    let top: Vec<Value> = summary
        .top_directories
        .iter()
        .map(|(path, bytes)| json!({"path": escape(path), "bytes": bytes}))
        .collect();
    let (stages, evicted) = stages::json(recording);
    json!({
        "profile": name,
        "runs": runs,
        "files": summary.files,
        "bytes_used": summary.certain_bytes,
        "bytes_certain": summary.certain_bytes,
        "bytes_maybe": summary.maybe_bytes,
        "extents": summary.extents,
        "names": summary.names,
        "names_missing": summary.names_missing,
        "directories_listed": summary.directories_listed,
        "bytes_metadata_blocks": summary.block_bytes,
        "top_directories": top,
        "seconds": recording.seconds,
        "io_stall_seconds": recording.stall_seconds,
        "exact": recording.is_exact(),
        "traced": recording.traced,
        "narrowed": recording.narrowed,
        "io_stall_share": recording.stall_seconds.map(|s| s / recording.seconds.max(1e-9)),
        "records": recording.records,
        "lost": recording.trace.lost,
        "blind_seconds": recording.trace.blind_ns as f64 / 1e9,
        "gaps": recording.gaps,
        "stages": stages,
        "evicted": evicted,
    })
}
