//! `headstart observe`

use std::process::ExitCode;

use super::args::{Global, ObserveArgs};

pub(super) fn run(_global: &Global, _args: &ObserveArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
