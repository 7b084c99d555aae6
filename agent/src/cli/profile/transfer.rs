//! `headstart profile export` and `import`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::json;

use crate::profile::codec::{HEADER_BYTES, MAX_UNCOMPRESSED};
use crate::profile::{Access, check_name, decode};

use super::super::args::Global;
use super::super::context::open_store;
use super::super::format::{self, bytes, count, emit, emit_json};
use super::missing;

pub(super) fn export(global: &Global, name: &str, file: &Path) -> anyhow::Result<()> {
    let store = open_store(global, Access::Read)?;
    let Some(value) = store.get_bytes(name)? else {
        bail!(missing(&store, name)?);
    };
    // Nothing damaged leaves this machine.
    decode(&value).map_err(|e| anyhow!("profile `{name}`: {e}"))?;
    if is_stdio(file) {
        ensure!(
            !io::stdout().is_terminal(),
            "a profile is no text for a terminal: name a file, or send it on (`> FILE`)"
        );
        return emit(value);
    }
    write_atomically(file, &value).with_context(|| format!("writing {}", format::path(file)))?;
    let size = value.len() as u64;
    if global.json {
        return emit_json(&json!({ "name": name, "file": format::path(file), "bytes": size }));
    }
    emit(format!(
        "wrote profile `{name}` to {} ({})\n",
        format::path(file),
        bytes(size)
    ))
}

pub(super) fn import(global: &Global, file: &Path, rename: Option<&str>) -> anyhow::Result<()> {
    if let Some(name) = rename {
        check_name(name)?;
    }
    let source = if is_stdio(file) {
        "standard input".to_owned()
    } else {
        format::path(file)
    };
    let value = read(file).with_context(|| format!("reading {source}"))?;
    let (name, profile) = decode(&value).map_err(|e| anyhow!("{source}: {e}"))?;
    let name = rename.unwrap_or(&name);
    let merged = open_store(global, Access::Write)?.merge_into(name, &profile)?;
    // Runs may have been there, or have been too old to be kept.
    let had_others = merged.runs.len() != profile.runs.len();
    if global.json {
        return emit_json(&json!({
            "name": name,
            "imported_runs": profile.runs.len(),
            "runs": merged.runs.len(),
            "files": merged.files.len(),
        }));
    }
    let runs = count(profile.runs.len() as u64, "run");
    let files = count(profile.files.len() as u64, "file");
    emit(match had_others {
        true => format!(
            "merged {runs} of {files} into profile `{name}`, which now has {}\n",
            count(merged.runs.len() as u64, "run")
        ),
        false => format!("imported profile `{name}`: {runs}, {files}\n"),
    })
}

fn is_stdio(file: &Path) -> bool {
    file == Path::new("-")
}

/// No more than a profile can have is read: `/dev/zero` is refused, not kept.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let limit = MAX_UNCOMPRESSED + HEADER_BYTES as u64;
    let source: Box<dyn Read> = match is_stdio(file) {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(file)?),
    };
    let mut value = Vec::new();
    let mut source = source.take(limit + 1);
    // What it is shows in its first bytes, before a large file is read.
    source
        .by_ref()
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut value)?;
    if value.starts_with(b"HSPROF") {
        source.read_to_end(&mut value)?;
    }
    if value.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any profile",
        ));
    }
    Ok(value)
}

/// All of it or, whatever happens, what was there before.
fn write_atomically(file: &Path, value: &[u8]) -> io::Result<()> {
    // A link stays a link; what it points to is replaced.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&target).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        return OpenOptions::new()
            .write(true)
            .open(&target)?
            .write_all(value);
    }
    let Some(name) = target.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "not a file's name",
        ));
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if target.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = parent.join(hidden);
    let write = || {
        let mut options = OpenOptions::new();
        let mut out = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temporary)?;
        out.write_all(value)?;
        out.sync_all()?;
        fs::rename(&temporary, &target)?;
        File::open(&parent)?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
