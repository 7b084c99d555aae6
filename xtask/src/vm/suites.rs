//! Which tests a guest runs, and what they need of it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::job::{Job, Suite};
use crate::build;
use crate::run::Stages;
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
    "dm_mod",
    "dm_delay",
    "dm_flakey",
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
    "touch",
    "awk",
    "setpriv",
    "findmnt",
    "mount",
    "umount",
    "unshare",
    "losetup",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "mkfs.erofs",
    "fio",
    "btrfs",
    "dmsetup",
];

/// Files that those read.
pub const FILES: &[&str] = &["/etc/mke2fs.conf", "/etc/passwd", "/etc/group"];

/// A suite and which of its tests run in every guest: together they take minutes in
/// an emulated machine. `--test` chooses among all.
#[derive(Clone, Copy)]
struct Chosen {
    suite: &'static str,
    /// See [`Suite::variant`]: hooks of this kind only, where it is not empty.
    hooks: &'static str,
    /// The kernel that it is for; all where there is none.
    kernel: Option<&'static str>,
    only: &'static [&'static str],
    /// Kernels, and tests that are left out on them.
    without: &'static [(&'static str, &'static str)],
}

const TRUTH: Chosen = Chosen {
    suite: "kernel_truth",
    hooks: "",
    kernel: None,
    only: &[
        "hooks::",
        "reads::on_ext4",
        "reads::on_xfs",
        "maps::on_ext4",
        "exec::a_cold_program",
        "names::every_call",
        "others::",
        "narrow::",
    ],
    // A fault there maps more of a large folio than its page, and 96 % of what is mapped
    // hot is seen.
    without: &[("newest", "narrow::nearly_all")],
};

/// Hooks of older kernels on one that has them all: what is seen through each can be
/// compared there.
const OTHER_HOOKS: Chosen = Chosen {
    kernel: Some("6.12"),
    only: &["hooks::", "reads::on_ext4", "maps::on_ext4", "others::"],
    ..TRUTH
};

const CHOSEN: &[Chosen] = &[
    TRUTH,
    Chosen {
        hooks: "fentry",
        ..OTHER_HOOKS
    },
    Chosen {
        hooks: "kprobe",
        ..OTHER_HOOKS
    },
    Chosen {
        suite: "kernel_warm",
        only: &[
            "exactly_the_planned",
            "partly_resident",
            "names_of_every_kind",
            "a_second_look",
            "a_volume_is_found",
            "overlay_files",
        ],
        ..TRUTH
    },
    Chosen {
        suite: "kernel_commands",
        kernel: Some("6.12"),
        only: &["devices::"],
        ..TRUTH
    },
];

/// What the suites take for [`Chosen::hooks`].
const HOOKS: &str = "HEADSTART_TRUTH_HOOKS";

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "quick";

/// What was built for guests.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    /// The first process.
    pub init: PathBuf,
    /// Test binaries by name.
    pub tests: BTreeMap<String, PathBuf>,
    /// What the tests start as programs of ours, at the paths where they look for it.
    pub programs: Vec<PathBuf>,
    scratch: PathBuf,
}

/// Builds init and the suites, statically linked: a guest has no libraries to match.
pub fn build(workspace: &Workspace) -> Result<Binaries> {
    let probes = match env::var_os("HEADSTART_PROBES") {
        Some(object) => PathBuf::from(object),
        None => build::probes(workspace, &mut Stages::default())?,
    };
    let init = cargo(
        workspace,
        &probes,
        "build",
        &["--package", "xtask", "--bin", "vm-init"],
    )?;
    let mut arguments = vec!["--no-run", "--package", "headstart"];
    let suites: BTreeSet<&str> = CHOSEN.iter().map(|chosen| chosen.suite).collect();
    arguments.extend(suites.into_iter().flat_map(|suite| ["--test", suite]));
    let init = init.into_iter().next().context("no init was built")?.1;
    let made = cargo(workspace, &probes, "test", &arguments)?;
    // Beside the tests cargo builds the programs that they may start.
    let (tests, programs): (Vec<_>, Vec<_>) = made
        .into_iter()
        .partition(|(_, file)| file.to_string_lossy().contains("/deps/"));
    Ok(Binaries {
        init,
        tests: tests.into_iter().collect(),
        programs: programs.into_iter().map(|(_, file)| file).collect(),
        scratch: workspace.target.join(TARGET).join("tmp"),
    })
}

/// Runs cargo for guests; the executables that it made, with their names.
fn cargo(
    workspace: &Workspace,
    probes: &Path,
    command: &str,
    arguments: &[&str],
) -> Result<Vec<(String, PathBuf)>> {
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
        .env("HEADSTART_PROBES", probes)
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("building for virtual machines: {}", output.status);
    }
    let mut made = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(file)) = (name, message["executable"].as_str()) {
            made.push((name.to_owned(), file.into()));
        }
    }
    Ok(made)
}

/// What a guest with this kernel does: the chosen tests, or all whose names contain
/// one of `tests`.
pub fn job(binaries: &Binaries, kernel: &str, tests: &[String]) -> Job {
    let chosen = CHOSEN
        .iter()
        .filter(|chosen| chosen.kernel.is_none_or(|wanted| wanted == kernel));
    Job {
        scratch: binaries.scratch.clone(),
        suites: chosen.map(|chosen| chosen.suite(kernel, tests)).collect(),
    }
}

impl Chosen {
    fn suite(&self, kernel: &str, tests: &[String]) -> Suite {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        // What is asked for by name is run, wherever.
        let all = tests.is_empty();
        let here = self.without.iter().filter(|(on, _)| *on == kernel);
        let without: Vec<&str> = here.map(|(_, test)| *test).collect();
        let environment = match self.hooks {
            "" => Vec::new(),
            hooks => vec![(HOOKS.to_owned(), hooks.to_owned())],
        };
        Suite {
            name: self.suite.to_owned(),
            variant: self.hooks.to_owned(),
            environment,
            program: format!("/vm/bin/{}", self.suite).into(),
            only: if all {
                words(self.only)
            } else {
                tests.to_vec()
            },
            without: if all { words(&without) } else { Vec::new() },
            seconds: 120,
        }
    }
}
