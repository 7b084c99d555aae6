//! A state directory, the binary over it, profiles to put in.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::Assert;
use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, NameTouch, PageTouch, Profile, RelPath, RunInfo,
    Trace, Volume, VolumeId,
};
use headstart::profile::{encode, from_trace};
use serde_json::Value;

pub(crate) struct State {
    pub(crate) dir: tempfile::TempDir,
}

impl State {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        State { dir }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("profile")
            .args(args)
            .current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Assert {
        assert_cmd::Command::from_std(self.command(args)).assert()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let output = self.run(&args).success();
        serde_json::from_slice(&output.get_output().stdout).expect("JSON")
    }

    /// Standard error of a command that must fail; checks that it is fit to print.
    pub(crate) fn error(&self, args: &[&str]) -> String {
        let output = self.run(args).failure().code(1);
        let text = String::from_utf8(output.get_output().stderr.clone()).expect("UTF-8");
        assert!(
            text.starts_with("headstart: ") && text.ends_with('\n'),
            "{text}"
        );
        assert_printable(&text);
        text
    }

    pub(crate) fn import(&self, name: &str, profile: &Profile) {
        fs::write(self.path("in"), encode(name, profile)).expect("write");
        self.run(&["import", "in"]).success();
    }
}

pub(crate) fn assert_printable(text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(bad), "{text:?}");
}

pub(crate) fn text(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).expect("UTF-8")
}

/// The output with each run of blanks as one.
pub(crate) fn squeezed(assert: &Assert) -> String {
    let text = text(assert);
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// A run of `id` that read `pages` pages of each of `paths`.
pub(crate) fn profile(id: u64, paths: &[&[u8]], pages: u32) -> Profile {
    let path = |bytes: &[u8]| RelPath::new(bytes).expect("valid");
    let trace = Trace {
        volumes: vec![Volume {
            id: VolumeId("uuid:1234".to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/mnt/data".to_vec(),
        }],
        files: paths
            .iter()
            .map(|bytes| FileTouches {
                volume: 0,
                path: path(bytes),
                version: FileVersion {
                    size: 100 * 4096,
                    mtime_ns: 1,
                },
                touches: vec![
                    PageTouch {
                        start_page: 0,
                        pages,
                        certainty: Certainty::Certain,
                        first_use_ns: 5_000_000,
                    },
                    PageTouch {
                        start_page: 50,
                        pages: 2,
                        certainty: Certainty::Maybe,
                        first_use_ns: 1_000_000,
                    },
                ],
            })
            .collect(),
        names: paths
            .iter()
            .map(|bytes| NameTouch {
                volume: 0,
                path: path(bytes),
                kind: NameKind::File,
                listed: false,
                first_use_ns: 0,
            })
            .collect(),
        ..Trace::default()
    };
    let run = RunInfo {
        started_ms: 1_700_000_000_000 + id,
        id,
        duration_ns: 2_000_000_000,
        exact: false,
        blind_ns: 0,
    };
    from_trace(&trace, run)
}

pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
