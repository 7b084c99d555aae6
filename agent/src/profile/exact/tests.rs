//! What is ruled out, and that dropping it changes nothing else.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::strategies::{OnePage, one_file, profile, trace};
use super::super::{decode, encode, from_trace, merge};
use super::*;
use crate::model::{FileVersion, PAGE_SIZE, RelPath, RunInfo};

/// A profile of one file; run 1 of three is the exact one, and was recorded for
/// 100 ns.
fn used(pages: &[OnePage]) -> Profile {
    let run = |i| RunInfo {
        started_ms: i,
        id: i,
        duration_ns: 100,
        exact: i == 1,
        blind_ns: 0,
    };
    one_file((0..3).map(run).collect(), pages.iter().copied())
}

/// First pages of what stands.
fn standing(profile: &Profile) -> Vec<u64> {
    let exact = ExactRuns::of(profile);
    let extents = profile.files.iter().flat_map(|f| exact.standing(f));
    extents.map(|e| e.start_page).collect()
}

#[test]
fn only_what_an_exact_run_can_know_is_ruled_out() {
    let extents = [
        (0, 0, 0b010, 0b010),   // the exact run used the file
        (1, 0, 0b000, 0b101),   // in windows of others: ruled out
        (2, 0, 0b000, 0b111),   // in a window of its own, too
        (3, 0, 0b001, 0b101),   // used by another
        (4, 100, 0b000, 0b101), // after its recording had ended
    ];
    let mut all = used(&extents);
    assert_eq!(standing(&all), [0, 2, 3, 4]);
    // The file changed after it, or in it.
    all.files[0].changed = 0b010;
    assert_eq!(standing(&all), [0, 1, 2, 3, 4]);
    all.files[0].changed = 0b001;
    assert_eq!(standing(&all), [0, 2, 3, 4]);
    assert_eq!(drop_ruled_out(&mut all), 1);
    assert_eq!(all.files[0].extents.len(), 4);
    // Of a file that it did not certainly use it knows nothing.
    assert_eq!(standing(&used(&extents[1..])), [1, 2, 3, 4]);
}

#[test]
fn a_file_that_changes_between_merges_is_not_ruled_by_what_it_was() {
    let of_run = |bit: usize, mtime_ns, extents: &[(u64, u64, RunMask, RunMask)]| {
        let mut one = used(extents);
        one.runs = vec![one.runs[bit]];
        one.files[0].version.mtime_ns = mtime_ns;
        one
    };
    let exact = of_run(1, 1, &[(0, 0, 1, 1)]);
    let same = of_run(2, 1, &[(7, 0, 0, 1)]);
    let other = of_run(2, 2, &[(7, 0, 0, 1)]);
    assert_eq!(standing(&merge(&exact, &same)), [0]);
    assert_eq!(standing(&merge(&exact, &other)), [0, 7]);
    assert_eq!(merge(&exact, &other).files[0].changed, 0b01);
    // What was there before it was another file, too, and says nothing of it.
    let before = of_run(0, 0, &[(7, 0, 0, 1)]);
    let merged = merge(&before, &merge(&exact, &same));
    assert_eq!(
        (merged.files[0].changed, standing(&merged)),
        (0b001, vec![0])
    );
}

/// (volume, path, page) → runs that certainly used it, for all that stands.
fn pages(profile: &Profile) -> BTreeMap<(u32, RelPath, u64), RunMask> {
    let exact = ExactRuns::of(profile);
    let mut pages = BTreeMap::new();
    for file in &profile.files {
        for e in exact.standing(file) {
            for page in e.start_page..e.start_page + u64::from(e.pages) {
                pages.insert((file.volume, file.path.clone(), page), e.certain);
            }
        }
    }
    pages
}

/// Runs of one machine whose files stay what they are, recorded to their ends.
fn steady_runs() -> impl Strategy<Value = Vec<Profile>> {
    prop::collection::vec((trace(), any::<bool>()), 1..12).prop_map(|runs| {
        let run = |(id, (mut trace, exact)): (u64, (crate::model::Trace, bool))| {
            for file in &mut trace.files {
                file.version = FileVersion {
                    size: 100 * PAGE_SIZE,
                    mtime_ns: 1,
                };
            }
            let info = RunInfo {
                started_ms: id,
                id,
                duration_ns: u64::MAX,
                exact,
                blind_ns: 0,
            };
            from_trace(&trace, info)
        };
        (0..).zip(runs).map(run).collect()
    })
}

proptest! {
    #[test]
    fn dropping_takes_what_is_ruled_out_and_nothing_else(before in profile(40)) {
        let mut after = before.clone();
        let dropped = drop_ruled_out(&mut after);
        prop_assert_eq!(after.extent_count() + dropped, before.extent_count());
        prop_assert_eq!(pages(&after), pages(&before));
        prop_assert_eq!(drop_ruled_out(&mut after), 0);
        // As canonical as before.
        prop_assert_eq!(&merge(&after, &Profile::default()), &after);
        prop_assert_eq!(&decode(&encode("x", &after)).expect("valid").1, &after);
    }

    #[test]
    fn in_whatever_order_runs_are_recorded_the_same_pages_stand(
        (runs, shuffled) in steady_runs().prop_flat_map(|runs| (Just(runs.clone()), Just(runs).prop_shuffle())),
    ) {
        let merged = runs.iter().fold(Profile::default(), |all, run| merge(&all, run));
        let recorded = shuffled.iter().fold(Profile::default(), |all, run| {
            let mut all = merge(&all, run);
            drop_ruled_out(&mut all);
            all
        });
        prop_assert_eq!(pages(&recorded), pages(&merged));
        prop_assert!(recorded.extent_count() <= merged.extent_count());
    }
}
