//! `cargo xtask build`: the probes, then the agent with the probes inside.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{self, Stages};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// Little-endian BPF, as every machine that the agent runs on has it.
const TARGET: &str = "bpfel-unknown-none";
/// The probes' types as BTF, which the kernel wants for maps and the agent for globals.
const RUSTFLAGS: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Where in the target directory what an image is made of lies.
pub const IMAGE: &str = "image";

/// `cargo xtask build`
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Build the agent without optimisation; the probes are always optimised
    #[arg(long)]
    pub debug: bool,
    /// Build an agent that needs no libraries, for an image: target/image/headstart
    #[arg(long = "static", conflicts_with = "debug")]
    pub without_libraries: bool,
}

/// Builds everything; the path of the agent.
pub fn run(args: &Args) -> Result<PathBuf> {
    let workspace = Workspace::here();
    let mut stages = Stages::default();
    let agent = if args.without_libraries {
        let object = probes(&workspace, &mut stages)?;
        stages.stage("static agent", || static_agent(&workspace, &object))?
    } else {
        build(&workspace, &mut stages, args.debug)?
    };
    println!("{}: built in {}", agent.display(), stages.summary());
    Ok(agent)
}

/// The stages of a build.
pub fn build(workspace: &Workspace, stages: &mut Stages, debug: bool) -> Result<PathBuf> {
    let object = probes(workspace, stages)?;
    stages.stage("agent", || agent(workspace, &object, debug))
}

/// The toolchain and the probes; the path of their object.
pub fn probes(workspace: &Workspace, stages: &mut Stages) -> Result<PathBuf> {
    let toolchain = stages.stage("BPF toolchain", || {
        let toolchain = Toolchain::ensure()?;
        println!(
            "compiler: {}, linker: {}",
            toolchain.compiler.name,
            toolchain.bpf_linker.display()
        );
        Ok(toolchain)
    })?;
    stages.stage("probes", || build_probes(workspace, &toolchain))
}

fn build_probes(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = workspace.target.join("bpf-build");
    run::run(
        toolchain
            .cargo()?
            .args([
                "build",
                "--locked",
                "--release",
                "-Z",
                "build-std=core",
                "--target",
                TARGET,
            ])
            .arg("--manifest-path")
            .arg(workspace.probes_manifest())
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")),
    )?;
    let built = target.join(TARGET).join("release/headstart-probes");
    let object = workspace.probes_object();
    copy_if_changed(&built, &object)?;
    Ok(object)
}

/// Leaves an equal file alone: cargo would build the agent anew for its date.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if !is_bpf_object(&new) {
        bail!("{} is no BPF object", from.display());
    }
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

/// ELF whose machine is EM_BPF.
fn is_bpf_object(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") && bytes.get(18..20) == Some(&247u16.to_le_bytes())
}

/// The agent, with this object inside; its path.
pub fn agent(workspace: &Workspace, object: &Path, debug: bool) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--locked", "--package", "headstart"])
        .current_dir(&workspace.root)
        .env("HEADSTART_PROBES", object);
    let profile = if debug {
        "debug"
    } else {
        cargo.arg("--release");
        "release"
    };
    run::run(&mut cargo)?;
    let agent = workspace.agent(profile);
    if !agent.exists() {
        bail!("cargo built the agent elsewhere than {}", agent.display());
    }
    Ok(agent)
}

/// Programs and test binaries of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Tests {
    /// Test binaries, by the names of their files in `tests`.
    pub suites: BTreeMap<String, PathBuf>,
    /// Programs that tests start, by name.
    pub programs: BTreeMap<String, PathBuf>,
}

/// Everything that is tested: the examples are not, and are checked by clippy.
pub const ALL_TESTS: [&str; 4] = ["--workspace", "--lib", "--bins", "--tests"];

