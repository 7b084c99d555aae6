//! What no start that reads from a disk beats: its bytes ÷ the disk's
//! bandwidth, its reads ÷ the disk's reads a second.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::disk::{Disk, drop_caches};
use super::fio::fio;
use super::programs::Program;
use super::throttle::Limits;
use crate::run;

/// What a disk gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speed {
    /// Bytes a second of large reads.
    pub(super) bytes_per_s: f64,
    /// Small reads a second.
    pub(super) reads_per_s: f64,
}

impl Speed {
    /// Measured on a large file, with 32 reads in flight.
    pub(super) fn measure(file: &Path) -> Result<Self> {
        let deep = [
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=32",
            "--time_based=1",
            "--runtime=2",
        ];
        let with = |more: [&str; 2]| fio(file, &[&deep[..], &more[..]].concat());
        Ok(Self {
            bytes_per_s: with(["--rw=read", "--bs=1m"])?.bytes_per_s,
            reads_per_s: with(["--rw=randread", "--bs=4k"])?.iops,
        })
    }

    /// What a throttled disk gives.
    pub(super) fn within(self, limits: Limits) -> Self {
        let least = |own: f64, limit: Option<u64>| limit.map_or(own, |l| own.min(l as f64));
        Self {
            bytes_per_s: least(self.bytes_per_s, limits.bytes),
            reads_per_s: least(self.reads_per_s, limits.requests),
        }
    }
}

/// Bytes that a cold run of the program reads from its disk when nothing is
/// read ahead: what it uses, metadata included. The lesser of two runs, because
/// what others read is counted too.
pub(super) fn bytes_used(program: &Program) -> Result<u64> {
    let disk = Disk::of(Path::new(&program.command[0]))?;
    let _restored = disk.set_read_ahead(0)?;
    let mut least = u64::MAX;
    for _ in 0..2 {
        drop_caches()?;
        let before = disk.bytes_read()?;
        run::captured(Command::new(&program.command[0]).args(&program.command[1..]))?;
        least = least.min(disk.bytes_read()? - before);
    }
    Ok(least)
}
