//! The shape of files and crates.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::text::before_tests;
use super::{Complaint, Source};

/// A file this long before its tests holds more than one idea.
const LONGEST: usize = 500;

/// Files that may be longer, with the reason.
const EXCEPTIONS: [(&str, &str); 1] = [(
    "agent/src/api/proto/v1.rs",
    "made from agent/proto/headstart/v1/agent.proto",
)];

/// Crates whose lints are the workspace's.
const MEMBERS: [&str; 3] = [
    "agent/Cargo.toml",
    "ebpf/abi/Cargo.toml",
    "xtask/Cargo.toml",
];
/// Crates that are their own workspaces, and have to set the lint themselves.
const APART: [&str; 2] = ["ebpf/probes/Cargo.toml", "tests/fuzz/Cargo.toml"];

const UNSAFE_LINT: &str = "undocumented_unsafe_blocks = \"deny\"";

/// Complaints about one file.
pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let complain = |message: String| Complaint {
        path: source.path.clone(),
        line: 0,
        message,
    };
    let mut complaints = Vec::new();
    if !source.text.trim_start().starts_with("//!") {
        complaints.push(complain(
            "does not open with a `//!` line: say what the file is for before saying how"
                .to_owned(),
        ));
    }
    let lines = length(source);
    if lines > LONGEST && !is_exception(&source.path) {
        complaints.push(complain(format!(
            "{lines} lines before its tests, more than {LONGEST}: split it, or list it with a \
             reason in xtask/src/tidy/shape.rs"
        )));
    }
    // Put together, so that this file does not complain of itself.
    let allowed = concat!("allow(clippy::", "undocumented_unsafe_blocks");
    if source.text.contains(allowed) {
        complaints.push(complain(format!(
            "`{allowed})`: an unsafe block without its reason can't be reviewed"
        )));
    }
    complaints
}

fn length(source: &Source) -> usize {
    before_tests(&source.text).lines().count()
}

fn is_exception(path: &str) -> bool {
    EXCEPTIONS.iter().any(|(listed, _)| *listed == path)
}

/// Exceptions that are none any more.
pub(super) fn check_exceptions(sources: &[Source]) -> Vec<Complaint> {
    EXCEPTIONS
        .iter()
        .filter(|(path, _)| {
            !sources
                .iter()
                .any(|s| s.path == *path && length(s) > LONGEST)
        })
        .map(|(path, _)| Complaint {
            path: (*path).to_owned(),
            line: 0,
            message: "is listed as longer than others, but is not: take it off the list".to_owned(),
        })
        .collect()
}

/// Clippy looks at unsafe blocks only in crates that take the lint.
pub(super) fn check_lints(root: &Path) -> Result<Vec<Complaint>> {
    let read =
        |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    let mut complaints = Vec::new();
    let mut require = |path: &str, text: &str, wanted: &str| {
        if !text.contains(wanted) {
            complaints.push(Complaint {
                path: path.to_owned(),
                line: 0,
                message: format!(
                    "lacks `{}`: every unsafe block gives its reason",
                    wanted.trim()
                ),
            });
        }
    };
    require("Cargo.toml", &read("Cargo.toml")?, UNSAFE_LINT);
    for apart in APART {
        require(apart, &read(apart)?, UNSAFE_LINT);
    }
    for member in MEMBERS {
        require(member, &read(member)?, "[lints]\nworkspace = true");
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            path: "agent/src/a.rs".to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn files_say_what_they_are_for() {
        assert!(check(&source("//! Something.\n")).is_empty());
        assert_eq!(check(&source("fn f() {}\n")).len(), 1);
    }

    #[test]
    fn long_files_are_split_but_tests_do_not_count() {
        let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(LONGEST));
        assert_eq!(check(&source(&long)).len(), 1);
        let tested = format!(
            "//! Short.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "fn f() {}\n".repeat(LONGEST)
        );
        assert!(check(&source(&tested)).is_empty());
    }
}
