//! A machine with systemd on which the agent is installed, and units of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::residency::resident_pages;

const BUILT: &str = env!("CARGO_BIN_EXE_headstart");
const UNIT: &str = include_str!("../../deploy/systemd/headstart.service");
pub(crate) const INSTALLED: &str = "/usr/bin/headstart";
pub(crate) const SERVICE: &str = "headstart.service";

/// The job of a guest of `cargo xtask vm`.
const GUEST: &str = "/vm/job.json";

/// Longest that anything here may take; a failure, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is looked at again and again is asked of a program, which takes its time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `found` gives something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("HEADSTART_LOG");
    command.stdin(Stdio::null()).output().expect("it starts")
}

/// What a program printed that has to succeed.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn systemctl(arguments: &[&str]) -> String {
    said("systemctl", arguments)
}

/// A property of the agent's unit.
pub(crate) fn property(name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, SERVICE])
}

/// Empties caches of data, names and inodes.
pub(crate) fn forget() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3\n").expect("caches are dropped");
}

/// The machine, with the agent running on it as a service.
pub(crate) struct Machine;

impl Machine {
    /// Installs and starts the agent where it does not run. `None`, and why, where this is
    /// no machine to be changed.
    pub(crate) fn new() -> Option<Self> {
        if !Path::new("/run/systemd/system").exists() {
            eprintln!("SKIPPED: the first process is not systemd");
            return None;
        }
        if !Path::new(GUEST).exists() {
            eprintln!("SKIPPED: it installs a service: only in a guest of `cargo xtask vm`");
            return None;
        }
        let machine = Self;
        if !run("systemctl", &["is-active", SERVICE]).status.success() {
            machine.install();
        }
        Some(machine)
    }

    /// As deploy/README.md says.
    fn install(&self) {
        said("install", &["-m", "755", BUILT, INSTALLED]);
        unit(SERVICE, UNIT);
        fs::create_dir_all("/etc/headstart").expect("a directory");
        // Longer than it takes a slow guest to see that all is warm, and no longer.
        let config = "[agent]\nsettle_after = \"4s\"\nlearn_at_most = \"20s\"\nhook_share = 1.0\ncpu_pressure = 100.0\nmeasure_disks = false\n";
        fs::write("/etc/headstart/config.toml", config).expect("written");
        systemctl(&["enable", "--now", SERVICE]);
    }

    /// What `headstart --json ARGUMENTS` says.
    pub(crate) fn json(&self, arguments: &[&str]) -> Option<Value> {
        let output = run(INSTALLED, &[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What is known of a workload.
    pub(crate) fn workload(&self, key: &str) -> Option<Value> {
        let all = self.json(&["workloads"])?;
        let all = all["workloads"].as_array()?;
        all.iter().find(|w| w["key"] == key).cloned()
    }

    /// The workload once so many starts of it were noticed, and the last one is learned.
    pub(crate) fn learned(&self, key: &str, starts: u64) -> Value {
        until(&format!("start {starts} of {key} is learned"), || {
            self.workload(key).filter(|w| {
                w["starts"].as_u64() >= Some(starts)
                    && w["runs"].as_u64() >= Some(1)
                    && w["last"]["over"] == true
            })
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = run("journalctl", &["--no-pager", "-n", "60", "-u", SERVICE]);
            eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
            let status = run("systemctl", &["--no-pager", "status", SERVICE]);
            eprintln!("{}", String::from_utf8_lossy(&status.stdout));
        }
    }
}

/// Writes a unit's file and has systemd read it.
pub(crate) fn unit(name: &str, text: &str) {
    let file = Path::new("/etc/systemd/system").join(name);
    fs::create_dir_all(file.parent().expect("a directory")).expect("made");
    fs::write(&file, text).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permitted");
    systemctl(&["daemon-reload"]);
}

/// Something that waits until it is told to, then reads a file on the disk.
pub(crate) struct Reader {
    dir: PathBuf,
    bytes: usize,
}

impl Reader {
    /// With files in a directory of this name.
    pub(crate) fn new(dir: &str, bytes: usize) -> Self {
        let reader = Self {
            dir: dir.into(),
            bytes,
        };
        fs::create_dir_all(&reader.dir).expect("a directory");
        let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
        fs::write(reader.data(), data).expect("written");
        said("mkfifo", &[&reader.gate().display().to_string()]);
        reader
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn gate(&self) -> PathBuf {
        self.dir.join("gate")
    }

    /// For a shell.
    pub(crate) fn script(&self) -> String {
        let (gate, data) = (self.gate(), self.data());
        format!(
            "read go < {}; cat {} > /dev/null",
            gate.display(),
            data.display()
        )
    }

    /// Lets it read.
    pub(crate) fn go(&self) {
        // Opens once there is somebody who waits.
        let gate = fs::File::options().write(true).open(self.gate());
        gate.expect("open").write_all(b"go\n").expect("written");
    }

    /// Lets it read once that will be learned: on a slow machine hooks are attached late.
    pub(crate) fn go_learned(&self) {
        until("it is being learned", || {
            let status = Machine.json(&["status"])?;
            (status["learning"].as_u64() >= Some(1)).then_some(())
        });
        self.go();
    }

    /// Waits until all that it will read is in memory, before it reads anything, and the
    /// agent knows it: when a read has come it notices a little later.
    pub(crate) fn is_warm(&self) {
        until("what it will read is in memory", || {
            let pages = resident_pages(&self.data());
            pages.iter().all(|&there| there).then_some(())
        });
        until("the plan is carried out", || {
            let status = Machine.json(&["status"])?;
            (status["warming"] == 0).then_some(())
        });
    }

    /// Empties caches until nothing is in memory of what it will read.
    pub(crate) fn forget(&self) {
        until("what it will read is in memory no more", || {
            forget();
            let pages = resident_pages(&self.data());
            (!pages.iter().any(|&there| there)).then_some(())
        });
    }

    pub(crate) fn is_cold(&self) {
        assert!(resident_pages(&self.data()).iter().all(|&there| !there));
    }

    /// Holds what became of a start against what it read.
    pub(crate) fn was_used(&self, known: &Value) {
        let last = &known["last"];
        assert_eq!(last["signal"], "cgroup", "{known}");
        let bytes = |name: &str| last[name].as_u64().expect("bytes");
        assert!(bytes("used") >= self.bytes as u64, "{known}");
        println!(
            "fact {}: read by the agent, used, late, wasted, missed: {}, {}, {}, {}, {} KiB",
            known["key"].as_str().unwrap_or_default().replace(':', " "),
            bytes("read") >> 10,
            bytes("used") >> 10,
            bytes("late") >> 10,
            bytes("wasted") >> 10,
            bytes("missed") >> 10,
        );
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
