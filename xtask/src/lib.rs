//! Build, test and benchmark commands of the workspace: `cargo xtask --help`.
//!
//! - [`build`]: probes with a compiler that has rust-src ([`toolchain`]), then
//!   the agent with the probes inside.
//! - [`codegen`]: files that are made from others and checked in.
//! - [`load`]: build, look at the machine, show the gain on a real program.
//! - [`mod@test`]: everything that a change must pass, in stages.
//! - [`fuzz`], [`sanitize`], [`deny`]: parsers, unsafe code and dependencies, each
//!   looked at by a tool of its own.
//! - [`tidy`]: rules of the source tree, with the reason for each.
//! - [`mod@bench`]: measurements, and what they share.
//! - [`vm`]: suites on other kernels, in virtual machines.

pub mod bench;
pub mod build;
pub mod codegen;
pub mod deny;
pub mod fuzz;
pub mod load;
pub mod packages;
pub mod run;
pub mod sanitize;
pub mod test;
pub mod tidy;
pub mod toolchain;
pub mod vm;
pub mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and benchmark commands of the workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the probes, and the agent with the probes inside
    Build(build::Args),
    /// Build, check the hooks, compare starts of a real program, then go on as the agent
    BuildAndLoad(load::Args),
    /// Run everything that a change must pass
    Test(test::Args),
    /// Run parsers on inputs that cover ever more of them
    Fuzz(fuzz::Args),
    /// Make the files that are made from others: gRPC code, the page of metrics
    Codegen(codegen::Args),
    /// Check the rules of the source tree
    Tidy,
    /// Measure
    Bench(bench::Args),
    /// Run the kernel suites on other kernels, in virtual machines
    Vm(vm::Args),
}

/// Runs the command line; the process' exit code.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Build(args) => build::run(&args).map(|_| ExitCode::SUCCESS),
        Command::BuildAndLoad(args) => load::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => test::run(&args),
        Command::Fuzz(args) => fuzz::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Codegen(args) => codegen::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Vm(args) => vm::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
