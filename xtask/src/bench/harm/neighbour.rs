//! Somebody else on the node, who reads at an even pace and looks how long each read takes.
//! A process of its own, so that it can have cgroups of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::bench::node::read_bytes;
use crate::bench::throttle::command_in;

/// Bytes of a read.
const READ: usize = 4096;
/// Whole passes over a file that make it the reader's: pages used twice are kept longest.
const PASSES: usize = 2;

/// `cargo xtask bench neighbour`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    file: PathBuf,
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    seconds: f64,
}

/// How it reads: 4 KiB at random places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// From the disk, one read at a time.
    Direct,
    /// What is in memory; it has read all of it before.
    Cached,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Cached => "cached",
        }
    }

    /// Reads that follow one another, and from one such row to the next.
    fn pace(self) -> (usize, Duration) {
        match self {
            Kind::Direct => (1, Duration::from_micros(2500)),
            Kind::Cached => (64, Duration::from_micros(2500)),
        }
    }
}

/// What it saw.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Latency of the middle read, µs.
    pub(super) p50: f64,
    /// Latency that one read of a hundred exceeds, µs.
    pub(super) p99: f64,
    reads: usize,
    /// What had to come from the disk for it, bytes.
    pub(super) bytes_read: u64,
}

/// How it says that it has all in memory that it wants there.
const READY: &str = "ready\n";

/// Says when it is ready, waits for a line, reads for a time, and prints what it saw.
pub(crate) fn run(args: &Args) -> Result<()> {
    let seen = seen(args, || {
        print!("{READY}");
        std::io::stdout().flush()?;
        std::io::stdin().read_line(&mut String::new()).map(drop)
    })?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

fn seen(args: &Args, wait_until_told: impl FnOnce() -> std::io::Result<()>) -> Result<Seen> {
    let flags = match args.kind {
        Kind::Direct => OFlags::RDONLY | OFlags::DIRECT,
        Kind::Cached => OFlags::RDONLY,
    };
    let file = rustix::fs::open(&args.file, flags, Mode::empty())
        .with_context(|| format!("opening {}", args.file.display()))?;
    let blocks = rustix::fs::fstat(&file)?.st_size as u64 / READ as u64;
    ensure!(blocks > 0, "{} is too small", args.file.display());
    // Reads that go around the cache need their memory aligned.
    let mut memory = vec![0; 2 * READ];
    let aligned = memory.as_ptr().align_offset(READ);
    let buffer = &mut memory[aligned..aligned + READ];
    if args.kind == Kind::Cached {
        for block in (0..PASSES).flat_map(|_| 0..blocks) {
            rustix::io::pread(&file, &mut *buffer, block * READ as u64)?;
        }
        // Nobody's readahead is to bring back what is pushed out from now on.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    }
    wait_until_told()?;
    let before = own_reads()?;
    let (row, period) = args.kind.pace();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ blocks;
    let mut took = Vec::new();
    let began = Instant::now();
    let mut due = began;
    while began.elapsed().as_secs_f64() < args.seconds {
        for _ in 0..row {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = random % blocks * READ as u64;
            let from = Instant::now();
            rustix::io::pread(&file, &mut *buffer, at)?;
            took.push(from.elapsed().as_nanos() as u64);
        }
        due += period;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
    }
    took.sort_unstable();
    let microseconds = |percent: usize| {
        let at = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(at).map_or(f64::NAN, |&ns| ns as f64 / 1e3)
    };
    Ok(Seen {
        p50: microseconds(50),
        p99: microseconds(99),
        reads: took.len(),
        bytes_read: own_reads()? - before,
    })
}

fn own_reads() -> Result<u64> {
    read_bytes(&fs::read_to_string("/proc/thread-self/io")?).context("reading what was read")
}

/// One that is ready to read.
pub(super) struct Neighbour {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Neighbour {
    /// Starts one, in a cgroup if there is one, and waits until it is ready.
    pub(super) fn start(
        kind: Kind,
        file: &Path,
        time: Duration,
        cgroup: Option<&Path>,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = match cgroup {
            Some(cgroup) => command_in(cgroup, program),
            None => Command::new(program),
        };
        let mut child = command
            .args(["bench", "neighbour", "--kind", kind.name()])
            .args(["--seconds", &time.as_secs_f64().to_string()])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a neighbour")?;
        let output = child.stdout.take().context("its output is piped")?;
        let mut said = BufReader::new(output);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line == READY, "a neighbour did not get ready");
        Ok(Self { child, said })
    }

    /// Has it read from now on.
    pub(super) fn go(&mut self) {
        // A line is the end of input.
        drop(self.child.stdin.take());
    }

    /// What it saw, once it has.
    pub(super) fn seen(mut self) -> Result<Seen> {
        let mut text = String::new();
        self.said.read_to_string(&mut text)?;
        let ended = self.child.wait()?;
        ensure!(ended.success(), "a neighbour: {ended}");
        serde_json::from_str(&text).context("reading what a neighbour saw")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_how_long_its_reads_take() {
        let file = std::env::temp_dir().join(format!("xtask-neighbour-{}", std::process::id()));
        fs::write(&file, vec![1; 64 * READ]).expect("written");
        let args = Args {
            file: file.clone(),
            kind: Kind::Cached,
            seconds: 0.05,
        };
        // The file was written just now; the program's own pages may have to be read once,
        // after a test beside this one that drops what is cached.
        let mut all = (0..10).map(|_| seen(&args, || Ok(())).expect("it reads"));
        let seen = all.find(|seen| seen.bytes_read == 0);
        let seen = seen.expect("nothing has to be read");
        assert!(
            seen.reads >= 64 && seen.p50 > 0.0 && seen.p50 <= seen.p99,
            "{seen:?}"
        );
        fs::remove_file(file).expect("it is there");
    }
}
