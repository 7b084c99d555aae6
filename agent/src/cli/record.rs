//! `headstart record`: run a command and learn what it reads.

use std::process::ExitCode;

use super::args::{Global, RecordArgs};
use super::{common, format};
use crate::profile::check_name;
use crate::run::{Output, RING_BYTES, Recorder};

pub(super) fn run(global: &Global, args: &RecordArgs) -> anyhow::Result<ExitCode> {
    check_name(&args.profile)?;
    let store = common::writable_store(global)?;
    let mut recorder = Recorder::new(RING_BYTES)?;
    let (mut recording, mut child) =
        recorder.record(&args.command, Output::Inherit, args.window)?;
    drop(recorder);
    let run = common::profile_of(&mut recording, None);
    let merged = store.merge_into(&args.profile, &run)?;
    // While the caches are as the command left them: no plan of the next start
    // has to wait for it.
    common::device_cost(&store, &merged, recording.ended.is_some());
    // The command's standard output is its own: people are told on the other
    // one, programs (--json) in one last line.
    if !global.json {
        eprint!(
            "{}",
            common::describe(&args.profile, &recording, merged.runs.len())
        );
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
    if global.json {
        let value = common::recording_json(&args.profile, &recording, merged.runs.len());
        format::emit_json(&value)?;
    }
    Ok(ended.exit_code())
}
