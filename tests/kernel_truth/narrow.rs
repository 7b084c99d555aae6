//! Recording with the kernel's fault-around window narrowed to one page: mapped pages
//! are as exact as read ones, and the window is as before whatever happens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use headstart::model::PAGE_SIZE;
use headstart::run::{FaultAround, FaultAroundError, may_narrow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use crate::disks::{Disk, Kind};
use crate::maps::{self, PAGES};
use crate::pages::{Seen, Sum};
use crate::reader::{How, Mapping, Op};
use crate::support::{Scratch, heat, write};

const HEADSTART: &str = env!("CARGO_BIN_EXE_headstart");
const SETTING: &str = "/sys/kernel/debug/fault_around_bytes";

fn scratch() -> Option<Scratch> {
    if let Err(error) = may_narrow() {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    Scratch::new()
}

#[test]
fn nearly_all_is_covered_and_nearly_nothing_over() {
    let Some(mut scratch) = scratch() else {
        return;
    };
    let cases = maps::cases();
    let Some(disk) = maps::disk_of(&scratch, Kind::Ext4, &cases) else {
        return;
    };
    // There `record` traces instead.
    let around = FaultAround::claim(&scratch.root).expect("debugfs can be written");
    if let Err(error) = around.tried_in(&disk.home) {
        assert!(matches!(error, FaultAroundError::MapsMore(_)), "{error}");
        eprintln!("SKIPPED: {error}");
        return;
    }
    for state in ["cold", "hot"] {
        let ops = maps::prepared(&cases, &disk, state == "hot");
        let recording = scratch.record_narrowed(&ops);
        let mut sum = Sum::default();
        for case in &cases {
            let seen = Seen::of(&recording.trace, &disk.home.join(case.file));
            assert!(seen.maybe.is_empty(), "{state} {}: {seen:?}", case.file);
            sum.add(&seen, &case.used);
        }
        sum.print(&format!("maps narrowed, {state}"));
        let (certain, over) = sum.certain_and_over();
        assert!(certain >= 98.0 && over <= 5.0, "{state}: {certain} {over}");
    }
}

/// Nothing is asserted of the time: it is printed for `docs/kernels.md`.
#[test]
fn what_the_faults_cost() {
    let Some(mut scratch) = scratch() else {
        return;
    };
    let Some(disk) = Disk::new(&scratch, Kind::Ext4, &crate::exec::fill) else {
        return;
    };
    let program = disk.mount.join("program");
    let data = scratch.path("data");
    let pages = 16 * PAGES;
    write(&data, pages * PAGE_SIZE);
    let map = |touch: Vec<u64>| {
        How::Map(Mapping {
            pages,
            touch,
            ..Mapping::default()
        })
    };
    let works = [
        (
            "program",
            Op::new(&program, How::Execute(vec!["--list".to_owned()])),
        ),
        (
            "every page mapped",
            Op::new(&data, map((0..pages).collect())),
        ),
    ];
    heat(&program);
    heat(&data);
    for (what, op) in works {
        let ops = [op];
        let mut best = [f64::MAX; 2];
        for _ in 0..5 {
            best[0] = best[0].min(scratch.record(&ops).seconds);
            best[1] = best[1].min(scratch.record_narrowed(&ops).seconds);
        }
        let [windows, narrowed] = best.map(|seconds| seconds * 1e3);
        let ratio = narrowed / windows;
        println!(
            "fact narrowed, hot, {what}: {windows:.0} ms with windows, {narrowed:.0} ms without: {ratio:.2} times"
        );
    }
}

/// A state directory, and the window as it was when dropped.
struct Stage {
    scratch: Scratch,
    before: u64,
}

impl Stage {
    fn new() -> Option<Self> {
        let scratch = scratch()?;
        let before = setting();
        assert!(before > PAGE_SIZE, "{before} from the beginning");
        Some(Self { scratch, before })
    }

    fn headstart(&self, args: &[&str]) -> Command {
        let mut command = Command::new(HEADSTART);
        let state = self.scratch.path("state");
        command
            .arg("--json")
            .arg("--state-dir")
            .arg(state)
            .args(args);
        command.stdin(Stdio::null());
        command
    }

    /// What it says in its last line, and what the command printed before.
    fn record(&self, exact: &str, script: &str) -> (Value, String) {
        let args = [
            "record",
            "--profile",
            "p",
            "--exact",
            exact,
            "--",
            "sh",
            "-c",
            script,
        ];
        let output = self.headstart(&args).output().expect("started");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let (printed, last) = text.trim_end().rsplit_once('\n').unwrap_or(("", &text));
        let said = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"));
        (said, printed.to_owned())
    }

    fn cleanup(&self) -> Value {
        let output = self.headstart(&["cleanup"]).output().expect("started");
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        said["fault_around_bytes"].clone()
    }

    /// A recording of a command that stays, the first line of which (its process id) and
    /// the rest of what both print.
    fn begin_a_recording(&self) -> (Child, String, BufReader<ChildStdout>) {
        let mut args = vec!["record", "--profile", "p", "--exact", "always", "--"];
        args.extend(["sh", "-c", "echo $$; exec sleep 1000"]);
        let mut recording = self
            .headstart(&args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        let mut out = BufReader::new(recording.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("the command's line");
        (recording, line, out)
    }

    /// Kills a recording in its middle; its command is ended too.
    fn kill_a_recording(&self) {
        let (mut recording, line, _out) = self.begin_a_recording();
        assert_eq!(setting(), PAGE_SIZE, "narrow while it runs");
        recording.kill().expect("killed");
        recording.wait().expect("waited for");
        let command = line.trim().parse().ok().and_then(Pid::from_raw);
        let command = command.expect("a process id");
        kill_process(command, Signal::KILL).expect("killed");
        assert_eq!(setting(), PAGE_SIZE, "nobody was left to put it back");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        set(self.before);
    }
}

fn setting() -> u64 {
    let text = fs::read_to_string(SETTING).expect("debugfs");
    text.trim().parse().expect("a number")
}

fn set(bytes: u64) {
    fs::write(SETTING, format!("{bytes}\n")).expect("debugfs");
}

#[test]
fn record_narrows_by_default_and_says_so() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let (said, printed) = stage.record("auto", &format!("cat {SETTING}"));
    assert_eq!(printed, PAGE_SIZE.to_string(), "while the command runs");
    assert_eq!(setting(), stage.before);
    assert_eq!(said["narrowed"], json!({"maybe_pages": 0, "error": null}));
    assert_eq!(said["traced"], Value::Null);
    assert_eq!(said["exact"], true);
    assert_eq!(said["bytes_maybe"], 0);
    let (said, printed) = stage.record("never", &format!("cat {SETTING}"));
    assert_eq!(printed, stage.before.to_string());
    assert_eq!(said["exact"], false);
    assert_eq!(stage.cleanup(), json!({"outcome": "nothing"}));
}

#[test]
fn it_needs_no_mounted_debugfs() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let script = "umount /sys/kernel/debug; exec \"$@\"";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
        ])
        .args([HEADSTART, "--json", "--state-dir"])
        .arg(stage.scratch.path("state"))
        .args(["record", "--profile", "p", "--", "true"])
        .output()
        .expect("started");
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(said["narrowed"], json!({"maybe_pages": 0, "error": null}));
    assert_eq!(setting(), stage.before);
}

