//! Which tests a guest runs, and what they need of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::job::{Job, Suite};
use crate::workspace::Workspace;

/// Modules that a guest loads where its kernel has them as such.
pub const MODULE_NAMES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "xfs",
    "btrfs",
    "erofs",
    "overlay",
    "loop",
];

/// Programs of this machine that the tests start.
pub const PROGRAMS: &[&str] = &[
    "sh",
    "env",
    "cat",
    "cp",
    "ls",
    "true",
    "sleep",
    "mount",
    "umount",
    "losetup",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "mkfs.erofs",
    "fio",
    "btrfs",
];

/// Files that those read.
pub const FILES: &[&str] = &["/etc/mke2fs.conf", "/etc/passwd", "/etc/group"];

/// A suite and which of its tests run in every guest: together they take minutes in
/// an emulated machine. `--test` chooses among all.
struct Chosen {
    suite: &'static str,
    only: &'static [&'static str],
    without: &'static [&'static str],
}

const CHOSEN: &[Chosen] = &[Chosen {
    suite: "kernel_truth",
    only: &["others::neither", "hooks::"],
    without: &[],
}];

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "quick";

/// What was built for guests.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    /// The first process.
    pub init: PathBuf,
    /// Test binaries by name.
    pub tests: BTreeMap<String, PathBuf>,
    scratch: PathBuf,
}

/// Builds init and the suites, statically linked: a guest has no libraries to match.
pub fn build(workspace: &Workspace) -> Result<Binaries> {
    let init = cargo(
        workspace,
        "build",
        &["--package", "xtask", "--bin", "vm-init"],
    )?;
    let mut arguments = vec!["--no-run", "--package", "headstart"];
    arguments.extend(CHOSEN.iter().flat_map(|chosen| ["--test", chosen.suite]));
    let init = init.into_values().next().context("no init was built")?;
    Ok(Binaries {
        init,
        tests: cargo(workspace, "test", &arguments)?,
        scratch: workspace.target.join(TARGET).join("tmp"),
    })
}

/// Runs cargo for guests; the executables that it made, by name.
fn cargo(
    workspace: &Workspace,
    command: &str,
    arguments: &[&str],
) -> Result<BTreeMap<String, PathBuf>> {
    let output = Command::new("cargo")
        .args([
            command,
            "--locked",
            "--target",
            TARGET,
            "--profile",
            PROFILE,
        ])
        .arg("--message-format=json-render-diagnostics")
        .args(arguments)
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-Ctarget-feature=+crt-static",
        )
        .env("HEADSTART_PROBES", probes(workspace)?)
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("building for virtual machines: {}", output.status);
    }
    let mut made = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(file)) = (name, message["executable"].as_str()) {
            made.insert(name.to_owned(), file.into());
        }
    }
    // Beside the tests cargo builds the programs that they may start.
    made.retain(|_, file: &mut PathBuf| {
        command == "build" || file.to_string_lossy().contains("/deps/")
    });
    Ok(made)
}

/// The object that the tests are built with.
fn probes(workspace: &Workspace) -> Result<PathBuf> {
    let object = std::env::var_os("HEADSTART_PROBES").map(PathBuf::from);
    let object = object.unwrap_or_else(|| workspace.probes_object());
    if !object.exists() {
        bail!(
            "no probes in {}: `cargo xtask build` first",
            object.display()
        );
    }
    Ok(object)
}

/// What one guest does: the chosen tests, or all whose names contain `test`.
pub fn job(binaries: &Binaries, test: Option<&str>) -> Job {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let suites = CHOSEN.iter().map(|chosen| Suite {
        name: chosen.suite.to_owned(),
        program: format!("/vm/bin/{}", chosen.suite).into(),
        only: test.map_or_else(|| words(chosen.only), |test| vec![test.to_owned()]),
        without: test.map_or_else(|| words(chosen.without), |_| Vec::new()),
        seconds: 180,
    });
    Job {
        scratch: binaries.scratch.clone(),
        suites: suites.collect(),
    }
}
