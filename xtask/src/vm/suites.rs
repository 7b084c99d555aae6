//! Which tests a guest runs, and what they need of it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::arch::Arch;
use super::debian;
use super::job::{Cgroups, Job, Suite};
use super::kernel::{KERNELS, Kernel};
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
    "null_blk",
];

/// Programs that the tests start: this machine's, or those of packages.
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
    "dd",
    "rmdir",
    "mkdir",
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
    "ip",
    "tc",
    "nsenter",
];

/// Files that those read.
pub const FILES: &[&str] = &["/etc/mke2fs.conf", "/etc/passwd", "/etc/group"];

/// A machine that a kernel boots as.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What is different, in a word; empty for the usual one.
    pub name: &'static str,
    /// Kernel parameters.
    pub parameters: &'static str,
    /// Modules that it loads beside [`MODULE_NAMES`].
    pub modules: &'static [&'static str],
    /// Which control groups it mounts.
    cgroups: Cgroups,
    /// What its root is made of.
    pub root: Root,
}

/// What a guest's root is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Programs of this machine, and nothing that runs by itself.
    Programs,
    /// Packages of this suite of the distribution, with systemd.
    Distribution(&'static str),
}

impl Setup {
    /// What is on the guest's disk before it boots.
    pub fn disk(&self) -> Result<Option<PathBuf>> {
        Ok(match self.root {
            Root::Programs => None,
            Root::Distribution(suite) => Some(debian::root(suite).context("a root with systemd")?),
        })
    }
}

/// All of them, the usual one first.
pub const SETUPS: &[Setup] = &[
    USUAL,
    INTEGRITY,
    CONFIDENTIALITY,
    V1_ONLY,
    NFS,
    SYSTEMD,
    SYSTEMD_252,
];

const USUAL: Setup = Setup {
    name: "",
    parameters: "cgroup_no_v1=all",
    modules: &[],
    cgroups: Cgroups::V2,
    root: Root::Programs,
};

const INTEGRITY: Setup = Setup {
    name: "lockdown=integrity",
    parameters: "cgroup_no_v1=all lockdown=integrity",
    ..USUAL
};

const CONFIDENTIALITY: Setup = Setup {
    name: "lockdown=confidentiality",
    parameters: "cgroup_no_v1=all lockdown=confidentiality",
    ..USUAL
};

const V1_ONLY: Setup = Setup {
    name: "cgroup v1",
    parameters: "",
    cgroups: Cgroups::V1,
    ..USUAL
};

const NFS: Setup = Setup {
    name: "nfs",
    modules: &["nfsd", "nfsv4", "cachefiles", "veth", "sch_netem"],
    ..USUAL
};

const SYSTEMD: Setup = Setup {
    name: "systemd",
    parameters: debian::PARAMETERS,
    root: Root::Distribution("trixie"),
    ..USUAL
};

/// As older distributions have it.
const SYSTEMD_252: Setup = Setup {
    name: "systemd 252",
    root: Root::Distribution("bookworm"),
    ..SYSTEMD
};

/// A suite and which of its tests run in every guest: together they take minutes in
/// an emulated machine. `--test` chooses among all.
#[derive(Clone, Copy)]
struct Chosen {
    suite: &'static str,
    setup: Setup,
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
    setup: USUAL,
    hooks: "",
    kernel: None,
    only: &[
        "hooks::",
        "places::",
        "reads::on_ext4",
        "reads::on_xfs",
        "maps::on_ext4",
        "exec::a_cold_program",
        "names::every_call",
        "others::",
        "narrow::",
    ],
    // A fault maps a large folio as a whole there: `record` finds that out, and traces
    // instead of narrowing.
    without: &[
        ("newest", "narrow::a_signal"),
        ("newest", "narrow::after_a_kill"),
        ("newest", "narrow::it_needs"),
        ("newest", "narrow::record_narrows"),
        ("newest", "narrow::what_somebody"),
    ],
};

