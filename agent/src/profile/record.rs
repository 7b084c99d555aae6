//! A run that was just recorded joins what is known.
//!
//! What is done here and not in merging is a statement about what was recorded, made once, by
//! the machine that did it: in merging it would depend on the order.

use crate::model::{MAX_RUNS, MAX_WHOLE_RUNS, Profile, RunInfo, RunMask};

use super::exact::drop_ruled_out;
use super::limits::drop_unused_volumes;
use super::merge::merge_within;
use super::{Limits, Pruned};

/// The profile of `known` and a run; what was left out for its size. Pure.
pub(super) fn record(mut known: Profile, run: &Profile) -> (Profile, Pruned) {
    while known.runs.len() + run.runs.len() > MAX_RUNS
        && let Some(least) = least_telling(&known.runs)
    {
        forget(&mut known, least);
    }
    let (mut merged, pruned) = merge_within(&known, run, &Limits::DEFAULT);
    let dropped = drop_ruled_out(&mut merged);
    if dropped > 0 {
        tracing::debug!(dropped, "extents that exact runs rule out");
    }
    (merged, pruned)
}

/// The oldest run but for the newest that were seen whole: of what is used early others tell
/// nothing, however many there are.
fn least_telling(runs: &[RunInfo]) -> Option<usize> {
    let mut whole_after = runs.iter().filter(|run| run.blind_ns == 0).count();
    runs.iter().position(|run| {
        let is_whole = run.blind_ns == 0;
        let stays = is_whole && whole_after <= MAX_WHOLE_RUNS;
        whole_after -= usize::from(is_whole);
        !stays
    })
}

/// Leaves a run out, with what it alone saw.
fn forget(profile: &mut Profile, run: usize) {
    profile.runs.remove(run);
    let before: RunMask = (1 << run) - 1;
    let without = |mask: RunMask| mask & before | mask >> 1 & !before;
    for file in &mut profile.files {
        for extent in &mut file.extents {
            extent.seen = without(extent.seen);
            extent.certain = without(extent.certain);
        }
        file.extents.retain(|extent| extent.seen != 0);
        // What saw another version: who came before knows no better.
        file.changed = match file.changed == 1 << run {
            true => file.changed >> 1,
            false => without(file.changed),
        };
    }
    profile.files.retain(|file| !file.extents.is_empty());
    for name in &mut profile.names {
        name.seen = without(name.seen);
    }
    profile.names.retain(|name| name.seen != 0);
    for block in &mut profile.blocks {
        block.seen = without(block.seen);
    }
    profile.blocks.retain(|block| block.seen != 0);
    drop_unused_volumes(profile);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Extent;
    use crate::profile::merge;
    use crate::profile::strategies::{one_file, profile};
    use proptest::prelude::*;

    fn run(at: u64, blind_ns: u64) -> RunInfo {
        RunInfo {
            started_ms: at,
            id: at,
            duration_ns: 100,
            exact: false,
            blind_ns,
        }
    }

    /// One run that used these pages, and when.
    fn used(at: u64, blind_ns: u64, pages: &[(u64, u64)]) -> Profile {
        let pages = pages.iter().map(|&(page, when)| (page, when, 1, 1));
        one_file(vec![run(at, blind_ns)], pages)
    }

    fn recorded(known: Profile, run: &Profile) -> Profile {
        let (profile, pruned) = record(known, run);
        assert!(pruned.is_empty());
        profile
    }

    fn extents(profile: &Profile) -> Vec<Extent> {
        profile
            .files
            .iter()
            .flat_map(|f| f.extents.clone())
            .collect()
    }

    #[test]
    fn runs_that_were_joined_late_push_none_out_that_was_seen_whole() {
        let mut known = Profile::default();
        for at in 0..3 {
            known = recorded(known, &used(at, 0, &[(0, 1), (9, 50)]));
        }
        for at in 3..100 {
            known = recorded(known, &used(at, 10, &[(9, 50)]));
        }
        assert_eq!(known.runs.len(), MAX_RUNS);
        let whole: Vec<u64> = known
            .runs
            .iter()
            .take(3)
            .map(|run| run.started_ms)
            .collect();
        assert_eq!(whole, [0, 1, 2]);
        assert_eq!(known.runs[3].started_ms, 100 - 29);
        let seen: Vec<RunMask> = extents(&known).iter().map(|e| e.seen).collect();
        assert_eq!(seen, [0b111, RunMask::MAX]);
        // Of those that were seen whole the oldest go, where there are enough.
        for at in 100..150 {
            known = recorded(known, &used(at, 0, &[(9, 50)]));
        }
        assert!(known.runs.iter().all(|run| run.started_ms >= 118));
        assert_eq!(extents(&known).len(), 1, "what they alone used is gone");
    }

    #[test]
    fn who_came_before_a_run_that_saw_another_version_knows_no_better() {
        let mut known = one_file(
            vec![run(0, 0), run(1, 5), run(2, 0)],
            [(0, 1, 0b101, 0b101)],
        );
        known.files[0].changed = 0b010;
        forget(&mut known, 1);
        assert_eq!(
            (known.files[0].changed, extents(&known)[0].seen),
            (0b01, 0b11)
        );
        forget(&mut known, 0);
        assert_eq!((known.files[0].changed, extents(&known)[0].seen), (0, 1));
    }

    proptest! {
        #[test]
        fn what_was_forgotten_can_be_learned_again(known in profile(9), at in any::<prop::sample::Index>()) {
            prop_assume!(!known.runs.is_empty());
            let at = at.index(known.runs.len());
            let mut less = known.clone();
            forget(&mut less, at);
            prop_assert_eq!(less.runs.len() + 1, known.runs.len());
            prop_assert_eq!(merge(&less, &known), known);
        }
    }
}
