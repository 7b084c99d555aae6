//! `headstart doctor`: what this machine allows, what missing parts cost, and
//! what to do about them.
//!
//! Three steps: [`look`] asks the machine and gives a [`snapshot::Snapshot`];
//! [`judge`] turns that into rows, purely; [`table`] writes them.

mod judge;
mod look;
mod snapshot;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{DoctorArgs, Global};

/// Where profiles are kept when nothing else is said.
const DEFAULT_STATE_DIR: &str = "/var/lib/headstart";

pub(super) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if args.hooks {
        // The table of hooks belongs to `probe`: it attaches each and says why
        // one could not be.
        writeln!(out, "hooks: not built into this binary yet")?;
        return Ok(ExitCode::SUCCESS);
    }
    let state_dir = global
        .state_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
    let report = judge::judge(&look::look(&state_dir));
    if global.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        table::write(&mut out, &report, colour)?;
    }
    Ok(ExitCode::from(report.verdict.exit_code()))
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
