//! `headstart compare`

use std::process::ExitCode;

use super::args::{CompareArgs, Global};

pub(super) fn run(_global: &Global, _args: &CompareArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
