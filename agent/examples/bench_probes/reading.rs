//! The reads that are timed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use headstart::run::{Cgroup, Child, Ended, Output};
use xtask::bench::fio;

/// 64 MiB: stays in memory, and not in a CPU's caches.
const BYTES: usize = 64 << 20;

/// A file in memory.
pub(crate) struct Reading {
    file: PathBuf,
    result: PathBuf,
}

impl Reading {
    /// Makes the file, and leaves it cached.
    pub(crate) fn prepare(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)?;
        let file = directory.join("cached");
        fs::write(&file, vec![1; BYTES])?;
        rustix::fs::sync();
        Ok(Self {
            file,
            result: directory.join("cached.json"),
        })
    }

    /// fio, reading for one second.
    pub(crate) fn command(&self, jobs: usize) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec!["fio".into()];
        command.extend(fio::COMMON.map(Into::into));
        let rest = [
            "--rw=randread",
            "--bs=4k",
            "--ioengine=psync",
            "--norandommap=1",
            "--random_generator=tausworthe64",
            "--gtod_reduce=1",
            "--time_based=1",
            "--runtime=1",
        ];
        command.extend(rest.map(Into::into));
        let mut with = |name: &str, value: &Path| {
            let mut argument = OsString::from(name);
            argument.push(value);
            command.push(argument);
        };
        with("--filename=", &self.file);
        with("--output=", &self.result);
        with("--numjobs=", Path::new(&jobs.to_string()));
        command
    }

    /// ns that a job takes for a read, in a cgroup.
    pub(crate) fn ns(&self, cgroup: &Cgroup, jobs: usize) -> anyhow::Result<f64> {
        let command = self.command(jobs);
        let mut child = Child::spawn(&command, Some(cgroup.as_fd()), Output::Null)?;
        let ended = child.wait(None)?;
        ensure!(ended == Some(Ended::Exited(0)), "fio: {ended:?}");
        let text = fs::read_to_string(&self.result).context("reading what fio wrote")?;
        Ok(jobs as f64 * 1e9 / fio::reads(&text)?.iops)
    }
}
