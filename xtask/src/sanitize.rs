//! Unsafe code, watched: Miri where it can go, AddressSanitizer where system
//! calls are made.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::workspace::{Workspace, cache_dir, on_path};

/// What libFuzzer adds to the coverage that it is guided by.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Leaves out the tests, and with them the dependencies, that such a build does without.
const INSTRUMENTED: [&str; 2] = ["--cfg", "headstart_instrumented"];

/// The cargo profile, and the directory below the target directory.
const PROFILE: &str = "instrumented";

/// A compiler that brings AddressSanitizer's runtime, as rustup's do. The flag for
/// it is unstable, which `RUSTC_BOOTSTRAP=1` makes a stable compiler accept.
#[derive(Debug)]
pub struct Instrumented {
    /// What it builds for. Named to cargo, so that build scripts stay as they are.
    pub triple: String,
}

impl Instrumented {
    /// `None`, and said why, where there is none.
    pub fn find() -> Option<Self> {
        let found = Self::look();
        if found.is_none() {
            println!(
                "SKIPPED: AddressSanitizer and fuzz targets: `rustc` has no AddressSanitizer; \
                 a toolchain of rustup has"
            );
        }
        found
    }

    fn look() -> Option<Self> {
        let version = run::quiet_output(Command::new("rustc").arg("-vV"))?;
        let triple = version.lines().find_map(|l| l.strip_prefix("host: "))?;
        let libraries = run::quiet_output(Command::new("rustc").args(["--print", "target-libdir"]));
        std::fs::read_dir(libraries?)
            .ok()?
            .flatten()
            .any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"))
            .then(|| Self {
                triple: triple.to_owned(),
            })
    }

    /// `cargo COMMAND` with AddressSanitizer, and with the coverage that libFuzzer is guided
    /// by. All that is so built is in one place: dependencies are the same for all.
    pub fn cargo(&self, command: &str, workspace: &Workspace) -> Command {
        let mut flags = vec!["-Zsanitizer=address"];
        flags.extend(COVERAGE);
        flags.extend(INSTRUMENTED);
        let mut cargo = Command::new("cargo");
        cargo
            .args([command, "--locked", "--target", &self.triple])
            .args(["--profile", PROFILE, "--target-dir"])
            .arg(workspace.target.join(PROFILE))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTFLAGS");
        cargo
    }

    /// Where programs are that it built.
    pub fn built(&self, workspace: &Workspace) -> PathBuf {
        let target = workspace.target.join(PROFILE);
        target.join(&self.triple).join(PROFILE)
    }
}

/// Modules with unsafe code, most of it system calls.
const UNSAFE: [&str; 5] = ["attribute::volume", "cli::doctor", "probe", "run", "warm"];

/// The unit tests of modules with unsafe code under AddressSanitizer.
pub fn address() -> Result<()> {
    let Some(compiler) = Instrumented::find() else {
        return Ok(());
    };
    let workspace = Workspace::here();
    let mut tests = compiler.cargo("test", &workspace);
    tests
        .args(["--package", "headstart", "--lib"])
        .args(["--", "--quiet", "--test-threads=1"])
        .args(UNSAFE)
        .current_dir(&workspace.root);
    run::run_merged(&mut tests)
}

/// The nightly that is installed where no toolchain has Miri. Any would do; a
/// newer one may find more.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Tests of the unsafe code that makes no system calls, for Miri knows none of
/// ours: decoding what the kernel sends and maps.
const PURE: [&str; 2] = ["probe::btf", "probe::decode"];

/// Those without system calls under Miri.
pub fn miri() -> Result<()> {
    let toolchain = match Miri::ensure() {
        Ok(toolchain) => toolchain,
        Err(error) => {
            println!("SKIPPED: Miri: {error:#}");
            return Ok(());
        }
    };
    let workspace = Workspace::here();
    let mut tests = toolchain.cargo();
    tests
        .args(["miri", "test", "--locked", "--package", "headstart"])
        .args(["--lib", "--target-dir"])
        .arg(workspace.target.join("miri"))
        .args(["--", "--quiet"])
        .args(PURE)
        .env("RUSTFLAGS", INSTRUMENTED.join(" "))
        // proptest asks for the current directory and for chance.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        // Some hundred times slower than usual: a few cases of each property.
        .env("PROPTEST_CASES", "4")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .current_dir(&workspace.root);
    run::run_merged(&mut tests)
}

/// A nightly toolchain with Miri.
struct Miri {
    name: String,
    /// rustup's directory, where it is not the user's.
    home: Option<PathBuf>,
}

impl Miri {
    /// One of the user's, one installed before, or one installed now: beside
    /// the user's toolchains, not among them.
    fn ensure() -> Result<Self> {
        on_path("rustup").context("there is no rustup to install it with")?;
        let own = |name: &str| Self {
            name: name.to_owned(),
            home: None,
        };
        let cached = Self {
            name: NIGHTLY.to_owned(),
            home: Some(cache_dir().join("rustup")),
        };
        if let Some(found) = [own("nightly"), own(NIGHTLY)].into_iter().find(Self::works) {
            return Ok(found);
        }
        if !cached.works() {
            println!(
                "installing {NIGHTLY} with Miri into {}",
                cache_dir().display()
            );
            let mut install = cached.rustup();
            install
                .args(["toolchain", "install", NIGHTLY, "--no-self-update"])
                .args(["--profile", "minimal"])
                .args(["--component", "miri", "--component", "rust-src"]);
            run::run_merged(&mut install)?;
        }
        Ok(cached)
    }

    fn rustup(&self) -> Command {
        let mut rustup = Command::new("rustup");
        if let Some(home) = &self.home {
            rustup.env("RUSTUP_HOME", home);
        }
        // What an outer cargo set is about another compiler.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTFLAGS"] {
            rustup.env_remove(name);
        }
        rustup
    }

    fn cargo(&self) -> Command {
        let mut cargo = self.rustup();
        cargo.args(["run", &self.name, "cargo"]);
        cargo
    }

    fn works(&self) -> bool {
        let miri = run::quiet_output(self.cargo().args(["miri", "--version"]));
        let sysroot = run::quiet_output(
            self.rustup()
                .args(["run", &self.name, "rustc", "--print", "sysroot"]),
        );
        // It builds its own standard library.
        let source = "lib/rustlib/src/rust/library/std/src/lib.rs";
        miri.is_some() && sysroot.is_some_and(|root| PathBuf::from(root).join(source).exists())
    }
}
