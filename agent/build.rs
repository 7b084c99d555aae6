//! Puts the probes' object file, if there is one, where the library embeds it.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(headstart_no_probes)");
    println!("cargo::rerun-if-env-changed=HEADSTART_PROBES");
    let given = env::var_os("HEADSTART_PROBES").map(PathBuf::from);
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let object = given.unwrap_or_else(|| manifest.join("../target/bpf/headstart-probes"));
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    if bytes.is_empty() {
        println!("cargo::rustc-cfg=headstart_no_probes");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("probes.o");
    fs::write(&out, bytes).expect("write the probes to OUT_DIR");
}
