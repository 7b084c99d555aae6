//! Waiting for conditions, and reading from commands that go on.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::prepare::prepare;

/// Longest that anything here may take; a failure, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a command that was told to end.
pub(crate) fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    let began = Instant::now();
    while status.is_none() {
        if began.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("it does not end");
        }
        status = child.try_wait().expect("waited for");
        std::thread::sleep(Duration::from_millis(5));
    }
    status.expect("ended")
}

/// Reads lines up to the first that contains `word`; that one.
pub(crate) fn line_with<R: Read>(reader: &mut BufReader<R>, word: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader.read_line(&mut line).expect("text");
        assert!(read > 0, "no line with `{word}`");
        if line.contains(word) {
            return line;
        }
    }
}

/// What a command says with `--json`, which goes on after it has said it.
pub(crate) fn said(child: &mut Child) -> Value {
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut said = String::new();
    while !said.ends_with("\n}\n") {
        let read = output.read_line(&mut said).expect("text");
        assert!(read > 0, "it ended early: {said}");
    }
    serde_json::from_str(&said).expect("JSON")
}

pub(crate) fn send(pid: u32, signal: i32) {
    // SAFETY: plain system call, for signals of real time, too.
    let sent = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(sent, 0, "it is there");
}

/// State letter of a process, as in /proc/PID/stat; `None` when it is gone.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}
