//! What a guest is asked to do, and what it answers: one JSON object a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the job lies in the guest.
pub const JOB: &str = "/vm/job.json";
/// Where what does the job lies in a guest with another first process.
pub const INIT: &str = "/vm/init";
/// Directory of the modules in the guest, in the order of their names.
pub const MODULES: &str = "/vm/modules";
/// The serial line that answers go to.
#[cfg(target_arch = "x86_64")]
pub const ANSWERS: &str = "/dev/ttyS1";
/// The serial line that answers go to: the console is of another kind.
#[cfg(not(target_arch = "x86_64"))]
pub const ANSWERS: &str = "/dev/ttyS0";

/// All that one guest does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The directory of temporary files that the tests were built with.
    pub scratch: PathBuf,
    /// Which control groups are mounted, where nobody else does it.
    pub cgroups: Cgroups,
    /// The first process once the guest's root is mounted, which starts what does this
    /// job; none, where that is done at once.
    pub init: Option<PathBuf>,
    /// One after the other.
    pub suites: Vec<Suite>,
}

/// The hierarchies of control groups that a guest mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    /// Version 2, with all its controllers.
    #[default]
    V2,
    /// Version 1 only, a tree for each controller.
    V1,
}

/// Tests of one binary, each in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// The binary's name.
    pub name: String,
    /// What is different this time, in a word, and the environment that makes it so.
    pub variant: String,
    /// See [`Suite::variant`].
    pub environment: Vec<(String, String)>,
    /// Where it lies in the guest.
    pub program: PathBuf,
    /// Tests whose names contain one of these; all where there is none.
    pub only: Vec<String>,
    /// And, where there are some, one of these.
    pub among: Vec<String>,
    /// But not those whose names contain one of these.
    pub without: Vec<String>,
    /// For each test.
    pub seconds: u64,
}

impl Suite {
    /// Whether a test of this name belongs to it.
    pub fn has(&self, test: &str) -> bool {
        let among = |names: &[String]| names.iter().any(|name| test.contains(name.as_str()));
        let wanted = |names: &[String]| names.is_empty() || among(names);
        wanted(&self.only) && wanted(&self.among) && !among(&self.without)
    }
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// It has come up.
    Ready {
        /// As `uname -r` says it.
        kernel: String,
    },
    /// A test has begun.
    Begin {
        /// Suite and name.
        test: String,
    },
    /// A test has ended.
    Test {
        /// Suite and name.
        test: String,
        /// See [`Suite::variant`].
        variant: String,
        /// What became of it.
        outcome: Outcome,
        /// How long it took.
        seconds: f64,
        /// What it printed.
        output: String,
    },
    /// Something that should work did not.
    Trouble {
        /// In words.
        what: String,
    },
    /// That was all.
    End,
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, or ran out of time.
    Failed,
    /// The same, and it is tried a second time.
    Again,
    /// It said that something is missing here.
    Skipped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_chosen_by_parts_of_names() {
        let mut suite = Suite {
            name: "truth".into(),
            variant: String::new(),
            environment: vec![],
            program: "/vm/bin/truth".into(),
            only: vec![],
            among: vec![],
            without: vec!["xfs".into()],
            seconds: 1,
        };
        assert!(suite.has("reads::on_ext4") && !suite.has("reads::on_xfs"));
        suite.only = vec!["reads".into()];
        assert!(suite.has("reads::on_ext4") && !suite.has("maps::on_ext4"));
        suite.among = vec!["btrfs".into()];
        assert!(suite.has("reads::on_btrfs") && !suite.has("reads::on_ext4"));
    }
}
