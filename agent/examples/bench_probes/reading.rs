//! The reads that are timed: by processes of their own, so that a cgroup can hold
//! them and nothing else.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use headstart::run::{Cgroup, Child, Ended, Output};
use rustix::time::{ClockId, clock_gettime};

/// The first argument of a process that reads.
pub(crate) const READ: &str = "read";

/// 1 MiB: stays in a CPU's own caches, so that what is attached is most of what
/// differs.
pub(crate) const BYTES: usize = 1 << 20;
/// Of one read.
pub(crate) const BLOCK: usize = 4096;
/// Reads that are timed together: some 1.5 ms, so that many slices of a turn are
/// not interrupted.
pub(crate) const SLICE: u32 = 2048;
/// How long a turn is timed.
pub(crate) const TURN: Duration = Duration::from_millis(200);
/// Before it: processes start, and everything is read once and learned.
const AHEAD: Duration = Duration::from_millis(60);

/// Files in memory, one for each job: what jobs would share is not ours.
pub(crate) struct Reading {
    files: Vec<PathBuf>,
}

impl Reading {
    /// Makes files for so many jobs, and leaves them cached.
    pub(crate) fn prepare(directory: &Path, jobs: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let files: Vec<PathBuf> = (0..jobs)
            .map(|job| directory.join(format!("cached-{job}")))
            .collect();
        for file in &files {
            fs::write(file, vec![1; BYTES])?;
        }
        rustix::fs::sync();
        Ok(Self { files })
    }

    /// One job, reading for `time` from now on.
    pub(crate) fn command(&self, time: Duration) -> anyhow::Result<Vec<OsString>> {
        let now = now();
        command(&self.files[0], now, now + time)
    }

    /// ns that a read takes in the fastest slice, of each of `jobs` that read at
    /// the same time in a cgroup: their mean.
    pub(crate) fn ns(&self, cgroup: &Cgroup, jobs: usize) -> anyhow::Result<f64> {
        let start = now() + AHEAD;
        let files = &self.files[..jobs];
        let mut children = Vec::new();
        for file in files {
            let command = command(file, start, start + TURN)?;
            children.push(Child::spawn(&command, Some(cgroup.as_fd()), Output::Null)?);
        }
        // The last one first: each gives back the signals that were blocked before it.
        while let Some(mut child) = children.pop() {
            let ended = child.wait(None)?;
            ensure!(ended == Some(Ended::Exited(0)), "a reader: {ended:?}");
        }
        let mut sum = 0.0;
        for file in files {
            let text = fs::read_to_string(result(file)).context("what a reader wrote")?;
            let ns: f64 = text.parse()?;
            sum += ns;
        }
        Ok(sum / jobs as f64)
    }
}

/// The time that processes have in common.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn result(file: &Path) -> PathBuf {
    file.with_extension("ns")
}

fn command(file: &Path, start: Duration, end: Duration) -> anyhow::Result<Vec<OsString>> {
    let times = [start, end].map(|time| time.as_nanos().to_string().into());
    let program = std::env::current_exe()?;
    let mut command = vec![program.into(), READ.into(), file.into()];
    command.extend(times);
    Ok(command)
}

/// What such a process does: its arguments are a file and when to time reads of
/// it, from and to.
pub(crate) fn read(args: &[OsString]) -> anyhow::Result<()> {
    let [path, start, end] = args else {
        anyhow::bail!("a file and two times are wanted");
    };
    let time = |text: &OsString| -> anyhow::Result<Duration> {
        Ok(Duration::from_nanos(text.to_string_lossy().parse()?))
    };
    let (start, end) = (time(start)?, time(end)?);
    let path = Path::new(path);
    let file = File::open(path)?;
    let mut room = [0; BLOCK];
    let mut next = 1u64;
    let mut slice = || -> anyhow::Result<Duration> {
        let began = Instant::now();
        for _ in 0..SLICE {
            // Any order that no read-ahead takes for one.
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (next >> 33) % (BYTES / BLOCK) as u64;
            file.read_exact_at(&mut room, block * BLOCK as u64)?;
        }
        Ok(began.elapsed())
    };
    while now() < start {
        slice()?;
    }
    let mut fastest = slice()?;
    while now() < end {
        fastest = fastest.min(slice()?);
    }
    let ns = fastest.as_nanos() as f64 / f64::from(SLICE);
    fs::write(result(path), ns.to_string())?;
    Ok(())
}
