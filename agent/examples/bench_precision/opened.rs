//! Which files a command reads, by strace: a second opinion to the profile's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Regular files on disk that the command opened to read, or executed.
pub(crate) fn opened(command: &[OsString], scratch: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let log = scratch.join("strace");
    let status = Command::new("strace")
        .args([
            "-f",
            "-q",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=open,openat,execve",
            "-o",
        ])
        .arg(&log)
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("starting strace")?;
    ensure!(
        status.success(),
        "under strace, the command failed: {status}"
    );
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    Ok(text
        .lines()
        .filter_map(read_file)
        .filter_map(|path| Path::new(path).canonicalize().ok())
        .filter(|path| path.is_file() && !path.starts_with("/proc") && !path.starts_with("/sys"))
        .collect())
}

/// The file that a line of strace shows as opened to read, or executed.
fn read_file(line: &str) -> Option<&str> {
    let (call, result) = line.rsplit_once(" = ")?;
    if call.contains("execve(") {
        return (result == "0").then(|| call.split('"').nth(1))?;
    }
    if call.contains("O_WRONLY") || call.contains("O_RDWR") {
        return None;
    }
    // 3</usr/lib/libc.so.6>
    result.split_once('<')?.1.strip_suffix('>')
}
