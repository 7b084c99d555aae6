//! Sets of pages of files, and which pages are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use headstart::model::PAGE_SIZE;

/// A set of pages, by file: true for each page that is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(BTreeMap<PathBuf, Vec<bool>>);

impl Pages {
    /// Pages of these files that are in memory. A file that is not there has none.
    pub(crate) fn resident(files: &BTreeSet<PathBuf>) -> anyhow::Result<Self> {
        let mut pages = Self::default();
        for path in files {
            let resident = match fs::File::open(path) {
                Ok(file) => mincore(&file).with_context(|| format!("{}", path.display()))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error).context(format!("opening {}", path.display())),
            };
            pages.0.insert(path.clone(), resident);
        }
        Ok(pages)
    }

    /// Adds a run of pages.
    pub(crate) fn add(&mut self, file: &Path, start: u64, count: u64) {
        let pages = self.0.entry(file.to_owned()).or_default();
        let (start, end) = (start as usize, (start + count) as usize);
        if pages.len() < end {
            pages.resize(end, false);
        }
        pages[start..end].fill(true);
    }

    /// Of these, the pages that `other` has (`true`) or has not.
    fn kept(&self, other: &Self, shared: bool) -> Self {
        let mut out = Self::default();
        for (path, pages) in &self.0 {
            let others = other.0.get(path).map_or(&[][..], Vec::as_slice);
            let has = |at: usize| others.get(at).copied().unwrap_or(false);
            let kept = pages
                .iter()
                .enumerate()
                .map(|(at, &in_it)| in_it && has(at) == shared);
            out.0.insert(path.clone(), kept.collect());
        }
        out
    }

    /// Without those of `other`.
    pub(crate) fn without(&self, other: &Self) -> Self {
        self.kept(other, false)
    }

    /// Those that both have.
    pub(crate) fn and(&self, other: &Self) -> Self {
        self.kept(other, true)
    }

    /// Those that either has.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (path, pages) in &other.0 {
            for (at, _) in pages.iter().enumerate().filter(|(_, in_it)| **in_it) {
                out.add(path, at as u64, 1);
            }
        }
        out
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        let ones = |pages: &Vec<bool>| pages.iter().filter(|in_it| **in_it).count() as u64;
        self.0.values().map(ones).sum()
    }

    /// How much.
    pub(crate) fn mebibytes(&self) -> f64 {
        (self.count() * PAGE_SIZE) as f64 / 1048576.0
    }

    /// Files with pages in the set, those with most first.
    pub(crate) fn files(&self) -> Vec<(&Path, usize)> {
        let mut files: Vec<(&Path, usize)> = self
            .0
            .iter()
            .map(|(path, pages)| (path.as_path(), pages.iter().filter(|p| **p).count()))
            .filter(|(_, count)| *count > 0)
            .collect();
        files.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        files
    }
}

fn mincore(file: &fs::File) -> io::Result<Vec<bool>> {
    let length = file.metadata()?.len() as usize;
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut vector = vec![0_u8; length.div_ceil(PAGE_SIZE as usize)];
    // SAFETY: a mapping of our own at an address that the kernel chooses; no
    // memory of it is ever looked at, and it is unmapped before the return. The
    // vector has a byte for each of its pages.
    let result = unsafe {
        let fd = file.as_raw_fd();
        let address = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        );
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let result = libc::mincore(address, length, vector.as_mut_ptr());
        let error = io::Error::last_os_error();
        libc::munmap(address, length);
        if result == 0 { Ok(()) } else { Err(error) }
    };
    result?;
    Ok(vector.iter().map(|byte| byte & 1 == 1).collect())
}
