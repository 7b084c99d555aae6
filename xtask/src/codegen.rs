//! `cargo xtask codegen`: makes the files that are made from others and checked in. The
//! test `generated` compares them, so that nobody forgets.

use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::workspace::Workspace;

/// `cargo xtask codegen`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare only
    #[arg(long)]
    check: bool,
}

/// Makes or compares them.
pub fn run(args: &Args) -> Result<()> {
    // A test, because what makes them is built for tests alone: protobuf compilers are
    // of no use to the agent.
    let mut test = Command::new("cargo");
    test.args([
        "test",
        "--locked",
        "--package",
        "headstart",
        "--test",
        "generated",
    ])
    .current_dir(Workspace::here().root);
    if !args.check {
        test.env("HEADSTART_CODEGEN", "write");
    }
    run::run_merged(&mut test)
}
