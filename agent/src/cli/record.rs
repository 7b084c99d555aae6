//! `headstart record`: run a command and learn what it reads.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::args::{Exact, Global, RecordArgs};
use super::{common, context, format, stages};
use crate::model::Profile;
use crate::predict::wants_exact;
use crate::profile::{Store, check_name};
use crate::run::{Output, RecordError, Recorder, Recording, fill_blocks};

pub(super) fn run(global: &Global, args: &RecordArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.profile)?;
    let store = common::writable_store(global)?;
    let state_dir = context::state_dir(global)?;
    common::put_back(&state_dir);
    let mut recorder = Recorder::new(context::ring_bytes(global)?).context("nothing was run")?;
    let exact = match args.exact {
        Exact::Always => true,
        Exact::Never => false,
        // A profile that can't be read is told of when this run is to be kept.
        Exact::Auto => wants_exact(&store.get(&args.profile).ok().flatten().unwrap_or_default()),
    };
    let (command, window) = (&args.command, args.window);
    let recorded = if exact {
        common::record_exactly(&mut recorder, &state_dir, command, Output::Inherit, window)
    } else {
        recorder.record(command, Output::Inherit, window)
    };
    let (mut recording, mut child) = recorded.map_err(|error| match error {
        RecordError::Cgroup(_) => anyhow::Error::new(error).context("nothing was run"),
        error => error.into(),
    })?;
    drop(recorder);
    let kept = keep(&store, args, &mut recording);
    // The command's standard output is its own: people are told on the other
    // one, programs (--json) in one last line.
    if let Ok(merged) = &kept
        && !global.json
    {
        let runs = merged.runs.len();
        format::tell(common::describe(&args.profile, &recording, runs));
        if global.verbose > 0 {
            format::tell(stages::text(&recording));
        }
    }
    let ended = match recording.ended {
        Some(ended) => ended,
        None => {
            tracing::info!("the window is over; the command goes on");
            child
                .wait(None)?
                .ok_or_else(|| anyhow::anyhow!("the command was lost"))?
        }
    };
    match kept {
        Ok(merged) if global.json => {
            let mut value = common::recording_json(&args.profile, &recording, merged.runs.len());
            value["exit_status"] = json!(ended.status());
            // The exit status is the command's all the same.
            if let Err(error) = format::emit_json_line(&value) {
                format::complain(&error);
            }
        }
        Ok(_) => {}
        Err(error) if ended.success() => return Err(error),
        Err(error) => format::complain(&error),
    }
    Ok(ended.exit_code())
}

/// Merges the run into its profile; what that is now.
fn keep(store: &Store, args: &RecordArgs, recording: &mut Recording) -> anyhow::Result<Profile> {
    // An exact run maps nothing at once that it was not seen to use.
    if !recording.is_exact()
        && let Ok(Some(known)) = store.get(&args.profile)
    {
        fill_blocks(&mut recording.trace, &known);
    }
    let run = common::profile_of(recording);
    let merged = store
        .record_into(&args.profile, &run)
        .context("the command ran, but what was recorded is not kept")?;
    // While the caches are as the command left them: no plan of the next start
    // has to wait for it.
    crate::run::device_cost(store, &merged, recording.ended.is_some());
    Ok(merged)
}
