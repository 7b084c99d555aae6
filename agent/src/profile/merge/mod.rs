//! Two profiles become one.
//!
//! A profile is the union of what its runs saw, so merging is commutative,
//! associative and idempotent, whichever runs drop out as older than the newest
//! [`MAX_RUNS`]. Two things make that so:
//!
//! - What is not a union (a page's first use, a file's version, a name's kind,
//!   a volume's mount point) is taken from the *newest run that saw it*, and
//!   within one run by a fixed order. A minimum over all runs would depend on
//!   which runs had dropped out by when two profiles met; the newest run of
//!   anything that stays is itself a run that stays.
//! - A file's extents are kept past the end of its newest version, for a merge
//!   in between that saw a short version must not decide what is left when a
//!   longer one comes back. Readers leave them out
//!   ([`within_version`](super::within_version)), and they drop out with the
//!   runs that saw them.
//!
//! What exact runs rule out stays for the same reason; [`exact`](super::exact) tells.
//!
//! Pruning to [`Limits`] is deterministic and commutative, but what is pruned
//! from one half of a merge is unknown to the whole: past the limits,
//! associativity is lost. Each merge says what it pruned.

use std::collections::BTreeMap;

use crate::model::{
    BlockExtent, Extent, FileVersion, MAX_RUNS, NameRecord, Profile, ProfileFile, RelPath, RunInfo,
    RunMask, Volume,
};

use super::build::block;
use super::extents::{self, Segment, first_use, newest};
use super::limits::prune;
use super::{Limits, Pruned};

/// What the runs of `a` and `b` have in common, of the newest [`MAX_RUNS`] of
/// them. Pure; see the [module](self) for what holds.
pub fn merge(a: &Profile, b: &Profile) -> Profile {
    merge_within(a, b, &Limits::DEFAULT).0
}

/// [`merge`] within given limits, and what was left out to stay in them.
pub fn merge_within(a: &Profile, b: &Profile, limits: &Limits) -> (Profile, Pruned) {
    let runs = merge_runs(&a.runs, &b.runs);
    let (run_a, run_b) = (RunMap::new(&a.runs, &runs), RunMap::new(&b.runs, &runs));
    let (volumes, volume_a, volume_b) = merge_volumes(a, &run_a, b, &run_b);
    let a = Side::new(a, &run_a, &volume_a);
    let b = Side::new(b, &run_b, &volume_b);
    let mut merged = Profile {
        runs,
        volumes,
        files: merge_files(&a, &b),
        names: merge_names(&a, &b),
        blocks: merge_blocks(&a, &b),
    };
    let pruned = prune(&mut merged, limits);
    (merged, pruned)
}

/// The version that stays of two that one run saw.
pub(super) fn newer_version(a: FileVersion, b: FileVersion) -> FileVersion {
    let key = |v: &FileVersion| (v.mtime_ns, v.size);
    if key(&a) >= key(&b) { a } else { b }
}

/// Replaces each volume index `i` by `map[i]`.
pub(super) fn remap_volumes(profile: &mut Profile, map: &[u32]) {
    let place = |volume: &mut u32| {
        if let Some(&to) = map.get(*volume as usize) {
            *volume = to;
        }
    };
    profile.files.iter_mut().for_each(|f| place(&mut f.volume));
    profile.names.iter_mut().for_each(|n| place(&mut n.volume));
    profile.blocks.iter_mut().for_each(|b| place(&mut b.volume));
}

fn merge_runs(a: &[RunInfo], b: &[RunInfo]) -> Vec<RunInfo> {
    let mut runs: BTreeMap<(u64, u64), RunInfo> = BTreeMap::new();
    for run in a.iter().chain(b) {
        let known = runs.entry((run.started_ms, run.id)).or_insert(*run);
        known.duration_ns = known.duration_ns.max(run.duration_ns);
        known.blind_ns = known.blind_ns.max(run.blind_ns);
        known.exact |= run.exact;
    }
    let skip = runs.len().saturating_sub(MAX_RUNS);
    runs.into_values().skip(skip).collect()
}

/// Where each run of one profile is among the merged runs.
struct RunMap {
    to: [Option<u8>; MAX_RUNS],
    identity: bool,
}

