//! Puts the kernel programs into the binary.
//!
//! They come from `HEADSTART_PROBES` (set by `cargo xtask build`), else from
//! where that command last left them. Without either the agent builds too, says
//! so (`headstart doctor`), and records nothing: nobody needs a BPF toolchain to
//! work on the rest.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(headstart_no_probes)");
    // Set by `cargo xtask test` for tests under sanitizers and Miri: see Cargo.toml.
    println!("cargo::rustc-check-cfg=cfg(headstart_instrumented)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HEADSTART_PROBES");

    let copy = PathBuf::from(var("OUT_DIR")).join("probes.o");
    let object = match source() {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|e| panic!("reading the probes {}: {e}", path.display()))
        }
        None => {
            println!("cargo::rustc-cfg=headstart_no_probes");
            Vec::new()
        }
    };
    fs::write(&copy, object).unwrap_or_else(|e| panic!("writing {}: {e}", copy.display()));
}

fn source() -> Option<PathBuf> {
    if let Some(path) = env::var_os("HEADSTART_PROBES").filter(|p| !p.is_empty()) {
        return Some(path.into());
    }
    let built = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("../target/bpf");
    // The directory is watched, not the file: cargo takes a watched file that is
    // not there for changed, and would build the agent anew every time.
    if fs::create_dir_all(&built).is_ok() {
        println!("cargo::rerun-if-changed={}", built.display());
    }
    Some(built.join("headstart-probes")).filter(|object| object.exists())
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("cargo sets {name}: {e}"))
}
