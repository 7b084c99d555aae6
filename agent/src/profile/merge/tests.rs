//! The laws of merging.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::strategies::{one_run, profile};
use super::*;
use crate::model::{NameKind, VolumeId};

/// What is known of one page, name or volume: by run (as it sorts), the value.
type ByRun<V> = BTreeMap<(u64, u64), V>;
/// Volume id, path (empty for blocks), page.
type Page = (VolumeId, Vec<u8>, u64);
/// Volume id, path.
type Place = (VolumeId, Vec<u8>);
/// mtime, size.
type Version = (i64, u64);
/// Kind, listed, first use; kind and first use reversed, for the least counts.
type NameFacts = (std::cmp::Reverse<NameKind>, bool, std::cmp::Reverse<u64>);

/// A profile as sets, with nothing clever: what merging must agree with.
#[derive(Default, PartialEq, Debug)]
struct Model {
    runs: BTreeMap<(u64, u64), u64>,
    volumes: BTreeMap<VolumeId, ByRun<Volume>>,
    versions: BTreeMap<Place, ByRun<Version>>,
    /// Versions of which any copy of the run says that it saw them, and whether
    /// one says that it saw more than that.
    all_versions: BTreeMap<Place, ByRun<BTreeSet<(Version, bool)>>>,
    /// (certain, first use reversed: the earliest is the greatest)
    pages: BTreeMap<Page, ByRun<(bool, std::cmp::Reverse<u64>)>>,
    blocks: BTreeMap<Page, ByRun<std::cmp::Reverse<u64>>>,
    names: BTreeMap<Place, ByRun<NameFacts>>,
}

fn newest_value<V: Clone>(by_run: &ByRun<V>, kept: &BTreeSet<(u64, u64)>) -> Option<V> {
    let (run, value) = by_run.last_key_value()?;
    kept.contains(run).then(|| value.clone())
}

impl Model {
    /// Adds a profile of one run.
    fn add(&mut self, one: &Profile) {
        use std::cmp::Reverse;
        let run = one.runs[0];
        let key = (run.started_ms, run.id);
        let duration = self.runs.entry(key).or_default();
        *duration = run.duration_ns.max(*duration);
        let id = |volume: u32| one.volumes[volume as usize].id.clone();
        for volume in &one.volumes {
            let entry = self.volumes.entry(volume.id.clone()).or_default();
            let entry = entry.entry(key).or_insert_with(|| volume.clone());
            *entry = volume.clone().max(entry.clone());
        }
        for file in &one.files {
            let place = (id(file.volume), file.path.as_bytes().to_vec());
            let version = (file.version.mtime_ns, file.version.size);
            let all = self.all_versions.entry(place.clone()).or_default();
            let all = all.entry(key).or_default();
            all.insert((version, file.changed != 0));
            let entry = self.versions.entry(place.clone()).or_default();
            let entry = entry.entry(key).or_insert(version);
            *entry = version.max(*entry);
            for e in &file.extents {
                for page in e.start_page..e.start_page + u64::from(e.pages) {
                    let page = (place.0.clone(), place.1.clone(), page);
                    let entry = self.pages.entry(page).or_default();
                    let entry = entry.entry(key).or_insert((false, Reverse(u64::MAX)));
                    entry.0 |= e.certain != 0;
                    entry.1 = entry.1.max(Reverse(e.first_use_ns));
                }
            }
        }
        for b in &one.blocks {
            for page in b.start_page..b.start_page + u64::from(b.pages) {
                let entry = self
                    .blocks
                    .entry((id(b.volume), Vec::new(), page))
                    .or_default();
                let entry = entry.entry(key).or_insert(Reverse(u64::MAX));
                *entry = Reverse(b.first_use_ns).max(*entry);
            }
        }
        for n in &one.names {
            let place = (id(n.volume), n.path.as_bytes().to_vec());
            let value = (Reverse(n.kind), n.listed, Reverse(n.first_use_ns));
            let entry = self.names.entry(place).or_default();
            let entry = entry.entry(key).or_insert(value);
            *entry = (
                value.0.max(entry.0),
                value.1 | entry.1,
                value.2.max(entry.2),
            );
        }
    }