/// The commands on machines that lack something; each takes minutes.
const DEGRADED: Chosen = Chosen {
    suite: "kernel_commands",
    kernel: Some("6.12"),
    without: &[],
    ..TRUTH
};

/// Hooks of older kernels on one that has them all: what is seen through each can be
/// compared there.
const OTHER_HOOKS: Chosen = Chosen {
    kernel: Some("6.12"),
    only: &["hooks::", "reads::on_ext4", "maps::on_ext4", "others::"],
    ..TRUTH
};

/// Hooks of every kind on a kernel that has them all, for what they cost.
const COST: Chosen = Chosen {
    kernel: Some("6.12"),
    only: &["cost::"],
    ..TRUTH
};

/// What is seen on another architecture: hooks are found by type and register there too.
const ARM64: Chosen = Chosen {
    kernel: Some("arm64"),
    without: &[],
    ..TRUTH
};

const CHOSEN: &[Chosen] = &[
    TRUTH,
    Chosen {
        only: &[
            "hooks::",
            "places::",
            "reads::on_ext4",
            "maps::on_ext4",
            "exec::a_cold_program",
            "names::every_call",
            "others::",
            "narrow::nearly_all",
        ],
        ..ARM64
    },
    Chosen {
        suite: "kernel_warm",
        only: &["exactly_the_planned", "partly_resident"],
        ..ARM64
    },
    COST,
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
            "who_uses_another_disk",
        ],
        ..TRUTH
    },
    Chosen {
        suite: "kernel_agent",
        only: &[
            "units::a_unit_is_learned",
            "life::it_ends",
            "charge::",
            "narrow::",
            "clock::",
        ],
        // As above.
        without: &[("newest", "narrow::")],
        ..TRUTH
    },
    Chosen {
        only: &["devices::", "memory::"],
        ..DEGRADED
    },
    Chosen {
        setup: INTEGRITY,
        only: &["lockdown::under_integrity"],
        ..DEGRADED
    },
    Chosen {
        setup: CONFIDENTIALITY,
        only: &["lockdown::under_confidentiality"],
        ..DEGRADED
    },
    Chosen {
        setup: V1_ONLY,
        // Newer ones lack the memory controller there.
        kernel: Some("6.1"),
        only: &["cgroups::with_version_1"],
        ..DEGRADED
    },
    Chosen {
        setup: NFS,
        only: &["nfs::"],
        ..DEGRADED
    },
    Chosen {
        suite: "kernel_systemd",
        setup: SYSTEMD,
        only: &["life::", "service::", "units::"],
        ..DEGRADED
    },
    Chosen {
        suite: "kernel_systemd",
        setup: SYSTEMD_252,
        kernel: Some("6.1"),
        only: &["units::a_service_is_warm"],
        ..DEGRADED
    },
];

/// What the suites take for [`Chosen::hooks`].
const HOOKS: &str = "HEADSTART_TRUTH_HOOKS";

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

/// Builds init and the suites for kernels of an architecture. Where that is this machine's
/// they are the same binaries, whose libraries they bring along.
pub fn build(workspace: &Workspace, arch: &Arch) -> Result<Binaries> {
    arch.ensure_target()?;
    if env::var_os("HEADSTART_PROBES").is_none() {
        build::probes(workspace, &mut Stages::default())?;
    }
    let is_of = |kernel: &&Kernel| kernel.arch == arch;
    let chosen = KERNELS.iter().filter(is_of).flat_map(|kernel| {
        CHOSEN
            .iter()
            .filter(move |chosen| chosen.is_for(kernel.name, &[]))
    });
    let suites: BTreeSet<&str> = chosen.map(|chosen| chosen.suite).collect();
    let mut select = vec!["--package", "headstart"];
    select.extend(suites.iter().flat_map(|suite| ["--test", suite]));
    let mut made = build::tests(workspace, &select, arch.target)?;
    made.suites.retain(|name, _| suites.contains(name.as_str()));
    let mut program = |name| {
        let file = made.programs.remove(name);
        file.with_context(|| format!("no {name} was built"))
    };
    Ok(Binaries {
        init: build::static_program(workspace, "xtask", "vm-init", arch.target)?,
        programs: vec![program("headstart")?],
        tests: made.suites,
        scratch: workspace
            .target
            .join(arch.target.unwrap_or_default())
            .join("tmp"),
    })
}

