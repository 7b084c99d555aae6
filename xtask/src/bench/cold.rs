//! Cold starts.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// Empties the page cache, the dentries and the inodes. Dirty pages stay where
/// they are, so they are written out first.
pub fn drop_caches() -> Result<()> {
    run::run(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "3\n").context("dropping caches (needs root)")
}
