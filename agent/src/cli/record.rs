//! `headstart record`

use std::process::ExitCode;

use super::args::{Global, RecordArgs};

pub(super) fn run(_global: &Global, _args: &RecordArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
