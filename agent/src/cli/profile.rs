//! `headstart profile`

use std::process::ExitCode;

use super::args::{Global, ProfileArgs};

pub(super) fn run(_global: &Global, _args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
