//! Scratch space, recording, and what the page cache holds.

use crate::residency::resident_pages;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headstart::probe::{Group, Kind, Place, ProbeError};
use headstart::run::{
    Child, Ended, FaultAround, Output, RING_BYTES, RecordError, Recorder, Recording, Traced,
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::reader::{self, Op};

/// The page cache is the machine's, cgroups are named by process: one at a time.
static MACHINE: Mutex<()> = Mutex::new(());

/// A directory on a real disk, and a recorder.
pub(crate) struct Scratch {
    pub(crate) root: PathBuf,
    recorder: Recorder,
    _dir: tempfile::TempDir,
    _machine: MutexGuard<'static, ()>,
}

impl Scratch {
    /// `None` where nothing can be recorded here: said on standard error.
    pub(crate) fn new() -> Option<Self> {
        Self::with_ring(RING_BYTES)
    }

    pub(crate) fn with_ring(bytes: u32) -> Option<Self> {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: recording needs root");
            return None;
        }
        let recorder = match Recorder::with_places(bytes, takes) {
            Err(RecordError::Probe(ProbeError::NotBuilt)) => {
                eprintln!("SKIPPED: {}", ProbeError::NotBuilt);
                return None;
            }
            other => other.expect("recorder"),
        };
        for hook in recorder.hooks().iter().filter(|hook| !hook.live) {
            eprintln!("SKIPPED: {} is not live: {}", hook.program, hook.reason);
        }
        if recorder.hooks().iter().any(|hook| !hook.live) {
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("dir");
        Some(Self {
            root: dir.path().canonicalize().expect("real path"),
            recorder,
            _dir: dir,
            _machine: machine,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Records the reader doing `ops`.
    pub(crate) fn record(&mut self, ops: &[Op]) -> Recording {
        let command = reader::command(&self.path("script"), ops);
        self.record_command(&command)
    }

    /// As [`Scratch::record`], without fault-around; `None` where that can't be
    /// done here.
    pub(crate) fn record_exactly(&mut self, ops: &[Op]) -> Option<Recording> {
        let command = reader::command(&self.path("script"), ops);
        let (recording, _child) = self
            .recorder
            .record_exact(&command, Output::Inherit, None)
            .expect("recorded");
        assert_eq!(recording.ended, Some(Ended::Exited(0)), "{ops:?}");
        if !recording.traced.as_ref().is_some_and(Traced::is_exact) {
            eprintln!("SKIPPED: not exact here: {:?}", recording.traced);
            return None;
        }
        Some(recording)
    }

    /// As [`Scratch::record`], with the kernel's fault-around window narrowed.
    pub(crate) fn record_narrowed(&mut self, ops: &[Op]) -> Recording {
        let command = reader::command(&self.path("script"), ops);
        let around = FaultAround::claim(&self.root).expect("debugfs can be written");
        let (recording, _child) = self
            .recorder
            .record_narrowed(&command, Output::Inherit, None, around)
            .expect("recorded");
        assert_eq!(recording.ended, Some(Ended::Exited(0)), "{ops:?}");
        assert!(recording.is_exact(), "{:?}", recording.narrowed);
        recording
    }

    /// Records the beginning of a command that goes on after it.
    pub(crate) fn record_beginning(
        &mut self,
        command: &[OsString],
        window: Duration,
    ) -> (Recording, Child) {
        let (recording, child) = self
            .recorder
            .record(command, Output::Null, Some(window))
            .expect("recorded");
        assert_eq!(recording.ended, None, "{command:?}");
        (recording, child)
    }

    /// Records a command that has to succeed.
    pub(crate) fn record_command(&mut self, command: &[OsString]) -> Recording {
        let (recording, _child) = self
            .recorder
            .record(command, Output::Inherit, None)
            .expect("recorded");
        assert_eq!(recording.ended, Some(Ended::Exited(0)), "{command:?}");
        recording
    }
}

/// Which hooks are tried: [`HOOKS`] may say `fentry` or `kprobe`, so that a kernel
/// with tracepoints is recorded as those are that have none.
pub(crate) fn takes(place: &Place) -> bool {
    // Tracepoints that all kernels have are taken in any case.
    let everywhere = place.kind == Kind::RawTracepoint || place.at == "sys_exit";
    match std::env::var(HOOKS).as_deref() {
        Ok("fentry") => everywhere || place.kind.is_function(),
        Ok("kprobe") => everywhere || place.kind == Kind::Kprobe,
        _ => true,
    }
}

const HOOKS: &str = "HEADSTART_TRUTH_HOOKS";

/// Every group of hooks.
pub(crate) const GROUPS: [Group; 5] = [
    Group::Use,
    Group::Miss,
    Group::Names,
    Group::Lifecycle,
    Group::Signal,
];

/// Writes `bytes` bytes that no file system stores without blocks.
pub(crate) fn write(path: &Path, bytes: u64) {
    let data: Vec<u8> = (0..bytes)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8 | 1)
        .collect();
    std::fs::write(path, data).expect("write");
}

/// Writes everything back and empties the page cache, and the dentries and
/// inodes with it.
pub(crate) fn drop_caches() {
    headstart::run::drop_caches().expect("root can drop caches");
}

/// Reads a whole file, so that it is cached. Not seen: this process is not the
/// recorded one.
pub(crate) fn heat(path: &Path) {
    std::fs::read(path).expect("read");
}

/// Pages of a file that are in the page cache.
pub(crate) fn resident(path: &Path) -> crate::pages::Pages {
    (0..)
        .zip(resident_pages(path))
        .filter_map(|(page, is_there)| is_there.then_some(page))
        .collect()
}

/// A FIFO that this process never blocks on, nor its reader for lack of a writer.
pub(crate) fn fifo(path: &Path) -> File {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: a path that ends with a NUL.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("fifo")
}

/// Waits for a byte, for half a minute at most.
pub(crate) fn wait(fifo: &mut File) {
    let limit = rustix::time::Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&*fifo, PollFlags::IN)];
    assert_eq!(
        poll(&mut fds, Some(&limit)),
        Ok(1),
        "the reader came so far"
    );
    fifo.read_exact(&mut [0]).expect("read");
}

/// Runs a program that prepares a test; `None` and a word about it if it can't.
pub(crate) fn prepare(program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Option<()> {
    let mut command = Command::new(program);
    for arg in args {
        command.arg(arg);
    }
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            eprintln!("SKIPPED: {program}: {}", message.trim());
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            None
        }
    }
}
