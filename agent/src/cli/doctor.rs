//! `headstart doctor`

use std::process::ExitCode;

use super::args::{DoctorArgs, Global};

pub(super) fn run(_global: &Global, _args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
