//! `headstart notify`: says that a workload will start soon.

use std::process::ExitCode;

use super::args::{Global, NotifyArgs};
use super::ask::{self, shown};
use super::format::{self, bytes};

pub(super) fn run(global: &Global, args: &NotifyArgs) -> anyhow::Result<ExitCode> {
    let notified = ask::agent(global)?.notify(&args.workload)?;
    if global.json {
        format::emit_json(&notified)?;
    } else {
        let (key, planned) = (shown(&notified.key), bytes(notified.planned));
        format::emit(format!("warming {planned} for {key}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
