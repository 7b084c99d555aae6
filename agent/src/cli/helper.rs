//! `headstart warm-helper`: the agent's other process, which reads in another cgroup.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;

use crate::daemon::helper::serve;

/// Its standard input is the connection to the agent, its standard output the memory that
/// bounds are shared in: it prints nothing.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    // What a terminal sends to the agent is the agent's; a leader already is as good.
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::thread::set_name(c"headstart-warm");
    let connection = io::stdin().as_fd().try_clone_to_owned();
    let connection = connection.context("standard input")?;
    let dues = io::stdout().as_fd().try_clone_to_owned();
    let dues = dues.context("standard output")?;
    serve(connection, dues).context("this command is for the agent alone")?;
    Ok(ExitCode::SUCCESS)
}