impl RunMap {
    fn new(from: &[RunInfo], merged: &[RunInfo]) -> Self {
        let mut to = [None; MAX_RUNS];
        for (slot, run) in to.iter_mut().zip(from) {
            let found =
                merged.binary_search_by_key(&(run.started_ms, run.id), |r| (r.started_ms, r.id));
            *slot = found.ok().and_then(|bit| u8::try_from(bit).ok());
        }
        let mut bits = to.iter().zip(0_u8..).take(from.len());
        let identity = from.len() <= MAX_RUNS && bits.all(|(to, bit)| *to == Some(bit));
        RunMap { to, identity }
    }

    fn mask(&self, mask: RunMask) -> RunMask {
        if self.identity {
            return mask;
        }
        let (mut rest, mut out) = (mask, 0);
        while rest != 0 {
            if let Some(bit) = self.to[rest.trailing_zeros() as usize] {
                out |= 1 << bit;
            }
            rest &= rest - 1;
        }
        out
    }
}

/// One of the two profiles, with where its runs and volumes go.
struct Side<'a> {
    profile: &'a Profile,
    runs: &'a RunMap,
    volumes: &'a [Option<u32>],
}

impl<'a> Side<'a> {
    fn new(profile: &'a Profile, runs: &'a RunMap, volumes: &'a [Option<u32>]) -> Self {
        Side {
            profile,
            runs,
            volumes,
        }
    }

    fn volume(&self, index: u32) -> Option<u32> {
        self.volumes.get(index as usize).copied().flatten()
    }

    fn segments(&self, extents: &'a [Extent]) -> impl Iterator<Item = Segment> {
        extents.iter().map(|extent| Segment {
            certain: self.runs.mask(extent.certain),
            seen: self.runs.mask(extent.seen),
            ..Segment::from(extent)
        })
    }

    /// Files that a kept run saw, by key.
    fn files(&self) -> impl Iterator<Item = ((u32, &'a RelPath), OneFile<'a>)> {
        self.profile.files.iter().filter_map(|file| {
            let seen = file.extents.iter().fold(0, |seen, e| seen | e.seen);
            let seen = self.runs.mask(seen);
            let key = (self.volume(file.volume)?, &file.path);
            let changed = self.runs.mask(file.changed);
            (seen != 0).then_some((key, (file, seen, changed)))
        })
    }

    fn names(&self) -> impl Iterator<Item = ((u32, &'a RelPath), (&'a NameRecord, RunMask))> {
        self.profile.names.iter().filter_map(|name| {
            let seen = self.runs.mask(name.seen);
            let key = (self.volume(name.volume)?, &name.path);
            (seen != 0).then_some((key, (name, seen)))
        })
    }

    fn blocks(&self) -> BTreeMap<u32, Vec<Segment>> {
        let mut by_volume: BTreeMap<u32, Vec<Segment>> = BTreeMap::new();
        for block in &self.profile.blocks {
            if let Some(volume) = self.volume(block.volume) {
                by_volume.entry(volume).or_default().push(Segment {
                    start: block.start_page,
                    end: block.start_page.saturating_add(u64::from(block.pages)),
                    first_use_ns: block.first_use_ns,
                    certain: 0,
                    seen: self.runs.mask(block.seen),
                });
            }
        }
        by_volume
    }
}

/// A file, the runs that saw it, and the newest one at another version.
type OneFile<'a> = (&'a ProfileFile, RunMask, RunMask);

type VolumeMap = Vec<Option<u32>>;

/// The volumes that kept runs used, sorted by id, and where each side's went.
fn merge_volumes(
    a: &Profile,
    run_a: &RunMap,
    b: &Profile,
    run_b: &RunMap,
) -> (Vec<Volume>, VolumeMap, VolumeMap) {
    let mut chosen: BTreeMap<&str, (u32, &Volume)> = BTreeMap::new();
    for (profile, runs) in [(a, run_a), (b, run_b)] {
        let masks = super::limits::volume_masks(profile);
        for (volume, mask) in profile.volumes.iter().zip(masks) {
            let candidate = (newest(runs.mask(mask)), volume);
            if candidate.0 != 0 {
                let best = chosen.entry(&volume.id.0).or_insert(candidate);
                *best = candidate.max(*best);
            }
        }
    }
    let volumes: Vec<Volume> = chosen.into_values().map(|(_, v)| v.clone()).collect();
    let map = |profile: &Profile| {
        let place = |v: &Volume| volumes.binary_search_by(|merged| merged.id.cmp(&v.id)).ok();
        let index = |v| place(v).and_then(|at| u32::try_from(at).ok());
        profile.volumes.iter().map(index).collect()
    };
    let (map_a, map_b) = (map(a), map(b));
    (volumes, map_a, map_b)
}

