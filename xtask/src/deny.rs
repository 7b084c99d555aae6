//! Dependencies: their licences, sources and known flaws, by cargo-deny and
//! `deny.toml`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::toolchain::cached_tool;
use crate::workspace::Workspace;

/// The version whose configuration `deny.toml` is.
const CARGO_DENY: &str = "0.20.2";

/// The workspaces, each with dependencies of its own.
const MANIFESTS: [&str; 3] = [
    "Cargo.toml",
    "ebpf/probes/Cargo.toml",
    "tests/fuzz/Cargo.toml",
];

/// Checks every workspace.
pub fn check() -> Result<()> {
    let deny = match ensure() {
        Ok(deny) => deny,
        Err(error) => {
            println!("SKIPPED: licences, sources and advisories of dependencies: {error:#}");
            return Ok(());
        }
    };
    let root = Workspace::here().root;
    let command = |manifest: &str| {
        let mut command = Command::new(&deny);
        command
            .arg("--manifest-path")
            .arg(root.join(manifest))
            .args(["--locked", "--config"])
            .arg(root.join("deny.toml"));
        command
    };
    // Exceptions that one workspace needs are none in the others.
    let allowed = ["--allow", "license-exception-not-encountered"];
    for manifest in MANIFESTS {
        let mut check = command(manifest);
        check.arg("check").args(allowed);
        run::run_merged(check.args(["bans", "licenses", "sources"]))?;
    }
    let fetched = run::succeeds_merged(command(MANIFESTS[0]).args(["fetch", "db"]))?;
    if !fetched {
        println!("SKIPPED: advisories on dependencies: their database can't be fetched (above)");
        return Ok(());
    }
    for manifest in MANIFESTS {
        let mut check = command(manifest);
        run::run_merged(check.args(["--offline", "check", "advisories"]))?;
    }
    Ok(())
}

/// The one on the path, the one built before, or one built now.
fn ensure() -> Result<PathBuf> {
    let works = |file: &Path| {
        let version = run::quiet_output(Command::new(file).arg("--version"));
        version.is_some_and(|v| v == format!("cargo-deny {CARGO_DENY}"))
    };
    cached_tool("cargo-deny", CARGO_DENY, works, |install| {
        // It waits for the network, if for anything: built as quickly as can be.
        install
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        Ok(())
    })
}