/// What a guest with this kernel and setup does: the chosen tests, or all whose names
/// contain one of `tests`. In any setup but the usual one they are of the chosen ones
/// too.
pub fn job(binaries: &Binaries, kernel: &str, setup: &Setup, tests: &[String]) -> Job {
    let chosen = CHOSEN
        .iter()
        .filter(|chosen| chosen.setup.name == setup.name)
        .filter(|chosen| chosen.is_for(kernel, tests) && chosen.has_any(tests));
    let mut suites: Vec<Suite> = chosen.map(|chosen| chosen.suite(kernel, tests)).collect();
    // Rows of one suite differ by what they choose.
    suites.dedup();
    Job {
        scratch: binaries.scratch.clone(),
        cgroups: setup.cgroups,
        init: matches!(setup.root, Root::Distribution(_)).then(|| debian::INIT.into()),
        suites,
    }
}

impl Chosen {
    fn is_for(&self, kernel: &str, tests: &[String]) -> bool {
        // It has none but its own.
        if kernel == "arm64" {
            return self.kernel == Some(kernel);
        }
        let asked_for = !self.setup.name.is_empty() && !tests.is_empty();
        asked_for || self.kernel.is_none_or(|wanted| wanted == kernel)
    }

    /// Whether it is worth a guest: names of tests are not known yet.
    fn has_any(&self, tests: &[String]) -> bool {
        let related = |test: &String, module: &str| test.contains(module) || module.contains(test);
        let mut only = self.only.iter();
        self.setup.name.is_empty()
            || tests.is_empty()
            || only.any(|module| tests.iter().any(|test| related(test, module)))
    }

    fn suite(&self, kernel: &str, tests: &[String]) -> Suite {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        // What is asked for by name is run, wherever.
        let all = tests.is_empty();
        let usual = self.setup.name.is_empty();
        let here = self.without.iter().filter(|(on, _)| *on == kernel);
        let without: Vec<&str> = here.map(|(_, test)| *test).collect();
        let environment = match self.hooks {
            "" => Vec::new(),
            hooks => vec![(HOOKS.to_owned(), hooks.to_owned())],
        };
        let variant = if usual { self.hooks } else { self.setup.name };
        Suite {
            name: self.suite.to_owned(),
            variant: variant.to_owned(),
            environment,
            program: format!("/vm/bin/{}", self.suite).into(),
            only: if all || !usual {
                words(self.only)
            } else {
                tests.to_vec()
            },
            among: if usual { Vec::new() } else { tests.to_vec() },
            without: if all { words(&without) } else { Vec::new() },
            seconds: 240,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_is_booted_for_its_own_tests_only() {
        let suites = |setup: &Setup, tests: &[&str]| {
            let tests: Vec<String> = tests.iter().map(|&test| test.to_owned()).collect();
            job(&Binaries::default(), "6.1", setup, &tests).suites
        };
        assert!(suites(&INTEGRITY, &["reads::"]).is_empty());
        for asked in ["lockdown", "lockdown::under_integrity_x"] {
            let [suite] = &suites(&INTEGRITY, &[asked])[..] else {
                panic!("not one suite for {asked}");
            };
            assert_eq!(suite.variant, INTEGRITY.name);
            assert!(suite.has("lockdown::under_integrity_x"));
            assert!(!suite.has("lockdown::under_confidentiality_x"));
        }
        assert!(suites(&INTEGRITY, &[]).is_empty(), "6.12 has them");
        let usual = suites(&USUAL, &[]);
        assert!(
            usual.iter().all(|suite| !suite.has("lockdown::x")),
            "{usual:?}"
        );
        let mut named = suites(&USUAL, &["lockdown"]);
        assert!(named.pop().is_some_and(|suite| suite.has("lockdown::x")));
    }
}