/// Walks two sorted sequences and joins what has the same key.
fn join<K: Ord, T, R>(
    a: impl Iterator<Item = (K, T)>,
    b: impl Iterator<Item = (K, T)>,
    mut combine: impl FnMut(K, Option<T>, Option<T>) -> R,
) -> Vec<R> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut out = Vec::with_capacity(a.size_hint().1.max(b.size_hint().1).unwrap_or(0));
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.0.cmp(&y.0),
        };
        let left = if order.is_le() { a.next() } else { None };
        let right = if order.is_ge() { b.next() } else { None };
        out.extend(match (left, right) {
            (Some((key, x)), Some((_, y))) => Some(combine(key, Some(x), Some(y))),
            (Some((key, x)), None) => Some(combine(key, Some(x), None)),
            (None, Some((key, y))) => Some(combine(key, None, Some(y))),
            (None, None) => None,
        });
    }
}

fn merge_files(a: &Side<'_>, b: &Side<'_>) -> Vec<ProfileFile> {
    join(a.files(), b.files(), |(volume, path), left, right| {
        let known = |(file, seen, changed): OneFile<'_>| (file.version, seen, changed);
        let (version, changed) = match (left.map(known), right.map(known)) {
            (Some(x), Some(y)) => merge_versions(x, y),
            (Some((version, _, changed)), None) | (None, Some((version, _, changed))) => {
                (version, changed)
            }
            (None, None) => Default::default(),
        };
        let extents_a = left.map_or(&[][..], |(file, ..)| &file.extents);
        let extents_b = right.map_or(&[][..], |(file, ..)| &file.extents);
        ProfileFile {
            volume,
            path: path.clone(),
            version,
            changed,
            extents: extents::merge(a.segments(extents_a), b.segments(extents_b)),
        }
    })
}

/// The version of a file that is (version, runs that saw it, newest at another
/// version) on the two sides, and the newest run that saw another than this.
fn merge_versions(
    x: (FileVersion, RunMask, RunMask),
    y: (FileVersion, RunMask, RunMask),
) -> (FileVersion, RunMask) {
    let version = match newest(x.1).cmp(&newest(y.1)) {
        std::cmp::Ordering::Greater => x.0,
        std::cmp::Ordering::Less => y.0,
        std::cmp::Ordering::Equal => newer_version(x.0, y.0),
    };
    // Of a side whose version is another one its newest run is one that saw it.
    let changed = |(known, seen, changed): (FileVersion, RunMask, RunMask)| {
        if known == version {
            changed
        } else {
            highest(seen)
        }
    };
    (version, changed(x).max(changed(y)))
}

/// The newest run of a mask, as a mask.
fn highest(mask: RunMask) -> RunMask {
    mask & !(RunMask::MAX >> 1)
        .checked_shr(mask.leading_zeros())
        .unwrap_or(0)
}

fn merge_names(a: &Side<'_>, b: &Side<'_>) -> Vec<NameRecord> {
    let one = |volume, name: &NameRecord, seen| NameRecord {
        volume,
        seen,
        ..name.clone()
    };
    let joined = join(a.names(), b.names(), |(volume, _), left, right| {
        match (left, right) {
            (Some((x, x_seen)), Some((y, y_seen))) => {
                let (kind, listed) = match newest(x_seen).cmp(&newest(y_seen)) {
                    std::cmp::Ordering::Greater => (x.kind, x.listed),
                    std::cmp::Ordering::Less => (y.kind, y.listed),
                    std::cmp::Ordering::Equal => (x.kind.min(y.kind), x.listed | y.listed),
                };
                Some(NameRecord {
                    volume,
                    path: x.path.clone(),
                    kind,
                    listed,
                    first_use_ns: first_use(x_seen, x.first_use_ns, y_seen, y.first_use_ns),
                    seen: x_seen | y_seen,
                })
            }
            (Some((name, seen)), None) | (None, Some((name, seen))) => {
                Some(one(volume, name, seen))
            }
            (None, None) => None,
        }
    });
    joined.into_iter().flatten().collect()
}

fn merge_blocks(a: &Side<'_>, b: &Side<'_>) -> Vec<BlockExtent> {
    let (a, b) = (a.blocks(), b.blocks());
    let per_volume = join(a.into_iter(), b.into_iter(), |volume, left, right| {
        let (left, right) = (left.unwrap_or_default(), right.unwrap_or_default());
        let merged = extents::merge(left.into_iter(), right.into_iter());
        merged.into_iter().map(move |e| block(volume, &e))
    });
    per_volume.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
