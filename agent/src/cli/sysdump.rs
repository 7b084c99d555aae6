//! `headstart sysdump`: what a report of a bug needs, in one file.

mod redact;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::args::{Global, SysdumpArgs};
use super::{ask, config, doctor, format};
use crate::api::ClientError;
use crate::attribute::regular;
use crate::model::escape;
use crate::run::now_ms;
use redact::Redaction;

/// Most workloads whose last start is explained file by file.
const EXPLAINED: usize = 50;

pub(super) fn run(global: &Global, args: &SysdumpArgs) -> anyhow::Result<ExitCode> {
    let redaction = (!args.with_paths).then(Redaction::of_this_machine);
    let redacted = |mut value: Value| {
        if let Some(redaction) = &redaction {
            redaction.redact(&mut value);
        }
        value
    };
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    match agent(global) {
        Ok(told) => {
            for (name, value) in told.json {
                files.push((name, pretty(&redacted(value))?));
            }
            files.push(("metrics.txt", told.metrics.into_bytes()));
        }
        Err(error) => missing.push(format!("agent: {}", format::told(&error))),
    }
    files.push(("doctor.json", pretty(&redacted(doctor::json(global)?))?));
    files.push(("kernel.json", pretty(&kernel())?));
    match configuration(global) {
        Ok(value) => files.push(("config.json", pretty(&redacted(value))?)),
        Err(error) => missing.push(format!("configuration: {}", format::told(&error))),
    }
    for what in &missing {
        format::tell(format!("headstart: not in the archive: {what}\n"));
    }
    let about = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "made_ms": now_ms(),
        "paths": if args.with_paths { "as they are" } else { "hashed" },
        // With the paths that errors name.
        "missing": redacted(json!(missing)),
    });
    files.push(("about.json", pretty(&about)?));
    write(global, args, &files)?;
    Ok(ExitCode::SUCCESS)
}

/// What the running agent tells.
struct Told {
    json: Vec<(&'static str, Value)>,
    metrics: String,
}

fn agent(global: &Global) -> anyhow::Result<Told> {
    let mut agent = ask::agent(global)?;
    let status = agent.status()?;
    let workloads = agent.workloads(true)?;
    // Those that started last are what a report is about.
    let mut newest: Vec<_> = workloads.iter().filter(|w| w.last.is_some()).collect();
    newest.sort_by_key(|w| std::cmp::Reverse(w.last.as_ref().map(|start| start.began_ms)));
    let mut explained = Vec::new();
    for workload in newest.into_iter().take(EXPLAINED) {
        match agent.explain(&workload.key) {
            Ok(workload) => explained.push(json!(workload)),
            // It has gone in the meantime.
            Err(ClientError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Told {
        json: vec![
            ("status.json", json!(status)),
            ("workloads.json", json!(workloads)),
            ("explained.json", json!(explained)),
        ],
        metrics: agent.metrics()?,
    })
}

fn kernel() -> Value {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| escape(text.to_bytes());
    // Not the node's name.
    json!({
        "release": text(name.release()),
        "version": text(name.version()),
        "machine": text(name.machine()),
    })
}

/// What the configuration file says, without its comments, which may say anything.
fn configuration(global: &Global) -> anyhow::Result<Value> {
    let path = global.config.as_deref();
    let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
    let bytes = match regular::read(path, OFlags::RDONLY, config::MAX_BYTES) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && global.config.is_none() => {
            return Ok(json!({}));
        }
        bytes => bytes.with_context(|| format!("reading {}", format::path(path)))?,
    };
    let text = String::from_utf8(bytes).context("the configuration is not UTF-8")?;
    let table: toml::Table = toml::from_str(&text)
        // With its line, which may be one that is not to be told.
        .map_err(|error| anyhow::anyhow!("no valid TOML: {}", error.message()))?;
    Ok(serde_json::to_value(table)?)
}

fn pretty(value: &Value) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

fn write(global: &Global, args: &SysdumpArgs, files: &[(&str, Vec<u8>)]) -> anyhow::Result<()> {
    let made_ms = now_ms();
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("headstart-sysdump-{made_ms}.tar")));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(made_ms / 1000);
        archive.append_data(
            &mut header,
            format!("headstart-sysdump/{name}"),
            &content[..],
        )?;
    }
    let archive = archive.into_inner()?;
    if path == Path::new("-") {
        return format::emit(archive);
    }
    create(&path)
        .and_then(|mut file| file.write_all(&archive))
        .with_context(|| format!("writing {}", format::path(&path)))?;
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    if global.json {
        format::emit_json(
            &json!({ "file": format::path(&path), "bytes": archive.len(), "holds": names }),
        )
    } else {
        let size = format::bytes(archive.len() as u64);
        format::emit(format!(
            "{}: {size}: {}\n",
            format::path(&path),
            names.join(", ")
        ))
    }
}

/// For its user alone, and never over what is there.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