#[test]
fn after_a_kill_cleanup_or_the_next_recording_puts_it_back() {
    let Some(stage) = Stage::new() else {
        return;
    };
    stage.kill_a_recording();
    let back = json!({"outcome": "put_back", "from": PAGE_SIZE, "to": stage.before});
    assert_eq!(stage.cleanup(), back);
    assert_eq!(setting(), stage.before);
    assert_eq!(stage.cleanup(), json!({"outcome": "nothing"}));

    stage.kill_a_recording();
    let (_, printed) = stage.record("never", &format!("cat {SETTING}"));
    assert_eq!(printed, stage.before.to_string(), "before the command runs");
    assert_eq!(setting(), stage.before);
}

#[test]
fn what_somebody_else_sets_stays() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let other = 2 * PAGE_SIZE;
    let (said, _) = stage.record("always", &format!("echo {other} > {SETTING}"));
    assert_eq!(setting(), other);
    assert_eq!(said["exact"], false);
    let error = said["narrowed"]["error"].as_str().expect("a reason");
    assert!(error.contains(&other.to_string()), "{error}");

    set(stage.before);
    stage.kill_a_recording();
    set(other);
    assert_eq!(stage.cleanup(), json!({"outcome": "changed", "now": other}));
    assert_eq!(setting(), other);
}

/// A signal ends the command, and its recording with it.
#[test]
fn a_signal_is_a_way_out_too() {
    let Some(stage) = Stage::new() else {
        return;
    };
    let (mut recording, _, _out) = stage.begin_a_recording();
    assert_eq!(setting(), PAGE_SIZE);
    let pid = Pid::from_child(&recording);
    kill_process(pid, Signal::TERM).expect("sent");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a descriptor");
    let limit = rustix::time::Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "it ends");
    recording.wait().expect("waited for");
    assert_eq!(setting(), stage.before);
}
