//! `headstart run`: start a command at once and warm beside it.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::args::{Global, RunArgs};
use super::config::Config;
use super::{common, context, format, stages};
use crate::model::{DeviceCost, Profile, escape};
use crate::profile::{Access, Store, check_name};
use crate::run::{Beside, Warmup, run_beside};

/// Longest that the command waits for others to let go of the store: nobody is to, but for
/// what a writer that died has left to be mended.
const STORE_WAIT: Duration = Duration::from_millis(200);

pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.profile)?;
    // Whatever is wrong with configuration and store: the command runs.
    let config = context::config(global);
    let store = match &config {
        Ok(_) => context::state_dir(global)
            .and_then(|dir| Ok(Store::open_within(&dir, Access::Read, STORE_WAIT)?)),
        Err(error) => Err(anyhow::anyhow!(format::told(error))),
    };
    if let Err(error) = &store {
        tracing::warn!(
            "{}; nothing is warmed, and this run is not kept",
            format::told(error)
        );
    }
    let found = store.as_ref().ok().and_then(|store| known(store, args));
    // Read, and not there; or else nobody knows.
    let is_new = matches!(found, Some(None));
    let known = found.flatten();
    let profile = known.clone().unwrap_or_default();
    let cost = store.as_ref().map_or(DeviceCost::UNMEASURED, |store| {
        crate::run::device_cost(store, &profile, false)
    });
    let config = config.unwrap_or_default();
    let warmup = warmup(args, &config, cost);
    let beside = run_beside(&args.command, &profile, &warmup, config.ring_bytes)?;
    let kept = match &store {
        Ok(_) => keep(global, args, &beside),
        Err(_) => None,
    };
    if global.json {
        let runs = kept.unwrap_or(profile.runs.len());
        let recording = beside.recording.as_ref().ok();
        let told = format::emit_json_line(&json!({
            "profile": args.profile,
            "known": known.is_some(),
            "seconds": beside.seconds,
            "exit_status": beside.ended.status(),
            "recording": recording.map(|r| common::recording_json(&args.profile, r, runs)),
            "feedback": beside.feedback,
            "warm": beside.warm,
        }));
        // The exit status is the command's all the same.
        if let Err(error) = told {
            format::complain(&error);
        }
    } else {
        if known.is_none() {
            let why = if is_new {
                "was not there"
            } else {
                "could not be read"
            };
            let name = escape(args.profile.as_bytes());
            format::tell(format!("profile {name} {why}: nothing was warmed\n"));
        }
        format::tell(text(args, &beside, known.is_some(), kept));
        if let Ok(recording) = &beside.recording
            && global.verbose > 0
        {
            format::tell(stages::text(recording));
        }
    }
    Ok(beside.ended.exit_code())
}

/// The profile, if there is one; `None` where it can't be read.
fn known(store: &Store, args: &RunArgs) -> Option<Option<Profile>> {
    let found = store.get(&args.profile);
    let told = found.inspect_err(|error| tracing::warn!(%error, "nothing is warmed"));
    told.ok()
}

fn warmup(args: &RunArgs, config: &Config, cost: DeviceCost) -> Warmup {
    let warmup = Warmup {
        maybe: !args.no_maybe,
        ..common::warmup(config, cost)
    };
    match args.budget {
        Some(budget) => Warmup { budget, ..warmup },
        None => warmup,
    }
}

/// Merges the run into the profile; the number of runs it has then, `None` where it could
/// not be kept.
fn keep(global: &Global, args: &RunArgs, beside: &Beside) -> Option<usize> {
    let recording = match &beside.recording {
        Ok(recording) => recording,
        Err(error) => {
            let needs = match rustix::process::geteuid().is_root() {
                true => "",
                false => ": that needs root (`headstart doctor` says what else)",
            };
            tracing::warn!(%error, "this run was not recorded{needs}");
            return None;
        }
    };
    if let Ok(state_dir) = context::state_dir(global) {
        common::put_back(&state_dir);
    }
    let merged = context::open_store(global, Access::Write).and_then(|store: Store| {
        let trace = &recording.trace;
        if trace.blind_ns > 0 && trace.files.is_empty() && trace.names.is_empty() {
            tracing::warn!(
                "it had ended before the probes were there: nothing of this run is kept"
            );
            return Ok(None);
        }
        let run = common::profile_of(recording);
        Ok(Some(store.record_into(&args.profile, &run)?))
    });
    match merged {
        Ok(profile) => profile.map(|profile| profile.runs.len()),
        Err(error) => {
            tracing::warn!("{}; this run is not kept", format::told(&error));
            None
        }
    }
}

/// The part of the sentence that tells of what nobody could see.
fn unknown(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        _ => format!(
            ", {} not known (there before the probes were)",
            format::bytes(bytes)
        ),
    }
}

fn text(args: &RunArgs, beside: &Beside, known: bool, kept: Option<usize>) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    if let Some(feedback) = beside.feedback.filter(|_| known) {
        let _ = writeln!(
            out,
            "warmed beside it: {} used, {} late ({} of it on the way when the command used it), {} wasted, {} not read{}; {} used that was not planned",
            format::bytes(feedback.used_bytes),
            format::bytes(feedback.late_bytes),
            format::bytes(feedback.on_the_way_bytes),
            format::bytes(feedback.wasted_bytes),
            format::bytes(feedback.not_read_bytes),
            unknown(feedback.unknown_bytes),
            format::bytes(feedback.missed_bytes),
        );
    }
    if let (None, Some(warm), true) = (beside.feedback, &beside.warm, known) {
        let _ = writeln!(
            out,
            "warmed beside it: {} read, {} there already; what of it was used nobody saw",
            format::bytes(warm.data.read),
            format::bytes(warm.data.resident_before),
        );
    }
    if let Ok(recording) = &beside.recording
        && let Some(runs) = kept
    {
        out.push_str(&common::describe(&args.profile, recording, runs));
    }
    out
}
