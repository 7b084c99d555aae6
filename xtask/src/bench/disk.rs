//! The disk that a file lies on: what was read from it, and how much it reads
//! ahead.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::run;

/// Empties the page cache, and forgets names and inodes.
pub(super) fn drop_caches() -> Result<()> {
    run::run(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3\n").context("dropping caches")
}

/// A whole disk: limits, counts and settings are not kept by partition.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// The disk of a file.
    pub fn of(path: &Path) -> Result<Self> {
        let device = path
            .metadata()
            .with_context(|| format!("looking at {}", path.display()))?
            .dev();
        // As the kernel's headers put the two numbers together.
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & !0xff);
        let directory = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let directory = directory
            .canonicalize()
            .with_context(|| format!("{} does not lie on a block device", path.display()))?;
        let directory = match directory.parent() {
            Some(disk) if directory.join("partition").exists() => disk.to_owned(),
            _ => directory,
        };
        Ok(Self { directory })
    }

    /// `major:minor`.
    pub fn numbers(&self) -> Result<String> {
        self.read("dev")
    }

    /// Bytes read since the machine started.
    pub fn bytes_read(&self) -> Result<u64> {
        Ok(self.counted(2)? * 512)
    }

    /// Reads since the machine started, neighbours merged.
    pub fn reads(&self) -> Result<u64> {
        self.counted(0)
    }

    /// A field of the disk's counts (Documentation/block/stat.rst).
    fn counted(&self, field: usize) -> Result<u64> {
        let stat = self.read("stat")?;
        let count = stat.split_whitespace().nth(field).map(str::parse);
        count
            .context("reading the disk's counts")?
            .context("reading the disk's counts")
    }

    /// How much it reads ahead, KiB.
    pub fn read_ahead(&self) -> Result<u32> {
        let text = self.read("queue/read_ahead_kb")?;
        text.parse().context("reading how much is read ahead")
    }

    /// Sets how much it reads ahead, until the guard is dropped or this process
    /// ends in whatever way.
    pub fn set_read_ahead(&self, kibibytes: u32) -> Result<ReadAhead> {
        let file = self.directory.join("queue/read_ahead_kb");
        let before = self.read_ahead()?;
        // It lives until our end of its standard input closes, which not even
        // SIGKILL prevents; an interrupt at the terminal does not reach it.
        let script = "trap '' INT TERM HUP; cat >/dev/null; echo \"$0\" >\"$1\"";
        let keeper = Command::new("sh")
            .args(["-c", script, &before.to_string()])
            .arg(&file)
            .stdin(Stdio::piped())
            .spawn()
            .context("starting what puts read-ahead back")?;
        let guard = ReadAhead { keeper };
        // In one write: the kernel takes each for a number of its own.
        fs::write(&file, format!("{kibibytes}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(guard)
    }

    fn read(&self, name: &str) -> Result<String> {
        let file = self.directory.join(name);
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading {}", file.display()))?;
        Ok(text.trim().to_owned())
    }
}

/// Puts a disk's read-ahead back.
#[derive(Debug)]
pub struct ReadAhead {
    keeper: Child,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("warning: read-ahead was not put back: {status}"),
            Err(error) => eprintln!("warning: read-ahead may not be put back: {error}"),
        }
    }
}