    fn check(&self, merged: &Profile) {
        let runs: Vec<_> = self.runs.iter().rev().take(MAX_RUNS).rev().collect();
        let got: Vec<_> = merged
            .runs
            .iter()
            .map(|r| ((r.started_ms, r.id), r.duration_ns))
            .collect();
        assert_eq!(
            got,
            runs.iter().map(|(k, d)| (**k, **d)).collect::<Vec<_>>()
        );
        let kept: BTreeSet<_> = runs.iter().map(|(k, _)| **k).collect();
        let mask = |by_run: &mut dyn Iterator<Item = (u64, u64)>| {
            by_run.fold(0, |mask, run| {
                let bit = runs.iter().position(|(k, _)| **k == run);
                mask | bit.map_or(0, |bit| 1_u32 << bit)
            })
        };
        let id = |volume: u32| merged.volumes[volume as usize].id.clone();

        let volumes: Vec<_> = self
            .volumes
            .values()
            .filter_map(|v| newest_value(v, &kept))
            .collect();
        assert_eq!(merged.volumes, volumes);

        let mut files = BTreeMap::new();
        let mut pages = BTreeMap::new();
        for file in &merged.files {
            let place = (id(file.volume), file.path.as_bytes().to_vec());
            let version = (file.version.mtime_ns, file.version.size);
            files.insert(place.clone(), (version, file.changed));
            for e in &file.extents {
                for page in e.start_page..e.start_page + u64::from(e.pages) {
                    let page = (place.0.clone(), place.1.clone(), page);
                    pages.insert(page, (e.certain, e.seen, e.first_use_ns));
                }
            }
        }
        let expect: BTreeMap<_, _> = self
            .versions
            .iter()
            .filter_map(|(place, by_run)| {
                let version = newest_value(by_run, &kept)?;
                let others = self.all_versions[place].iter().rev().filter(|(_, seen)| {
                    seen.iter().any(|(other, more)| *other != version || *more)
                });
                let changed = mask(&mut others.take(1).map(|(run, _)| *run));
                Some((place.clone(), (version, changed)))
            })
            .collect();
        assert_eq!(files, expect);
        let expect: BTreeMap<_, _> = self
            .pages
            .iter()
            .filter_map(|(page, by_run)| {
                let (_, first_use) = newest_value(by_run, &kept)?;
                let certain = mask(&mut by_run.iter().filter(|(_, v)| v.0).map(|(k, _)| *k));
                Some((
                    page.clone(),
                    (certain, mask(&mut by_run.keys().copied()), first_use.0),
                ))
            })
            .collect();
        assert_eq!(pages, expect);

        let mut blocks = BTreeMap::new();
        for b in &merged.blocks {
            for page in b.start_page..b.start_page + u64::from(b.pages) {
                blocks.insert((id(b.volume), Vec::new(), page), (b.seen, b.first_use_ns));
            }
        }
        let expect: BTreeMap<_, _> = self
            .blocks
            .iter()
            .filter_map(|(page, by_run)| {
                let first_use = newest_value(by_run, &kept)?;
                Some((
                    page.clone(),
                    (mask(&mut by_run.keys().copied()), first_use.0),
                ))
            })
            .collect();
        assert_eq!(blocks, expect);

        let names: BTreeMap<_, _> = merged
            .names
            .iter()
            .map(|n| {
                let place = (id(n.volume), n.path.as_bytes().to_vec());
                (place, (n.kind, n.listed, n.first_use_ns, n.seen))
            })
            .collect();
        let expect: BTreeMap<_, _> = self
            .names
            .iter()
            .filter_map(|(place, by_run)| {
                let (kind, listed, first_use) = newest_value(by_run, &kept)?;
                let seen = mask(&mut by_run.keys().copied());
                Some((place.clone(), (kind.0, listed, first_use.0, seen)))
            })
            .collect();
        assert_eq!(names, expect);
        assert_canonical(merged);
    }
}

fn assert_canonical(p: &Profile) {
    assert!(p.volumes.is_sorted_by(|a, b| a.id < b.id));
    assert!(
        p.files
            .is_sorted_by(|a, b| (a.volume, &a.path) < (b.volume, &b.path))
    );
    assert!(
        p.names
            .is_sorted_by(|a, b| (a.volume, &a.path) < (b.volume, &b.path))
    );
    for extents in p.files.iter().map(|f| &f.extents) {
        assert!(!extents.is_empty() && extents.iter().all(|e| e.pages > 0 && e.seen != 0));
        for pair in extents.windows(2) {
            let end = pair[0].start_page + u64::from(pair[0].pages);
            assert!(end <= pair[1].start_page);
        }
    }
    assert_eq!(
        &merge(p, &Profile::default()),
        p,
        "merging with nothing changes nothing"
    );
    let (_, decoded) = super::super::decode(&super::super::encode("x", p)).expect("valid");
    assert_eq!(&decoded, p);
}

/// Merges the list in the shape that `choices` picks: two neighbours at a time.
fn merge_in_some_order(mut profiles: Vec<Profile>, choices: &[usize]) -> Profile {
    let mut choices = choices.iter().cycle();
    while profiles.len() > 1 {
        let i = choices.next().copied().unwrap_or(0) % profiles.len();
        let a = profiles.swap_remove(i);
        let j = choices.next().copied().unwrap_or(0) % profiles.len();
        let merged = merge(&a, &profiles[j]);
        profiles[j] = merged;
    }
    profiles.pop().unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn agrees_with_sets_in_any_order(
        profiles in prop::collection::vec(one_run(60), 0..70),
        one in prop::collection::vec(any::<usize>(), 1..50),
        other in prop::collection::vec(any::<usize>(), 1..50),
    ) {
        let mut model = Model::default();
        profiles.iter().for_each(|p| model.add(p));
        let a = merge_in_some_order(profiles.clone(), &one);
        model.check(&a);
        prop_assert_eq!(a, merge_in_some_order(profiles, &other));
    }

    #[test]
    fn commutative_associative_idempotent(a in profile(40), b in profile(40), c in profile(40)) {
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        let ab = merge(&a, &b);
        prop_assert_eq!(&merge(&ab, &a), &ab);
        prop_assert_eq!(&merge(&ab, &ab), &ab);
    }

    #[test]
    fn pruning_is_commutative_and_keeps_its_bounds(a in profile(12), b in profile(12), limit in 0..6_usize) {
        let limits = Limits { volumes: limit, files: limit, extents: 2 * limit, names: limit, blocks: limit };
        let (pruned, count) = merge_within(&a, &b, &limits);
        prop_assert_eq!(&merge_within(&b, &a, &limits), &(pruned.clone(), count));
        prop_assert!(pruned.volumes.len() <= limit && pruned.files.len() <= limit);
        prop_assert!(pruned.extent_count() <= 2 * limit && pruned.names.len() <= limit);
        prop_assert!(pruned.blocks.len() <= limit);
        let whole = merge(&a, &b);
        prop_assert_eq!(count.is_empty(), whole == pruned);
        assert_canonical(&pruned);
        // Of the names of one volume, the one the newest runs saw is among those that stay.
        if limit > 0 && count.volumes == 0 {
            let best = whole.names.iter().map(|n| n.seen).max();
            prop_assert_eq!(pruned.names.iter().map(|n| n.seen).max(), best);
        }
    }
}
