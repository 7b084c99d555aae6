//! Other workloads of the node: they start over and over, or somebody says that they will.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bench::node::{Agent, Tree};
use crate::bench::throttle::command_in;
use crate::run;

/// Workloads, and what each reads when it starts.
const WORKLOADS: u64 = 4;
const BYTES: u64 = 256 << 20;

/// How often it is looked whether the agent has read what it was told.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A unit that reads a file when it starts.
#[derive(Debug)]
pub(super) struct Workload {
    unit: String,
    file: PathBuf,
}

/// Workloads of a node.
pub(super) struct Load<'a> {
    pub(super) tree: &'a Tree,
    /// In which they start beside their own, if any.
    pub(super) cgroup: Option<&'a Path>,
    pub(super) workloads: &'a [Workload],
    /// From one start to the next, if it is over by then.
    pub(super) every: Duration,
}

/// Makes their files in a directory.
pub(super) fn workloads(directory: &Path) -> Result<Vec<Workload>> {
    (0..WORKLOADS)
        .map(|number| {
            let file = directory.join(format!("workload-{number}"));
            make_file(&file, BYTES)?;
            Ok(Workload {
                unit: format!("harm{number}.service"),
                file,
            })
        })
        .collect()
}

/// Makes a file of data that no disk stores for less than it is long, if it is not there.
pub(super) fn make_file(file: &Path, bytes: u64) -> Result<()> {
    if fs::metadata(file).is_ok_and(|found| found.len() == bytes) {
        return Ok(());
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    let mut number = bytes;
    for _ in 0..bytes / 8 {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        out.write_all(&number.to_le_bytes())?;
    }
    let out = out.into_inner().context("writing a file to read")?;
    out.sync_all()
        .with_context(|| format!("writing {}", file.display()))
}

/// What is used of what `workloads --json` says.
#[derive(Deserialize)]
struct Known {
    workloads: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    key: String,
    runs: u64,
}

impl Load<'_> {
    /// Has an agent learn each workload.
    pub(super) fn learn(&self, agent: &Agent) -> Result<()> {
        for workload in self.workloads {
            self.start(workload)?;
            let key = workload.key();
            agent.until(&format!("{key} is learned"), || {
                let known: Known = agent.json("workloads")?;
                let mut all = known.workloads.into_iter();
                all.find(|one| one.key == key && one.runs > 0)
            })?;
        }
        Ok(())
    }

    /// Starts them one after the other, over and over, each with nothing of it in memory,
    /// and at an even pace: quicker starts are not to be more starts.
    pub(super) fn start_all(&self, stop: &AtomicBool) -> Result<()> {
        let mut all = self.workloads.iter().cycle();
        let mut next = Instant::now();
        while let Some(workload) = all.next().filter(|_| !stop.load(Ordering::Relaxed)) {
            self.start(workload)?;
            next += self.every;
            while Instant::now() < next && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Tells the agent that they will start, again and again as soon as it has read what
    /// it was told; they don't.
    pub(super) fn announce_all(&self, agent: &Agent, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let enough = agent.bytes_read()? + WORKLOADS * BYTES / 10 * 9;
            for workload in self.workloads {
                evict(&workload.file)?;
                run::captured(&mut agent.headstart(&["notify", &workload.key()]))?;
            }
            while agent.bytes_read()? < enough && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn start(&self, workload: &Workload) -> Result<()> {
        evict(&workload.file)?;
        let unit = self.tree.make(&workload.unit)?;
        let mut inner = command_in(&unit, "cat");
        inner.arg(&workload.file);
        let mut command = match self.cgroup {
            Some(cgroup) => {
                let mut command = command_in(cgroup, inner.get_program());
                command.args(inner.get_args());
                command
            }
            None => inner,
        };
        let ended = run::run(command.stdout(Stdio::null()));
        crate::bench::throttle::remove(&unit);
        ended
    }
}

impl Workload {
    fn key(&self) -> String {
        format!("unit:{}", self.unit)
    }
}

/// Throws a file out of memory, at the expense of nobody who wants the processor.
fn evict(file: &Path) -> Result<()> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(file);
    run::captured(
        Command::new("nice")
            .args(["-n", "19", "dd", "iflag=nocache", "count=0", "status=none"])
            .arg(input),
    )
    .map(drop)
}
