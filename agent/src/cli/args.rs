//! The command line, as clap sees it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::OsStringValueParser;
use clap::{Args, Parser, Subcommand};

use crate::model::{number_and_unit, parse_size};

/// Makes data local before it is asked for.
#[derive(Debug, Parser)]
#[command(name = "headstart", version, propagate_version = true)]
#[command(after_help = "\
Exit status:
  0  all is well
  1  it failed; standard error says why, and what to do
  2  the command line is wrong
`record` and `run` end as the command that they run, `doctor` with its verdict.

Files:
  /etc/headstart/config.toml  configuration, where --config names no other
  /var/lib/headstart          profiles, where nothing names another directory
  /run/headstart/agent.sock   where the agent is asked, where --socket names no other")]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the help of every command puts what all have.
const COMMON: &str = "Common options";

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where profiles are kept [default: /var/lib/headstart, or `state_dir` of the configuration]
    #[arg(long, global = true, value_name = "DIR", help_heading = COMMON)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print one JSON object instead of text for people
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
    /// Say more (-v: debug, -vv: trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = COMMON)]
    pub(crate) verbose: u8,
    /// Configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE", help_heading = COMMON)]
    pub(crate) config: Option<PathBuf>,
    /// Socket of the agent [default: /run/headstart/agent.sock, or `socket` of the configuration]
    #[arg(long, global = true, value_name = "PATH", env = "HEADSTART_SOCKET", hide_env_values = true, value_parser = OsStringValueParser::new(), help_heading = COMMON)]
    socket: Option<OsString>,
}

