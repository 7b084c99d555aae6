//! `headstart doctor`: what this machine allows, what missing parts cost, and
//! what to do about them.
//!
//! Three steps: [`look`] asks the machine and gives a [`snapshot::Snapshot`];
//! [`judge`] turns that into rows, purely; [`table`] writes them.

mod judge;
mod look;
mod snapshot;
mod table;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::args::{DoctorArgs, Global};
use super::{context, format};

pub(super) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let report = report(global, args.hooks);
    if global.json {
        format::emit_json(&report)?;
    } else {
        let colour = format::is_coloured(&io::stdout());
        let mut text = Vec::new();
        table::write(&mut text, &report, colour)?;
        format::emit(text)?;
    }
    Ok(ExitCode::from(report.verdict.exit_code()))
}

/// What `doctor --json` prints.
pub(super) fn json(global: &Global) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(report(global, false))
}

/// Looks at this machine, and judges it or only its `hooks`.
fn report(global: &Global, hooks: bool) -> judge::Report {
    let config = context::config(global);
    // What can't be read is one of the things to be said.
    let broken = config.as_ref().err().map(format::told);
    let config = config.unwrap_or_default();
    let state_dir = global.state_dir.as_ref().unwrap_or(&config.state_dir);
    let seen = look::look(
        state_dir,
        config.ring_bytes,
        &config.agent.runtimes.roots(),
        broken,
    );
    if hooks {
        judge::judge_hooks(&seen)
    } else {
        judge::judge(&seen)
    }
}

/// The directory itself or the nearest one above it that exists.
fn nearest_existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directory_that_exists() {
        assert_eq!(
            nearest_existing(Path::new("/proc/self/no/such/thing")),
            Path::new("/proc/self")
        );
        assert_eq!(
            nearest_existing(Path::new("no/such/relative")),
            Path::new("/")
        );
    }
}
