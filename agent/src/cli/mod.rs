//! Commands. No logic: each parses its arguments, joins the stages, prints.

mod agent;
mod args;
mod ask;
mod chart;
mod cleanup;
mod common;
mod compare;
pub mod config;
mod context;
mod doctor;
mod explain;
mod format;
mod generate;
mod helper;
mod interrupt;
mod notify;
mod observe;
mod profile;
mod progress;
mod record;
mod run;
mod stages;
mod status;
mod sysdump;
mod top;
mod warm;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use crate::profile::panics;
use crate::run::{CompareError, LaunchError, RecordError};

pub use args::Cli;
use args::Command;

/// Runs the command line; the process' exit code.
pub fn main() -> ExitCode {
    panics::quiet();
    let done = if helper::is_wanted() {
        context::init_tracing(0, false);
        helper::run()
    } else {
        let cli = Cli::parse();
        // The line of `--live` says it better.
        let is_service = matches!(&cli.command, Command::Agent(args) if !args.live);
        context::init_tracing(cli.global.verbose, is_service);
        dispatch(cli)
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            format::complain(&error);
            // Where it is the command's fault, its own status says so.
            launch_error(&error).map_or(ExitCode::FAILURE, |e| ExitCode::from(e.exit_code()))
        }
    }
}

/// Why a command could not be started, where that is the reason.
fn launch_error(error: &anyhow::Error) -> Option<&LaunchError> {
    error
        .downcast_ref::<LaunchError>()
        .or_else(|| error.downcast_ref::<RecordError>()?.launch())
        .or_else(|| error.downcast_ref::<CompareError>()?.launch())
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Record(args) => record::run(&global, &args),
        Command::Warm(args) => warm::run(&global, &args),
        Command::Run(args) => run::run(&global, &args),
        Command::Compare(args) => compare::run(&global, &args),
        Command::Observe(args) => observe::run(&global, &args),
        Command::Agent(args) => agent::run(&global, &args),
        Command::Cleanup => cleanup::run(&global),
        Command::Profile(args) => profile::run(&global, &args),
        Command::Status => status::run(&global),
        Command::Workloads => workloads::run(&global),
        Command::Explain(args) => explain::run(&global, &args),
        Command::Notify(args) => notify::run(&global, &args),
        Command::Top => top::run(&global),
        Command::Sysdump(args) => sysdump::run(&global, &args),
        Command::Doctor(args) => doctor::run(&global, &args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}
