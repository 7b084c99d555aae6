//! `cargo xtask test`: everything that a change must pass, in stages. The first
//! that fails ends it. The tests come last, so that what their runner prints at
//! its end is the end.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::packages::{self, DOCKER, PROMETHEUS, TESTS};
use crate::run::{self, Stages};
use crate::workspace::{Workspace, is_root};
use crate::{build, deny, fuzz, load, sanitize, tidy, vm};

/// `cargo xtask test`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Install nothing, build no probes and no documentation, watch nothing unsafe, boot
    /// no other kernels
    #[arg(long)]
    quick: bool,
}

/// Runs the stages. Failed tests are no error but an exit code: their runner has
/// said all there is to say.
pub fn run(args: &Args) -> Result<ExitCode> {
    let here = Checks {
        workspace: Workspace::here(),
    };
    let mut stages = Stages::default();
    stages.stage("format", || here.format())?;
    stages.stage("tidy", tidy::run)?;
    if args.quick {
        println!(
            "--quick: packages, probes, documentation and its tests, dependencies, fuzz targets, \
             sanitizers and other kernels are skipped"
        );
        stages.stage("clippy", || here.clippy())?;
    } else {
        stages.stage("packages", || {
            install_packages();
            Ok(())
        })?;
        let object = build::probes(&here.workspace, &mut stages)?;
        stages.stage("clippy", || here.clippy())?;
        stages.stage("documentation", || here.documentation())?;
        let built = stages.stage("building tests", || {
            build::tests(&here.workspace, &build::ALL_TESTS, None)
        })?;
        // Tests of its image take it.
        stages.stage("static agent", || {
            build::static_agent(&here.workspace, &object)
        })?;
        stages.stage("machine", || {
            prepare_machine();
            let agent = built.programs.get("headstart").context("no agent")?;
            look_at_machine(Command::new(agent).args(["doctor", "--json"]))
        })?;
        stages.stage("documentation tests", || here.documentation_tests())?;
        stages.stage("dependencies", deny::check)?;
        stages.stage("fuzz targets", fuzz::briefly)?;
        stages.stage("AddressSanitizer", sanitize::address)?;
        stages.stage("Miri", sanitize::miri)?;
        stages.stage("other kernels", vm::stage)?;
    }
    println!("{}", stages.summary());
    println!("==> tests");
    here.tests()
}

/// Commands over the workspace.
struct Checks {
    workspace: Workspace,
}

impl Checks {
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.workspace.root);
        command
    }

    /// The same for the probes, which are a workspace of their own.
    fn probes_cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.cargo(arguments);
        command
            .arg("--manifest-path")
            .arg(self.workspace.probes_manifest());
        command
    }

    fn format(&self) -> Result<()> {
        run::run_merged(&mut self.cargo(&["fmt", "--all", "--check"]))?;
        run::run_merged(&mut self.probes_cargo(&["fmt", "--check"]))?;
        let mut fuzz = self.cargo(&["fmt", "--check", "--manifest-path"]);
        run::run_merged(fuzz.arg("tests/fuzz/Cargo.toml"))
    }

    fn clippy(&self) -> Result<()> {
        let lint = [
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        run::run_merged(&mut self.cargo(&lint))?;
        // For the host: the compiler that builds them need not bring clippy, and
        // their code is the same. No tests: those would want std.
        let mut probes = self.probes_cargo(&["clippy", "--locked", "--bins"]);
        probes
            .arg("--target-dir")
            .arg(self.workspace.target.join("bpf-lint"));
        run::run_merged(probes.args(["--", "-D", "warnings"]))
    }

    fn documentation(&self) -> Result<()> {
        let mut doc = self.cargo(&["doc", "--locked", "--workspace", "--no-deps"]);
        run::run_merged(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
    }

    fn documentation_tests(&self) -> Result<()> {
        run::run_merged(&mut self.cargo(&["test", "--locked", "--workspace", "--doc"]))
    }

    fn tests(&self) -> Result<ExitCode> {
        let nextest = run::quiet_output(&mut self.cargo(&["nextest", "--version"])).is_some();
        let mut tests = if nextest {
            let mut tests = self.cargo(&["nextest", "run", "--locked", "--no-fail-fast"]);
            tests.args(build::ALL_TESTS);
            tests
        } else {
            let mut tests = self.cargo(&["test", "--locked", "--no-fail-fast"]);
            tests.args(build::ALL_TESTS);
            // Nothing else keeps tests of the kernel's one page cache apart.
            tests.args(["--", "--test-threads=1"]);
            tests
        };
        let image = self.workspace.target.join(build::IMAGE);
        if image.exists() {
            tests.env("HEADSTART_IMAGE", image);
        }
        let passed = run::succeeds_merged(&mut tests)?;
        Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Tests skip themselves where a program is not there; that is said here, once.
fn install_packages() {
    let missing = packages::missing(TESTS);
    if let Err(error) = packages::install(&missing) {
        println!("SKIPPED: {error:#}");
    }
    for package in [&PROMETHEUS, &DOCKER] {
        if let Err(error) = packages::unpack(package) {
            println!("SKIPPED: tests that need {}: {error:#}", package.name);
        }
    }
    for package in packages::missing(TESTS) {
        println!(
            "SKIPPED: tests that need {}: {}",
            package.name, package.reason
        );
    }
}

fn prepare_machine() {
    if !is_root() {
        println!("SKIPPED: tests that load probes, drop caches or make cgroups: not root");
        return;
    }
    load::mount_all();
}

/// Says which parts of the kernel the tests will miss.
fn look_at_machine(doctor: &mut Command) -> Result<()> {
    // Its exit status is its verdict, not its success.
    let output = doctor.output().context("starting `headstart doctor`")?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .context("reading what `headstart doctor --json` printed")?;
    let Some(checks) = report["checks"].as_array() else {
        bail!("`headstart doctor --json` printed no checks");
    };
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("?").to_owned();
    for row in checks.iter().filter(|row| row["status"] != "ok") {
        println!(
            "{} {}: {}",
            text(row, "status"),
            text(row, "name"),
            text(row, "found")
        );
    }
    if report["verdict"]["records"] != true {
        println!("SKIPPED: tests that record: this machine can't");
    }
    Ok(())
}
