//! `cargo xtask tidy`: rules of the source tree that the compiler does not
//! check. Each complaint gives the reason for its rule.

mod layers;
mod paths;
mod shape;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Directories whose Rust files are checked.
const SOURCES: [&str; 3] = ["agent", "ebpf", "xtask"];

/// One source file.
#[derive(Debug)]
struct Source {
    /// From the workspace's root.
    path: String,
    text: String,
}

/// A rule that is broken somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    path: String,
    /// 0 is the whole file.
    line: usize,
    message: String,
}

/// Checks the workspace and prints complaints.
pub fn run() -> Result<()> {
    let complaints = check(&Workspace::here().root)?;
    if complaints.is_empty() {
        println!("tidy: nothing to complain of");
        return Ok(());
    }
    bail!(
        "tidy found {}:\n{}",
        complaints.len(),
        complaints.join("\n")
    )
}

/// All complaints about a source tree, as lines for people.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let sources = read_all(root)?;
    let mut complaints = Vec::new();
    for source in &sources {
        complaints.extend(layers::check(source));
        complaints.extend(shape::check(source));
    }
    complaints.extend(shape::check_exceptions(&sources));
    complaints.extend(shape::check_lints(root)?);
    Ok(complaints
        .into_iter()
        .map(
            |Complaint {
                 path,
                 line,
                 message,
             }| match line {
                0 => format!("{path}: {message}"),
                _ => format!("{path}:{line}: {message}"),
            },
        )
        .collect())
}

fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for directory in SOURCES {
        collect(&root.join(directory), &mut files)?;
    }
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let path = file
                .strip_prefix(root)
                .unwrap_or(&file)
                .to_string_lossy()
                .into_owned();
            Ok(Source { path, text })
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let built = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !built {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
