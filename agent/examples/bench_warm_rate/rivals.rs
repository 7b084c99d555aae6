//! Other ways to bring bytes in.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use xtask::bench::fio::fio;

/// One way to read with fio.
pub(crate) struct Rival {
    /// For the table.
    pub(crate) name: &'static str,
    args: &'static [&'static str],
}

/// A file from its beginning to its end.
pub(crate) const SEQUENTIAL: [Rival; 5] = [
    Rival {
        name: "fio, buffered, 1 MiB",
        args: &["--rw=read", "--bs=1m", "--ioengine=psync"],
    },
    Rival {
        name: "fio, buffered, 128 KiB",
        args: &["--rw=read", "--bs=128k", "--ioengine=psync"],
    },
    Rival {
        name: "fio, direct, 1 MiB × 32",
        args: &[
            "--rw=read",
            "--bs=1m",
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=32",
        ],
    },
    Rival {
        name: "fio, direct, 4 MiB × 8",
        args: &[
            "--rw=read",
            "--bs=4m",
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=8",
        ],
    },
    Rival {
        name: "fio, direct, io_uring, 1 MiB × 32",
        args: &[
            "--rw=read",
            "--bs=1m",
            "--ioengine=io_uring",
            "--direct=1",
            "--iodepth=32",
        ],
    },
];

/// Blocks of 16 KiB, each at most once.
pub(crate) const RANDOM: [Rival; 2] = [
    Rival {
        name: "fio randread, direct × 32",
        args: &[
            "--rw=randread",
            "--bs=16k",
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=32",
        ],
    },
    Rival {
        name: "fio randread, direct, io_uring × 32",
        args: &[
            "--rw=randread",
            "--bs=16k",
            "--ioengine=io_uring",
            "--direct=1",
            "--iodepth=32",
        ],
    },
];

impl Rival {
    /// Bytes a second of reading `bytes` of a file.
    pub(crate) fn rate(&self, file: &Path, size: u64, bytes: u64) -> anyhow::Result<f64> {
        let (size, bytes) = (format!("--size={size}"), format!("--io_size={bytes}"));
        Ok(fio(file, &[self.args, &[&size, &bytes]].concat())?.bytes_per_s)
    }
}

/// Bytes a second of `vmtouch -t`.
pub(crate) fn vmtouch(file: &Path, bytes: u64) -> anyhow::Result<f64> {
    let began = Instant::now();
    let output = Command::new("vmtouch")
        .args(["-q", "-t"])
        .arg(file)
        .output();
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        output.context("starting vmtouch")?.status.success(),
        "vmtouch failed"
    );
    Ok(bytes as f64 / seconds)
}
