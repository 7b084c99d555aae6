//! Profile → what the next run will read, and how sure. Pure.
//!
//! Newer runs weigh more (0.8 a run), so that a program that changed
//! is followed within a few runs, and what stopped being used fades.

use crate::model::{FileVersion, RelPath};
use crate::model::{NameKind, Profile, RunInfo, RunMask, Volume};
use crate::profile::{ExactRuns, within_version};

/// Weight of a run relative to the next newer one.
const AGE_FACTOR: f64 = 0.8;

/// Certain pages, names and blocks are expected where runs of at least this
/// share of the weight used them: one of the newest four.
const EXPECTED: f64 = 0.15;

/// Maybe pages are expected only where nearly all runs had them in a window.
/// Windows are aligned to virtual addresses, which address space layout
/// randomisation shifts against the file from run to run: a page that is used
/// is in a window every time, an unused neighbour only some of the time.
const EXPECTED_MAYBE: f64 = 0.95;

/// Among so many runs no third is recorded page by page.
const EXACT_EVERY: usize = 8;

/// Whether the next run should be recorded page by page: the first one; the second,
/// for no two are alike to the page, and an untraced run can't tell a page that the
/// first did not use from a neighbour in a window; and one now and then where more
/// than a fifth of what is expected is only maybe used.
pub fn wants_exact(profile: &Profile) -> bool {
    let recent = profile.runs.iter().rev().take(EXACT_EVERY);
    match recent.filter(|run| run.exact).count() {
        0 => {}
        1 => return profile.runs.len() == 1,
        _ => return false,
    }
    let (mut certain, mut maybe) = (0, 0);
    for extent in predict(profile).files.iter().flat_map(|f| &f.extents) {
        match extent.sureness {
            Sureness::Certain => certain += u64::from(extent.pages),
            Sureness::Maybe => maybe += u64::from(extent.pages),
        }
    }
    profile.runs.is_empty() || maybe * 4 > certain
}

/// How sure a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sureness {
    /// Some run certainly used it.
    Certain,
    /// It was in every run's windows, and no run is known to have used it.
    Maybe,
}

/// Pages of one file that will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// First page.
    pub start_page: u64,
    /// Number of pages.
    pub pages: u32,
    /// When, ns since the run's start.
    pub first_use_ns: u64,
    /// How sure.
    pub sureness: Sureness,
}

/// A file and what of it will be read, sorted by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedFile {
    /// Index into [`Prediction::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// As the newest run saw it.
    pub version: FileVersion,
    /// What of it.
    pub extents: Vec<Expected>,
}

/// A name that will be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedName {
    /// Index into [`Prediction::volumes`].
    pub volume: u32,
    /// Path in the volume.
    pub path: RelPath,
    /// What it was.
    pub kind: NameKind,
    /// Whether it will be listed.
    pub listed: bool,
    /// When, ns since the run's start.
    pub first_use_ns: u64,
}

/// Metadata blocks that will be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedBlocks {
    /// Index into [`Prediction::volumes`].
    pub volume: u32,
    /// First 4 KiB page of the device.
    pub start_page: u64,
    /// Number of pages.
    pub pages: u32,
    /// When, ns since the run's start.
    pub first_use_ns: u64,
}

/// What the next run will read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// Volumes that the other fields index.
    pub volumes: Vec<Volume>,
    /// Files with at least one expected page.
    pub files: Vec<ExpectedFile>,
    /// Names.
    pub names: Vec<ExpectedName>,
    /// Metadata blocks.
    pub blocks: Vec<ExpectedBlocks>,
    /// Length of the longest remembered run, ns.
    pub duration_ns: u64,
    /// Pages that some run used and that are not expected.
    pub unlikely_pages: u64,
    /// Remembered runs that were recorded page by page.
    pub exact_runs: usize,
}

