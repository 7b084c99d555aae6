//! `headstart notify`: says that a workload will start soon.

use std::process::ExitCode;

use super::args::{Global, NotifyArgs};
use super::ask::{self, shown};
use super::format::{self, bytes, seconds};
use crate::api::v1;

pub(super) fn run(global: &Global, args: &NotifyArgs) -> anyhow::Result<ExitCode> {
    if args.wait {
        return wait(global, args);
    }
    let notified = ask::agent(global)?.notify(&args.workload)?;
    if global.json {
        format::emit_json(&notified)?;
    } else {
        let (key, planned) = (shown(&notified.key), bytes(notified.planned));
        format::emit(match notified.queued {
            true => format!("noted for {key}: other plans go first, it is warmed after them\n"),
            false => format!("warming {planned} for {key}\n"),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Until it is warmed.
fn wait(global: &Global, args: &NotifyArgs) -> anyhow::Result<ExitCode> {
    let begun = |told: &v1::WarmResponse| {
        if !global.json {
            format::tell(format!(
                "warming {} for {}\n",
                bytes(told.planned),
                shown(&told.key)
            ));
        }
    };
    let warmed = ask::agent(global)?.warm(&args.workload, begun)?;
    if global.json {
        format::emit_json(&warmed)?;
    } else {
        format::emit(text(&warmed))?;
    }
    let data = warmed.failed + warmed.left + warmed.evicted;
    let is_whole = data + warmed.names_failed + warmed.names_left == 0;
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(warmed: &v1::WarmResponse) -> String {
    let mut out = format!(
        "{} there already, {} read, {} of {} names looked up, in {}\n",
        bytes(warmed.resident_before),
        bytes(warmed.read),
        warmed.names_warmed,
        warmed.names_planned,
        seconds(warmed.seconds),
    );
    let losses = [
        (warmed.failed, "failed"),
        (warmed.evicted, "evicted before the end: memory is short"),
        (warmed.left, "not got to"),
        (warmed.gone, "no longer there"),
    ];
    for (n, what) in losses.into_iter().filter(|(n, _)| *n > 0) {
        out += &format!("{} {what}\n", bytes(n));
    }
    out
}
