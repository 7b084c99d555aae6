//! A state directory, files to read, and the binary over them.

use crate::residency::resident_pages;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use headstart::attribute::mountinfo;
use headstart::attribute::volume::identify;
use headstart::model::{
    Certainty, FileTouches, FileVersion, PAGE_SIZE, PageTouch, RelPath, RunInfo, Trace,
};
use headstart::profile::{encode, from_trace};
use serde_json::Value;

/// The binary under test.
pub(crate) const HEADSTART: &str = env!("CARGO_BIN_EXE_headstart");

/// Before what `run` is to see in a shell's script: the probes are loaded beside the command.
pub(crate) const LASTS: &str = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2; done; ";

pub(crate) const MIB: usize = 1 << 20;

/// A directory on a real disk, gone when dropped.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
}

impl Scene {
    /// `None`, and why, where commands can't be recorded.
    pub(crate) fn recording() -> Option<Self> {
        let scene = Self::as_root()?;
        if let Err(error) = headstart::probe::Probes::load(4096) {
            eprintln!("SKIPPED: {error}");
            return None;
        }
        Some(scene)
    }

    /// `None`, and why, where this is not root.
    pub(crate) fn as_root() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return None;
        }
        Some(Self::new())
    }

    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A file that is on the disk and not in memory.
    pub(crate) fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
        fs::write(&path, data).expect("written");
        evict(&path);
        path
    }

    /// An executable script.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        path
    }

    /// `headstart --state-dir …`, in the scene's directory, with no input.
    pub(crate) fn headstart<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(HEADSTART);
        command.arg("--state-dir").arg(self.state()).args(args);
        self.at_home(&mut command);
        command
    }

    /// The same inside `sh -c` with `setup` before it, in mounts of its own.
    pub(crate) fn apart<S: AsRef<OsStr>>(
        &self,
        setup: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{setup}; exec \"$@\""))
            .args(["sh", HEADSTART, "--state-dir"])
            .arg(self.state())
            .args(args);
        self.at_home(&mut command);
        command
    }

    fn at_home(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env_remove("HEADSTART_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Runs `headstart ARGS` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        end(&mut self.headstart(args))
    }

    /// Records `sh -c SCRIPT` into `profile`; what `--json` says.
    pub(crate) fn record(&self, profile: &str, script: &str) -> Value {
        let output = self.run(&[
            "--json",
            "record",
            "--profile",
            profile,
            "--",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        last_json(&output)
    }

    /// Imports a profile, as made elsewhere, of a run that read these files to their ends.
    pub(crate) fn import(&self, profile: &str, files: &[&str]) {
        let run = RunInfo {
            started_ms: 1_700_000_000_000,
            id: 1,
            duration_ns: 1_000_000_000,
            exact: true,
            blind_ns: 0,
        };
        let made = from_trace(&read_whole(self.dir.path(), files), run);
        fs::write(self.path("exported"), encode(profile, &made)).expect("written");
        let output = self.run(&["profile", "import", "exported"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// What `profile show -v` says of a file of this scene.
    pub(crate) fn shown(&self, profile: &str, file: &str) -> Option<Value> {
        self.shown_at(profile, &self.path(file))
    }

    /// The same of a file that lies elsewhere.
    pub(crate) fn shown_at(&self, profile: &str, path: &Path) -> Option<Value> {
        let output = self.run(&["--json", "-v", "profile", "show", profile]);
        assert!(output.status.success(), "{output:?}");
        let shown = json(&output);
        let path = path.display().to_string();
        // Paths are relative to their volume, wherever that is mounted.
        let files = shown["files"].as_array().expect("files");
        files
            .iter()
            .find(|f| path.ends_with(&format!("/{}", f["path"].as_str().expect("a path"))))
            .cloned()
    }

    pub(crate) fn runs(&self, profile: &str) -> usize {
        let output = self.run(&["--json", "profile", "show", profile]);
        assert!(output.status.success(), "{output:?}");
        json(&output)["runs"].as_array().expect("runs").len()
    }
}

/// What a run would leave that read files of `dir` to their ends.
fn read_whole(dir: &Path, files: &[&str]) -> Trace {
    let mounts = mountinfo::read().expect("mountinfo");
    let mount = mountinfo::covering(&mounts, dir.as_os_str().as_bytes()).expect("mounted");
    let below = |path: &Path| {
        let root = Path::new(OsStr::from_bytes(&mount.mount_point));
        let path = path.strip_prefix(root).expect("below its mount");
        RelPath::new(path.as_os_str().as_bytes()).expect("a path")
    };
    let touches = |name: &&str| {
        let path = dir.join(name);
        let meta = fs::metadata(&path).expect("metadata");
        FileTouches {
            volume: 0,
            path: below(&path),
            version: FileVersion {
                size: meta.size(),
                mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            },
            touches: vec![PageTouch {
                start_page: 0,
                pages: meta.size().div_ceil(PAGE_SIZE) as u32,
                certainty: Certainty::Certain,
                first_use_ns: 0,
            }],
        }
    };
    Trace {
        volumes: vec![identify(mount)],
        files: files.iter().map(touches).collect(),
        ..Trace::default()
    }
}

/// Runs a command to its end.
pub(crate) fn end(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(!stderr(&output).contains("panicked"), "{output:?}");
    output
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let bad = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(bad), "not fit to print: {text:?}");
    text
}

/// Standard output as one JSON object.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// The last line of standard output as JSON.
pub(crate) fn last_json(output: &Output) -> Value {
    let text = stdout(output);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// In each stage of a recording, what came in is what became of it.
pub(crate) fn stages_add_up(said: &Value) {
    let stages = said["stages"].as_object().expect("stages");
    assert!(!stages.is_empty());
    for (name, stage) in stages {
        let number = |key: &str| stage[key].as_u64().expect("a number");
        let filtered = stage["filtered"].as_object().expect("reasons");
        let filtered = filtered.values().map(|n| n.as_u64().expect("a number"));
        let became = number("out") + number("lost") + filtered.sum::<u64>();
        assert_eq!(number("in"), became, "{name}: {said}");
    }
}

/// Throws the file's pages out of memory.
pub(crate) fn evict(path: &Path) {
    let file = fs::File::open(path).expect("open");
    file.sync_all().expect("on disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
}

/// How many of a file's pages are in memory, and of how many.
pub(crate) fn resident(path: &Path) -> (usize, usize) {
    let pages = resident_pages(path);
    (pages.iter().filter(|&&page| page).count(), pages.len())
}
