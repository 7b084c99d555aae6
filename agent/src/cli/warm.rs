//! `headstart warm`

use std::process::ExitCode;

use super::args::{Global, WarmArgs};

pub(super) fn run(_global: &Global, _args: &WarmArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
