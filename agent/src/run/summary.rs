//! A trace in a few figures. Pure.

use std::collections::BTreeMap;

use crate::model::ranges::{total, union};
use crate::model::{Certainty, NameKind, PAGE_SIZE, Trace};

/// What a run used, summed up.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Files of which a page was used.
    pub files: u64,
    /// Pages certainly used, in bytes.
    pub certain_bytes: u64,
    /// Pages only mapped beside a used one, in bytes.
    pub maybe_bytes: u64,
    /// Runs of pages.
    pub extents: u64,
    /// Names looked up.
    pub names: u64,
    /// Of these, not there.
    pub names_missing: u64,
    /// Directories listed.
    pub directories_listed: u64,
    /// Metadata blocks read from disk, in bytes.
    pub block_bytes: u64,
    /// Directories by certain and maybe bytes of the files below them, largest
    /// first.
    pub top_directories: Vec<(Vec<u8>, u64)>,
}

/// How many directories a summary names.
const TOP: usize = 5;

/// Sums a trace up.
pub fn summarize(trace: &Trace) -> Summary {
    let mut out = Summary {
        files: trace.files.len() as u64,
        ..Summary::default()
    };
    let mut directories: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for file in &trace.files {
        let mut certain = Vec::new();
        let mut all = Vec::new();
        for touch in &file.touches {
            let pages = (touch.start_page, touch.start_page + u64::from(touch.pages));
            all.push(pages);
            if touch.certainty == Certainty::Certain {
                certain.push(pages);
            }
        }
        let (certain, _) = joined(certain);
        let (all, extents) = joined(all);
        out.certain_bytes += certain * PAGE_SIZE;
        out.maybe_bytes += (all - certain) * PAGE_SIZE;
        out.extents += extents;
        if let Some(volume) = trace.volumes.get(file.volume as usize) {
            let parent = file.path.parent().unwrap_or_default();
            *directories.entry(volume.absolute(&parent)).or_default() += all * PAGE_SIZE;
        }
    }
    out.names = trace.names.len() as u64;
    out.names_missing = trace
        .names
        .iter()
        .filter(|n| n.kind == NameKind::Missing)
        .count() as u64;
    out.directories_listed = trace.names.iter().filter(|n| n.listed).count() as u64;
    out.block_bytes = trace
        .blocks
        .iter()
        .map(|b| u64::from(b.pages) * PAGE_SIZE)
        .sum();
    let mut top: Vec<_> = directories.into_iter().collect();
    top.sort_by_key(|(path, bytes)| (std::cmp::Reverse(*bytes), path.clone()));
    top.truncate(TOP);
    out.top_directories = top;
    out
}

/// (pages in the union, number of separate runs).
fn joined(runs: Vec<(u64, u64)>) -> (u64, u64) {
    let runs = union(runs);
    (total(&runs), runs.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_runs_count_once() {
        assert_eq!(joined(vec![(4, 6), (0, 2), (1, 3), (2, 4)]), (6, 1));
        assert_eq!(joined(vec![(0, 1), (2, 3)]), (2, 2));
        assert_eq!(joined(vec![]), (0, 0));
    }
}
