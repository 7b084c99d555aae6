//! `headstart warm-helper`: the agent's other process, which reads in another cgroup.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::Context;

use crate::daemon::helper::{COMMAND, serve};

/// Whether this process is one. It is no command of `Cli`: in help, completions and man pages
/// it would stand for nobody.
pub(super) fn is_wanted() -> bool {
    let command = OsStr::from_bytes(COMMAND.to_bytes());
    std::env::args_os().skip(1).eq([command])
}

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