/// Says what the next run of `profile`'s workload will read.
pub fn predict(profile: &Profile) -> Prediction {
    let weights = Weights::of(&profile.runs);
    let mut unlikely_pages = 0;
    let mut files = Vec::with_capacity(profile.files.len());
    let exact = ExactRuns::of(profile);
    for file in &profile.files {
        let ruled_out = exact.rule_out(file);
        let mut extents = Vec::with_capacity(file.extents.len());
        for extent in within_version(file) {
            let seen = weights.share(extent.seen, extent.first_use_ns);
            let sureness = match extent.certain {
                0 if seen >= EXPECTED_MAYBE && !ruled_out(&extent) => Sureness::Maybe,
                certain if certain != 0 && seen >= EXPECTED => Sureness::Certain,
                _ => {
                    unlikely_pages += u64::from(extent.pages);
                    continue;
                }
            };
            extents.push(Expected {
                start_page: extent.start_page,
                pages: extent.pages,
                first_use_ns: extent.first_use_ns,
                sureness,
            });
        }
        if !extents.is_empty() {
            files.push(ExpectedFile {
                volume: file.volume,
                path: file.path.clone(),
                version: file.version,
                extents,
            });
        }
    }
    let names = profile
        .names
        .iter()
        .filter(|name| weights.share(name.seen, name.first_use_ns) >= EXPECTED)
        .map(|name| ExpectedName {
            volume: name.volume,
            path: name.path.clone(),
            kind: name.kind,
            listed: name.listed,
            first_use_ns: name.first_use_ns,
        })
        .collect();
    let blocks = profile
        .blocks
        .iter()
        .filter(|block| weights.share(block.seen, block.first_use_ns) >= EXPECTED)
        .map(|block| ExpectedBlocks {
            volume: block.volume,
            start_page: block.start_page,
            pages: block.pages,
            first_use_ns: block.first_use_ns,
        })
        .collect();
    Prediction {
        volumes: profile.volumes.clone(),
        files,
        names,
        blocks,
        duration_ns: profile
            .runs
            .iter()
            .map(|run| run.duration_ns)
            .max()
            .unwrap_or(0),
        unlikely_pages,
        exact_runs: profile.runs.iter().filter(|run| run.exact).count(),
    }
}

/// The runs of a profile, and what each weighs.
struct Weights<'a> {
    /// The last is the newest.
    runs: Vec<(&'a RunInfo, f64)>,
}

impl<'a> Weights<'a> {
    fn of(runs: &'a [RunInfo]) -> Self {
        let ages = (0..runs.len() as i32).rev();
        let weighed = |(run, age)| (run, AGE_FACTOR.powi(age));
        Self {
            runs: runs.iter().zip(ages).map(weighed).collect(),
        }
    }

    /// Share of the weight that `mask`'s runs have, of those that could have seen something
    /// that was first used at `first_use_ns` in the newest of them.
    fn share(&self, mask: RunMask, first_use_ns: u64) -> f64 {
        let (mut with, mut without) = (0.0, 0.0);
        let newest = mask.checked_ilog2().map(|bit| bit as usize);
        let source = newest.and_then(|bit| Some(self.runs.get(bit)?.0));
        for (bit, &(run, weight)) in self.runs.iter().enumerate() {
            if mask >> bit & 1 == 1 {
                with += weight;
            } else if !too_early(run, source, first_use_ns) {
                without += weight;
            }
        }
        match with + without {
            all if all > 0.0 => with / all,
            _ => 0.0,
        }
    }
}

