//! `cargo xtask build-and-load`: from a checkout to a number, in one command.

pub mod sample;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::run::{self, Stages};
use crate::workspace::{Workspace, is_root};

/// `cargo xtask build-and-load`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop after the comparison
    #[arg(long)]
    once: bool,
    /// Where profiles are kept [default: state, in the target directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Builds, mounts, looks, compares, and goes on as the agent.
pub fn run(args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "loading probes needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask build-and-load`"
        );
    }
    let workspace = Workspace::here();
    let state_dir = match &args.state_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => workspace.target.join("state"),
    };
    let mut stages = Stages::default();
    let agent = build::build(&workspace, &mut stages, false)?;
    stages.stage("mounts", || {
        mount_all();
        Ok(())
    })?;
    let headstart = || {
        let mut command = Command::new(&agent);
        command.arg("--state-dir").arg(&state_dir);
        command
    };
    stages.stage("hooks", || {
        run::run(headstart().args(["doctor", "--hooks"]))
    })?;
    stages.stage("comparison", || {
        let sample = sample::choose(&workspace.target.join("sample"))?;
        println!("{}: {}", sample.name, sample.what);
        run::run(
            headstart()
                .args(["compare", "--rounds", "3", "--"])
                .args(&sample.command),
        )
    })?;
    println!("{}", stages.summary());
    if args.once {
        return Ok(());
    }
    println!("==> the agent, with a line of what it sees; Ctrl-C ends it");
    // In this process' place: an interrupt reaches it alone, and it ends in its
    // own time.
    let error = headstart().args(["agent", "--live"]).exec();
    Err(error).with_context(|| format!("starting {}", agent.display()))
}

/// Mounts tracefs and bpffs where they are not. People who look at probes want
/// them; the agent attaches without the one and pins nothing in the other, so what
/// can't be mounted is told in a line and left.
pub fn mount_all() {
    for (kind, point) in [("tracefs", "/sys/kernel/tracing"), ("bpf", "/sys/fs/bpf")] {
        match mount(kind, point) {
            Ok(what) => println!("{kind}: {what}"),
            Err(error) => println!("{kind}: not mounted, and not needed: {error:#}"),
        }
    }
}

/// Mounts a pseudo file system where it is not mounted yet; says where it is.
fn mount(kind: &str, point: &str) -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    if let Some(place) = mounted_at(&mounts, kind) {
        return Ok(format!("mounted at {place}"));
    }
    if !Path::new(point).exists() {
        bail!("{point} does not exist");
    }
    // What mount(8) says of a failure goes into one line with ours.
    let output = Command::new("mount")
        .args(["-t", kind, "nodev", point])
        .stdin(Stdio::null())
        .output()
        .context("starting mount")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}",
            said.lines().next().unwrap_or("mount says nothing").trim()
        );
    }
    Ok(format!("mounted now, at {point}"))
}

/// The mount point of the first file system of that type.
fn mounted_at<'a>(mounts: &'a str, kind: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let point = words.next()?;
        (words.next()? == kind).then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_type() {
        let mounts = "proc /proc proc rw 0 0\nnodev /sys/kernel/tracing tracefs rw 0 0\n";
        assert_eq!(mounted_at(mounts, "tracefs"), Some("/sys/kernel/tracing"));
        assert_eq!(mounted_at(mounts, "bpf"), None);
    }

    #[test]
    fn what_can_not_be_mounted_is_an_error_of_one_line() {
        for (kind, point) in [
            ("no-such-file-system", "/"),
            ("no-such-file-system", "/nonexistent/point"),
        ] {
            let error = mount(kind, point).expect_err("it can't be").to_string();
            assert!(
                error.contains(point) && error.lines().count() == 1,
                "{error}"
            );
        }
    }
}
