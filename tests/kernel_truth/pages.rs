//! Sets of pages, and how they differ.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use headstart::model::{Certainty, PAGE_SIZE, Trace};

pub(crate) type Pages = BTreeSet<u64>;

/// Pages that reads of (offset, length) use in a file of `size` bytes.
pub(crate) fn spanned(reads: &[(u64, u64)], size: u64) -> Pages {
    reads
        .iter()
        .map(|&(offset, length)| (offset.min(size), (offset + length).min(size)))
        .filter(|(from, to)| from < to)
        .flat_map(|(from, to)| from / PAGE_SIZE..to.div_ceil(PAGE_SIZE))
        .collect()
}

/// What a trace says of one file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) certain: Pages,
    /// Without the certain ones.
    pub(crate) maybe: Pages,
}

impl Seen {
    /// Of the file at this absolute path.
    pub(crate) fn of(trace: &Trace, path: &Path) -> Self {
        let mut seen = Self::default();
        let path = path.as_os_str().as_bytes();
        for file in &trace.files {
            if trace.volumes[file.volume as usize].absolute(&file.path) != path {
                continue;
            }
            for touch in &file.touches {
                let pages = touch.start_page..touch.start_page + u64::from(touch.pages);
                match touch.certainty {
                    Certainty::Certain => seen.certain.extend(pages),
                    Certainty::Maybe => seen.maybe.extend(pages),
                }
            }
        }
        seen.maybe = &seen.maybe - &seen.certain;
        seen
    }

    /// Differences from what was read: the certain pages are exactly these.
    pub(crate) fn check_read(&self, used: &Pages) -> Result<(), String> {
        let mut complaints = Vec::new();
        complain(
            &mut complaints,
            "used, not certain",
            &(used - &self.certain),
        );
        complain(
            &mut complaints,
            "certain, not used",
            &(&self.certain - used),
        );
        complain(&mut complaints, "maybe, though only read", &self.maybe);
        told(complaints)
    }

    /// Differences from what was used of a mapping: nothing certain that was not
    /// used, nothing used that is not at least a maybe.
    pub(crate) fn check_mapped(&self, used: &Pages) -> Result<(), String> {
        let mut complaints = Vec::new();
        let all = &self.certain | &self.maybe;
        complain(&mut complaints, "used, not seen", &(used - &all));
        complain(
            &mut complaints,
            "certain, not used",
            &(&self.certain - used),
        );
        told(complaints)
    }
}

/// How much of what was used was seen, and how much more: for a table of kernels.
#[derive(Default)]
pub(crate) struct Sum {
    used: usize,
    certain: usize,
    seen: usize,
    certain_over: usize,
    over: usize,
}

impl Sum {
    pub(crate) fn add(&mut self, seen: &Seen, used: &Pages) {
        let all = &seen.certain | &seen.maybe;
        self.used += used.len();
        self.certain += (used & &seen.certain).len();
        self.seen += (used & &all).len();
        self.certain_over += (&seen.certain - used).len();
        self.over += (&all - used).len();
    }

    /// Shares of what was used, %: certainly seen, and seen that was not used.
    pub(crate) fn certain_and_over(&self) -> (f64, f64) {
        let share = |part: usize| 100.0 * part as f64 / self.used.max(1) as f64;
        (share(self.certain), share(self.over))
    }

    /// A line that `cargo xtask vm` puts into its table.
    pub(crate) fn print(&self, what: &str) {
        let share = |part: usize| 100.0 * part as f64 / self.used.max(1) as f64;
        println!(
            "fact {what}: {} used; seen {:.1} %, certain {:.1} %; over {:.1} %, certain {:.1} %",
            self.used,
            share(self.seen),
            share(self.certain),
            share(self.over),
            share(self.certain_over),
        );
    }
}

fn complain(complaints: &mut Vec<String>, what: &str, pages: &Pages) {
    if !pages.is_empty() {
        complaints.push(format!("{what}: {}", ranges(pages)));
    }
}

fn told(complaints: Vec<String>) -> Result<(), String> {
    if complaints.is_empty() {
        Ok(())
    } else {
        Err(complaints.join("; "))
    }
}

/// `{3, 4, 5, 9}` → `3-5 9 (4)`, the first few of them.
pub(crate) fn ranges(pages: &Pages) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &page in pages {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == page => *last = page,
            _ => runs.push((page, page)),
        }
    }
    let mut text: Vec<String> = runs
        .iter()
        .take(12)
        .map(|&(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    text.push(format!("({})", pages.len()));
    text.join(" ")
}

/// Fails with every complaint, not only the first.
pub(crate) fn all_hold(results: Vec<(String, Result<(), String>)>) {
    let complaints: Vec<String> = results
        .into_iter()
        .filter_map(|(what, result)| result.err().map(|e| format!("{what}: {e}")))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Numbers without a pattern, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // Constants of Knuth's MMIX generator; the high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
