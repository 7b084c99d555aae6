//! Finds, or installs, what builds the probes: a compiler with the source of
//! `core`, and bpf-linker. Other tools of the registry come the same way.
//!
//! Rust has no precompiled `core` for the BPF target, and building it is an
//! unstable feature of cargo. A rustup toolchain with the component rust-src
//! does, and so do Debian's packages, whose stable compiler is told by
//! `RUSTC_BOOTSTRAP=1` to accept unstable features.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use crate::packages::{self, BPF_TOOLCHAIN, LLVM};
use crate::run;
use crate::workspace::{cache_dir, on_path};

/// The version that reads what the compilers at hand write.
const BPF_LINKER: &str = "0.13.0";
/// The first that knows the edition of the probes.
const OLDEST_RUSTC: (u32, u32) = (1, 85);
/// Where Debian's packages put the compiler.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
const DISTRIBUTION_CARGO: &str = "/usr/bin/cargo";
/// Where Debian's packages put LLVM: bpf-linker's build looks elsewhere by itself.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// A compiler that can build `core`.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// For people.
    pub name: String,
    cargo: PathBuf,
    rustc: PathBuf,
}

/// All that building the probes takes.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker.
    pub bpf_linker: PathBuf,
}

impl Toolchain {
    /// Finds a toolchain, or installs one.
    pub fn ensure() -> Result<Self> {
        let compiler = match Compiler::find() {
            Some(compiler) => compiler,
            None => Compiler::install()?,
        };
        Ok(Self {
            compiler,
            bpf_linker: ensure_bpf_linker()?,
        })
    }

    /// `cargo` of this toolchain, with bpf-linker on its path and unstable
    /// features allowed.
    pub fn cargo(&self) -> Result<Command> {
        let linker_dir = self
            .bpf_linker
            .parent()
            .context("bpf-linker lies in no directory")?;
        let mut path = vec![linker_dir.to_owned()];
        if let Some(old) = std::env::var_os("PATH") {
            path.extend(std::env::split_paths(&old));
        }
        let mut command = Command::new(&self.compiler.cargo);
        command
            .env("PATH", std::env::join_paths(path)?)
            .env("RUSTC", &self.compiler.rustc)
            .env("RUSTC_BOOTSTRAP", "1");
        // What an outer cargo or rustup set is about another compiler.
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
        ] {
            command.env_remove(name);
        }
        Ok(command)
    }
}

impl Compiler {
    /// A rustup toolchain with rust-src (nightlies first), else the distribution's.
    pub fn find() -> Option<Self> {
        Self::from_rustup().or_else(Self::from_distribution)
    }

    fn from_rustup() -> Option<Self> {
        let list = run::quiet_output(Command::new("rustup").args(["toolchain", "list"]))?;
        rustup_names(&list).into_iter().find_map(|name| {
            let sysroot = run::quiet_output(
                Command::new("rustup").args(["run", &name, "rustc", "--print", "sysroot"]),
            )?;
            let bin = Path::new(&sysroot).join("bin");
            Self {
                name,
                cargo: bin.join("cargo"),
                rustc: bin.join("rustc"),
            }
            .usable()
        })
    }

    fn from_distribution() -> Option<Self> {
        Self {
            name: "the distribution's".to_owned(),
            cargo: DISTRIBUTION_CARGO.into(),
            rustc: DISTRIBUTION_RUSTC.into(),
        }
        .usable()
    }

    /// It has the source of `core`, and is new enough.
    fn usable(self) -> Option<Self> {
        let sysroot = run::quiet_output(Command::new(&self.rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        let version = run::quiet_output(Command::new(&self.rustc).arg("--version"))?;
        (core.exists() && self.cargo.exists() && parse_version(&version)? >= OLDEST_RUSTC)
            .then_some(self)
    }

    fn install() -> Result<Self> {
        packages::install(&packages::missing(BPF_TOOLCHAIN)).context(
            "no compiler with rust-src: run `rustup toolchain install nightly --component rust-src`, \
             or install rustc-web cargo-web rust-web-src rust-web-llvm",
        )?;
        Self::from_distribution()
            .context("the packages are installed, but /usr/bin/rustc still has no rust-src")
    }
}

/// Names from `rustup toolchain list`, nightlies first: they need no
/// `RUSTC_BOOTSTRAP`, and their users wanted unstable features.
fn rustup_names(list: &str) -> Vec<String> {
    let mut names: Vec<String> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
}

/// Major and minor from `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn ensure_bpf_linker() -> Result<PathBuf> {
    cached_tool("bpf-linker", BPF_LINKER, runs, |install| {
        packages::install(&packages::missing(LLVM)).context(
            "no bpf-linker: install llvm-22 and llvm-22-dev, or put a bpf-linker on PATH",
        )?;
        install
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM_PREFIX);
        Ok(())
    })
}

/// A program of the crate registry: the one on the path, the one built before, or
/// one built now, after `prepare` has completed `cargo install`'s command line.
pub fn cached_tool(
    name: &str,
    version: &str,
    works: impl Fn(&Path) -> bool,
    prepare: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<PathBuf> {
    let root = cache_dir().join(format!("{name}-{version}"));
    let built = root.join("bin").join(name);
    let find = || {
        let mut candidates = on_path(name).into_iter().chain([built.clone()]);
        candidates.find(|file| works(file))
    };
    if let Some(file) = find() {
        return Ok(file);
    }
    // Two builds at once would take each other's scratch directory away.
    let _turn = turn_of(name)?;
    if let Some(file) = find() {
        return Ok(file);
    }
    println!("building {name} {version} into {}", root.display());
    let scratch = cache_dir().join(format!("{name}-build"));
    let mut install = Command::new("cargo");
    install
        .args(["install", "--quiet", name, "--version", version, "--locked"])
        .arg("--root")
        .arg(&root)
        // The outer cargo's directory is for this workspace.
        .arg("--target-dir")
        .arg(&scratch);
    prepare(&mut install)?;
    run::run(&mut install)?;
    // Only room is lost if it stays.
    let _ = std::fs::remove_dir_all(&scratch);
    if !works(&built) {
        bail!("{} was built but does not run", built.display());
    }
    Ok(built)
}

/// Waits until no other process builds this tool; until the file is dropped none does.
fn turn_of(name: &str) -> Result<File> {
    let file = cache_dir().join(format!("{name}.lock"));
    let take = || {
        std::fs::create_dir_all(cache_dir())?;
        let turn = File::create(&file)?;
        rustix::fs::flock(&turn, FlockOperation::LockExclusive)?;
        Ok::<_, std::io::Error>(turn)
    };
    take().with_context(|| format!("locking {}", file.display()))
}

/// A linker whose LLVM has gone away since does not start.
fn runs(file: &Path) -> bool {
    file.exists() && run::quiet_output(Command::new(file).arg("--version")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from …)"),
            Some((1, 96))
        );
        assert_eq!(
            parse_version("rustc 1.98.0-nightly (0 2026-11-01)"),
            Some((1, 98))
        );
        assert_eq!(parse_version("rustc"), None);
    }

    #[test]
    fn nightlies_come_first() {
        let list =
            "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-x86_64-unknown-linux-gnu\n";
        let names = rustup_names(list);
        assert_eq!(
            names,
            [
                "nightly-x86_64-unknown-linux-gnu",
                "stable-x86_64-unknown-linux-gnu"
            ]
        );
    }
}