/// Builds tests and what they start; `select` says which, in cargo's words. All builds of
/// tests are this one, so that what was built for one is there for the next. A `target`
/// other than this machine is one whose programs need no libraries, nor another linker
/// than the compiler's own.
pub fn tests(workspace: &Workspace, select: &[&str], target: Option<&str>) -> Result<Tests> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--no-run", "--locked"]).args(select);
    made(workspace, &mut cargo, target, &[])
}

/// Builds a program that needs no libraries.
pub fn static_program(
    workspace: &Workspace,
    package: &str,
    name: &str,
    target: Option<&str>,
) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["rustc", "--locked", "--package", package, "--bin", name]);
    let flags = ["--", "-Ctarget-feature=+crt-static"];
    let mut made = made(workspace, &mut cargo, target, &flags)?;
    let file = made.programs.remove(name);
    file.with_context(|| format!("no {name} was built"))
}

/// Runs cargo; what it made.
fn made(
    workspace: &Workspace,
    cargo: &mut Command,
    target: Option<&str>,
    flags: &[&str],
) -> Result<Tests> {
    cargo.arg("--message-format=json-render-diagnostics");
    if let Some(target) = target {
        let variable = target.replace('-', "_").to_ascii_uppercase();
        let variable = format!("CARGO_TARGET_{variable}_LINKER");
        cargo.args(["--target", target]).env(variable, "rust-lld");
    }
    let output = cargo
        .args(flags)
        .current_dir(&workspace.root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    if !output.status.success() {
        bail!("building with cargo: {}", output.status);
    }
    executables(&String::from_utf8_lossy(&output.stdout))
}

/// Those that cargo's messages name.
fn executables(messages: &str) -> Result<Tests> {
    let mut made = Tests::default();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let target = &message["target"];
        let (Some(name), Some(file)) = (target["name"].as_str(), message["executable"].as_str())
        else {
            continue;
        };
        let harness = message["profile"]["test"] == true;
        let kinds = match (target["kind"][0].as_str(), harness) {
            (Some("test"), true) => &mut made.suites,
            (Some("bin"), false) => &mut made.programs,
            // Unit tests: named as the program that they are of.
            _ => continue,
        };
        kinds.insert(name.to_owned(), file.into());
    }
    Ok(made)
}

/// An agent that needs no libraries, with this object inside, alone in a directory: what
/// `deploy/image/Containerfile` takes. Its path.
pub fn static_agent(workspace: &Workspace, object: &Path) -> Result<PathBuf> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.replace('-', "_").to_ascii_uppercase()
    );
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--locked", "--release", "--package", "headstart"])
        // With a target the flags are not those of build scripts and macros, which can't
        // be static.
        .args(["--target", &target])
        .current_dir(&workspace.root)
        .env(flags, "-Ctarget-feature=+crt-static")
        .env("HEADSTART_PROBES", object);
    run::run(&mut cargo)?;
    let built = workspace.target.join(&target).join("release/headstart");
    let image = workspace.target.join(IMAGE);
    fs::create_dir_all(&image).with_context(|| format!("making {}", image.display()))?;
    let agent = image.join("headstart");
    fs::copy(&built, &agent).with_context(|| format!("copying {}", built.display()))?;
    Ok(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_tests() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"a"},"profile":{"test":true},"executable":"/deps/a-1"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"a"},"profile":{"test":false},"executable":"/a"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"t"},"profile":{"test":true},"executable":"/deps/t-2"}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"l"},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}"#;
        let made = executables(messages).expect("they are messages");
        assert_eq!(made.programs["a"], Path::new("/a"));
        assert_eq!(made.suites["t"], Path::new("/deps/t-2"));
        assert_eq!((made.programs.len(), made.suites.len()), (1, 1));
        assert!(executables("no message").is_err());
    }

    #[test]
    fn a_bpf_object_is_told_from_others() {
        let mut object = [0u8; 64];
        object[..4].copy_from_slice(b"\x7fELF");
        assert!(!is_bpf_object(&object));
        object[18] = 247;
        assert!(is_bpf_object(&object));
        assert!(!is_bpf_object(b""));
    }
}
