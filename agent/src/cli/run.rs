//! `headstart run`

use std::process::ExitCode;

use super::args::{Global, RunArgs};

pub(super) fn run(_global: &Global, _args: &RunArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