impl Global {
    /// Socket of the agent, where one is named. An empty `HEADSTART_SOCKET` names none, as
    /// shells have it.
    pub(crate) fn socket(&self) -> Option<&Path> {
        let socket = self.socket.as_deref().map(Path::new);
        socket.filter(|path| !path.as_os_str().is_empty())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command and learn what it reads
    ///
    /// CMD has this command's input, output and signals, as in a shell. What is
    /// learned is told on standard error, with --json in one last line on standard
    /// output. Where nothing can be recorded, CMD is not run.
    Record(RecordArgs),
    /// Make a profile's bytes and names resident
    ///
    /// Returns when that is done, at the deadline, or after an interrupt. What is
    /// there already is not read again.
    Warm(WarmArgs),
    /// Start a command at once and warm beside it
    ///
    /// The run is recorded too, and what became of the warmed bytes is told: used,
    /// late (CMD used it before it was there), wasted. Nothing that goes wrong with warming or
    /// recording keeps CMD from running.
    Run(RunArgs),
    /// Measure cold, run, warmed and hot starts of a command
    ///
    /// Drops the machine's page cache before each start but the hot ones: other
    /// programs feel it. What CMD prints is thrown away.
    Compare(CompareArgs),
    /// Watch what is read on this machine, live
    Observe(ObserveArgs),
    /// Learn every workload of this machine, and warm each start
    ///
    /// Runs until it is interrupted. Learns how each systemd unit and each container
    /// starts, and warms what it will read when it starts again. Ask it with `status`,
    /// `workloads` and `explain`.
    Agent(AgentArgs),
    /// List, show and move profiles
    Profile(ProfileArgs),
    /// Say how the agent of this machine is
    Status,
    /// List what the agent has seen starting, and what the store knows besides
    Workloads,
    /// Say what was predicted for a workload's last start, and what became of it
    ///
    /// Of what was predicted: what was there already, what was warmed; of that, used,
    /// late (used before it was there), wasted, unknown. And why it is or isn't warmed.
    Explain(ExplainArgs),
    /// Tell the agent that a workload will start soon
    ///
    /// What it will read is warmed from now on. Returns when that is planned, not when it
    /// is done.
    Notify(NotifyArgs),
    /// Watch workloads and their starts, live
    ///
    /// q ends it, s sorts by the next column, up and down move. With --json it prints
    /// what it would show once, and ends.
    Top,
    /// Collect what a report of a bug needs into one file
    ///
    /// A tar archive: how the agent is, its workloads and their last starts, its metrics,
    /// the configuration, the kernel, and what `doctor` says. Paths are replaced by hashes
    /// that are the same in every archive of this machine, and mean nothing elsewhere.
    /// Names of units and containers stay. Where no agent runs, the archive says so.
    Sysdump(SysdumpArgs),
    /// Put back what a killed headstart left behind
    ///
    /// Recording page by page narrows a setting of the kernel (fault_around_bytes), and
    /// notes before what it was. A kill -9 leaves both; this, or the next recording, puts
    /// the setting back, unless somebody else has changed it since. Cgroups and the socket
    /// that a killed agent left are removed.
    Cleanup,
    /// Say what this machine allows, what it costs to miss the rest, and what to do
    Doctor(DoctorArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Write the man pages
    Man(ManArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  N      CMD exited with N
  128+N  signal N ended CMD
  126    CMD can't be executed
  127    CMD is not there
  1      nothing was run, or CMD ended well and its recording is not kept
  2      the command line is wrong; nothing was run")]
pub(crate) struct RecordArgs {
    /// Profile to merge this run into; made if it does not exist
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: String,
    /// Stop recording after this long (500ms, 10s, 2m); the command goes on [default: until it exits]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) window: Option<std::time::Duration>,
    /// Learn page by page, so that every page it uses is known for certain
    ///
    /// Where debugfs can be written the kernel's fault_around_bytes is one page meanwhile,
    /// for the whole machine; else the command is traced.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Exact::Auto)]
    pub(crate) exact: Exact,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// When a run is recorded page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Exact {
    /// A profile's first two runs, and one now and then if much is unsure
    Auto,
    /// This run: it starts slower, and where it is traced no debugger can do so
    Always,
    /// Not this run: it starts as fast as ever
    Never,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  all that was planned and still exists is resident
  1  some of it is not: it failed, or there was no time
  2  the command line is wrong")]
pub(crate) struct WarmArgs {
    /// Profile to warm
    pub(crate) name: String,
    /// Read at most this much (bytes; KiB, MiB, GiB) [default: 2GiB, or `budget` of the configuration]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) budget: Option<u64>,
    /// Stop after this long: 500ms, 10s, 2m [default: when all is done]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) deadline: Option<std::time::Duration>,
    /// Leave names (dentries, inodes) alone
    #[arg(long)]
    pub(crate) no_metadata: bool,
    /// Leave out pages that were never certainly used
    #[arg(long)]
    pub(crate) no_maybe: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  N      CMD exited with N
  128+N  signal N ended CMD
  126    CMD can't be executed
  127    CMD is not there
  1      NAME can't be a profile's name; nothing was run
  2      the command line is wrong; nothing was run")]
pub(crate) struct RunArgs {
    /// Profile to warm from and to merge this run into
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: String,
    /// Read at most this much (bytes; KiB, MiB, GiB) [default: 2GiB, or `budget` of the configuration]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) budget: Option<u64>,
    /// Leave out pages that were never certainly used
    #[arg(long)]
    pub(crate) no_maybe: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  it was told to end
  1  it could not begin; standard error says why, and what to do
  2  the command line is wrong

Signals:
  SIGTERM, SIGINT  ends it; what it has learned so far is kept
  SIGHUP           reads the configuration again")]
pub(crate) struct AgentArgs {
    /// Learn, and warm nothing
    #[arg(long)]
    pub(crate) observe_only: bool,
    /// Draw a line of what is going on, twice a second
    #[arg(long)]
    pub(crate) live: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0    the comparison was made
  1    it was not
  2    the command line is wrong
  126  CMD can't be executed
  127  CMD is not there")]
pub(crate) struct CompareArgs {
    /// Rounds to count; one more is run first and not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Profile to use; without it, one is recorded first and thrown away
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Learn the run that is recorded where no profile is named page by page
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Exact::Auto, conflicts_with = "profile")]
    pub(crate) exact: Exact,
    /// Leave out pages that were never certainly used
    #[arg(long)]
    pub(crate) no_maybe: bool,
    /// Draw the result into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ObserveArgs {
    /// Stop after this long [default: until interrupted]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    #[command(subcommand)]
    pub(crate) command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// List profiles
    Ls,
    /// Show what a profile holds
    Show {
        /// Profile
        name: String,
    },
    /// Write a profile to a file
    Export {
        /// Profile
        name: String,
        /// File to write; `-` for standard output
        file: PathBuf,
    },
    /// Take a profile from a file
    Import {
        /// File to read; `-` for standard input
        file: PathBuf,
        /// Name to give it [default: the name it was exported under]
        #[arg(long = "as", value_name = "NAME")]
        rename: Option<String>,
    },
    /// Merge profiles into one
    Merge {
        /// Profile to merge into; made if it does not exist
        name: String,
        /// Profiles to merge, which stay
        #[arg(required = true)]
        from: Vec<String>,
    },
    /// Remove a profile
    Rm {
        /// Profile
        name: String,
    },
    /// Show how two profiles differ
    Diff {
        /// One
        left: String,
        /// The other
        right: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Its key, or its name where that is the name of one only
    pub(crate) workload: String,
}

#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// Its key, or its name where that is the name of one only
    pub(crate) workload: String,
    /// Wait until it is warmed, and tell what came of it
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SysdumpArgs {
    /// File to write; `-` for standard output [default: headstart-sysdump-TIME.tar]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Leave paths as they are
    #[arg(long)]
    pub(crate) with_paths: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0  this machine records and warms
  1  it warms only: something that recording needs is missing
  2  it can do neither")]
pub(crate) struct DoctorArgs {
    /// Only the kernel hooks: which attach, and why the others do not
    #[arg(long)]
    pub(crate) hooks: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory to write them to
    pub(crate) dir: PathBuf,
}

/// `10s`, `500ms`, `2m`, `1h`, or seconds without a unit.
pub(crate) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit `{other}`: use ms, s, m or h")),
    };
    std::time::Duration::try_from_secs_f64(number * factor).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(
            parse_duration("500ms"),
            Ok(std::time::Duration::from_millis(500))
        );
        assert_eq!(
            parse_duration("2m"),
            Ok(std::time::Duration::from_secs(120))
        );
        assert!(parse_duration("soon").is_err());
    }
}