/// Whether `run` was not watched yet when what `source` first used at `first_use_ns` is used:
/// by the clock, or by how far on either was, for one that was warmed for is the sooner there.
fn too_early(run: &RunInfo, source: Option<&RunInfo>, first_use_ns: u64) -> bool {
    let far = |ns: u64, of: u64| u128::from(ns) * u128::from(of);
    let is_earlier = |source: &RunInfo| {
        far(first_use_ns, run.duration_ns) < far(run.blind_ns, source.duration_ns)
    };
    run.blind_ns > 0 && (first_use_ns < run.blind_ns || source.is_some_and(is_earlier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Extent;
    use crate::profile::strategies::one_file;

    fn profile(runs: usize, pages: &[(u64, RunMask, RunMask)]) -> Profile {
        let run = |i| RunInfo {
            started_ms: i as u64,
            id: 1,
            duration_ns: 1_000,
            exact: false,
            blind_ns: 0,
        };
        let pages = pages
            .iter()
            .map(|&(page, certain, seen)| (page, 0, certain, seen));
        one_file((0..runs).map(run).collect(), pages)
    }

    fn sure(profile: &Profile) -> Vec<(u64, Sureness)> {
        let prediction = predict(profile);
        prediction
            .files
            .iter()
            .flat_map(|f| &f.extents)
            .map(|e| (e.start_page, e.sureness))
            .collect()
    }

    #[test]
    fn one_run_keeps_its_maybes_and_two_keep_only_the_common_ones() {
        assert_eq!(
            sure(&profile(1, &[(0, 1, 1), (1, 0, 1)])),
            vec![(0, Sureness::Certain), (1, Sureness::Maybe)]
        );
        assert_eq!(
            sure(&profile(
                2,
                &[(0, 0b01, 0b11), (1, 0, 0b01), (2, 0, 0b11), (3, 0b10, 0b10)]
            )),
            vec![
                (0, Sureness::Certain),
                (2, Sureness::Maybe),
                (3, Sureness::Certain)
            ]
        );
    }

    #[test]
    fn an_exact_run_rules_out_what_it_did_not_see() {
        let extents = [(0, 0, 0b110), (1, 0, 0b111), (2, 0b001, 0b111)];
        let mut profile = profile(3, &extents);
        profile.runs[0].exact = true;
        assert_eq!(
            sure(&profile),
            vec![(1, Sureness::Maybe), (2, Sureness::Certain)]
        );
        // Of a file that the exact run did not use it knows nothing.
        profile.files[0].extents = vec![Extent {
            start_page: 0,
            pages: 1,
            first_use_ns: 0,
            certain: 0,
            seen: 0b110,
        }];
        profile.runs.remove(0);
        profile.files[0].extents[0].seen = 0b11;
        assert_eq!(sure(&profile), vec![(0, Sureness::Maybe)]);
    }

    #[test]
    fn an_exact_run_is_wanted_first_and_where_much_is_unsure() {
        assert!(wants_exact(&Profile::default()));
        let mostly_sure = profile(1, &[(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (9, 0, 1)]);
        assert!(!wants_exact(&mostly_sure));
        let mut unsure = profile(1, &[(0, 1, 1), (1, 0, 1)]);
        assert!(wants_exact(&unsure));
        unsure.runs[0].exact = true;
        assert!(wants_exact(&unsure), "the second, too");
        let mut two = profile(2, &[(0, 1, 3), (1, 0, 3)]);
        two.runs[0].exact = true;
        assert!(!wants_exact(&two), "once more would not help");
    }

    #[test]
    fn what_stops_being_used_fades() {
        // Used by the oldest of eight runs only.
        assert_eq!(sure(&profile(8, &[(0, 1, 1)])), vec![]);
        assert_eq!(predict(&profile(8, &[(0, 1, 1)])).unlikely_pages, 1);
        // Used by the newest only: a program that changed.
        assert_eq!(
            sure(&profile(8, &[(0, 0x80, 0x80)])),
            vec![(0, Sureness::Certain)]
        );
    }

    #[test]
    fn who_came_too_late_to_see_says_nothing_against_it() {
        // The oldest of eight saw all; the others none of what is used in a tenth of the time.
        let mut profile = profile(8, &[(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 0x80, 0x80)]);
        for (page, when) in [(0, 30), (1, 70), (2, 500)] {
            profile.files[0].extents[page].first_use_ns = when;
        }
        profile.files[0].extents[3].first_use_ns = 900;
        for run in &mut profile.runs[1..] {
            (run.blind_ns, run.duration_ns) = (40, 500);
        }
        let certain = |page| (page, Sureness::Certain);
        // By the clock the second could have been seen; by half the time they take, not.
        assert_eq!(sure(&profile), [0, 1, 3].map(certain));
        for run in &mut profile.runs[1..] {
            run.blind_ns = 0;
        }
        assert_eq!(sure(&profile), [certain(3)]);
    }
}
