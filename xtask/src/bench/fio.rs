//! What fio measures.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::run;

/// Reads of all of its jobs together.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Reads {
    /// Bytes a second.
    #[serde(rename = "bw_bytes")]
    pub bytes_per_s: f64,
    /// Reads a second.
    pub iops: f64,
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Reads,
}

/// Arguments that all runs share: what is cached stays so, and the result is
/// for programs.
pub const COMMON: [&str; 4] = [
    "--name=bench",
    "--invalidate=0",
    "--group_reporting=1",
    "--output-format=json",
];

/// Runs fio on one file.
pub fn fio(file: &Path, args: &[impl AsRef<OsStr>]) -> Result<Reads> {
    let text = run::captured(
        Command::new("fio")
            .args(COMMON)
            .arg(format!("--filename={}", file.display()))
            .args(args),
    )?;
    reads(&text)
}

/// What fio printed.
pub fn reads(text: &str) -> Result<Reads> {
    // Notes come before.
    let json = text.find('{').and_then(|at| text.get(at..));
    let output: Output = serde_json::from_str(json.context("fio printed no result")?)
        .context("reading what fio printed")?;
    let job = output.jobs.first().context("fio ran no job")?;
    Ok(job.read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_behind_notes() {
        let text = "note: slow\n{\"jobs\": [{\"read\": {\"bw_bytes\": 4096, \"iops\": 1.5}}]}";
        let reads = reads(text).expect("it is there");
        assert_eq!((reads.bytes_per_s, reads.iops), (4096.0, 1.5));
        assert!(super::reads("fio: no such file").is_err());
    }
}
