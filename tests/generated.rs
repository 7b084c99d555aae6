//! Files that are made from others and checked in: they are as they would be made now.
//!
//! `cargo xtask codegen` runs this with HEADSTART_CODEGEN=write: then it makes them.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a file with what it is to be, or makes it so.
#[track_caller]
fn is(path: &str, wanted: &[u8]) {
    let file = root().join(path);
    if std::env::var("HEADSTART_CODEGEN").is_ok_and(|mode| mode == "write") {
        fs::write(&file, wanted).unwrap_or_else(|e| panic!("writing {path}: {e}"));
    }
    let there = fs::read(&file).unwrap_or_else(|e| panic!("reading {path}: {e}"));
    assert!(
        there == wanted,
        "{path} is not what would be made now: run `cargo xtask codegen`"
    );
}

const PROTO: &str = "headstart/v1/agent.proto";

fn includes() -> PathBuf {
    root().join("agent/proto")
}

#[test]
fn messages_are_those_of_the_schema() {
    let described = protox::compile([PROTO], [includes()]).expect("the schema compiles");
    let out = tempfile::tempdir().expect("a directory");
    tonic_prost_build::configure()
        .out_dir(out.path())
        // In an order that does not differ from one time to the next.
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .emit_rerun_if_changed(false)
        .compile_fds(described)
        .expect("code is generated");
    let code = fs::read_to_string(out.path().join("headstart.v1.rs")).expect("code");
    let code = format!(
        "//! Made from `agent/proto/{PROTO}` by `cargo xtask codegen`: change it there.\n\n{code}"
    );
    is("agent/src/api/proto/v1.rs", code.as_bytes());
}

#[test]
fn the_compiled_schema_is_that_of_the_schema() {
    let described = protox::Compiler::new([includes()])
        .expect("the directory is there")
        // Comments are for people, who have the source.
        .include_source_info(false)
        .include_imports(true)
        .open_file(PROTO)
        .expect("the schema compiles")
        .file_descriptor_set();
    is(
        "agent/src/api/proto/descriptors.binpb",
        &described.encode_to_vec(),
    );
}

#[test]
fn the_page_of_metrics_is_the_catalogue() {
    is(
        "docs/metrics.md",
        headstart::api::metrics::markdown().as_bytes(),
    );
}
