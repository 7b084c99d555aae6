//! What exact runs rule out.
//!
//! An exact run has no windows: of a file that it certainly used, a page that it did
//! not see was not used. So a page that other runs only had in windows is ruled out,
//! if the run saw the file at the version that it has now, and was still recorded at
//! the time of the page's first use.
//!
//! What is ruled out is expected by nobody, and makes most of the extents of a
//! profile. Merging keeps it all the same: when the exact run drops out as too old, or
//! turns out to have seen another version, it is ruled out no longer, and whether a
//! merge in between had dropped it would depend on the order of merging. It is
//! dropped where a run is *recorded* (`drop_ruled_out`): a statement about what was
//! recorded, made once, by the machine that did it; merging then has less to unite.

use crate::model::{Extent, Profile, ProfileFile, RunMask};

use super::extents::newest;
use super::within_version;

/// The exact runs of a profile.
#[derive(Clone, Debug)]
pub struct ExactRuns {
    /// The run's bit, and how long it was recorded, ns.
    runs: Vec<(RunMask, u64)>,
}

impl ExactRuns {
    /// Those of `profile`.
    pub fn of(profile: &Profile) -> Self {
        let bits = (0..RunMask::BITS).map(|bit| 1 << bit);
        let runs = profile.runs.iter().zip(bits);
        let exact = runs.filter(|(run, _)| run.exact);
        Self {
            runs: exact.map(|(run, bit)| (bit, run.duration_ns)).collect(),
        }
    }

    /// Whether an extent of `file`, a file of the same profile, is ruled out. What a
    /// run certainly used never is.
    pub fn rule_out(&self, file: &ProfileFile) -> impl Fn(&Extent) -> bool + use<> {
        let certain = file.extents.iter().fold(0, |runs, e| runs | e.certain);
        let since = RunMask::MAX.checked_shl(newest(file.changed));
        let knowing = certain & since.unwrap_or(0);
        let mut runs = self.runs.clone();
        runs.retain(|(run, _)| run & knowing != 0);
        move |extent: &Extent| {
            let not_used = |(run, recorded_ns): &(RunMask, u64)| {
                run & extent.seen == 0 && extent.first_use_ns < *recorded_ns
            };
            extent.certain == 0 && runs.iter().any(not_used)
        }
    }

    /// The extents of a file that count: within its newest version, not ruled out.
    pub fn standing<'f>(&self, file: &'f ProfileFile) -> impl Iterator<Item = Extent> + use<'f> {
        let ruled_out = self.rule_out(file);
        within_version(file).filter(move |extent| !ruled_out(extent))
    }
}

/// Drops the extents that are ruled out; how many. What is predicted stays the same.
pub(super) fn drop_ruled_out(profile: &mut Profile) -> usize {
    let exact = ExactRuns::of(profile);
    let before = profile.extent_count();
    for file in &mut profile.files {
        // A file in which anything is ruled out keeps what the exact run used of it.
        let ruled_out = exact.rule_out(file);
        file.extents.retain(|extent| !ruled_out(extent));
    }
    before - profile.extent_count()
}

#[cfg(test)]
mod tests;
