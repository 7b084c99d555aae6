//! How large a profile may become, and what goes first when it is larger.

use std::cmp::Reverse;

use crate::model::{Profile, RunMask};

use super::merge::remap_volumes;

/// Upper bounds of one profile. What goes first is what the newest runs did not
/// see, then what was used latest in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Volumes.
    pub volumes: usize,
    /// Files.
    pub files: usize,
    /// Extents in all files.
    pub extents: usize,
    /// Names.
    pub names: usize,
    /// Extents of metadata blocks.
    pub blocks: usize,
}

impl Limits {
    /// The bounds that hold everywhere, decoding included.
    pub const DEFAULT: Limits = Limits {
        volumes: 65_536,
        files: 200_000,
        extents: 2_000_000,
        names: 500_000,
        blocks: 500_000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How much was left out to stay within [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Volumes, with all that refers to them.
    pub volumes: usize,
    /// Files, with their extents.
    pub files: usize,
    /// Extents of files that stay or lost their last one.
    pub extents: usize,
    /// Names.
    pub names: usize,
    /// Extents of metadata blocks.
    pub blocks: usize,
}

impl Pruned {
    /// Whether nothing was left out.
    pub fn is_empty(&self) -> bool {
        *self == Pruned::default()
    }
}

/// The order in which things stay: seen by newer runs first (as a number, a
/// mask compares by its newest run, then the next), then used early.
type Rank = (Reverse<RunMask>, u64);

/// For each rank, whether it is among the first `limit`; of equals, those that
/// come first stay.
fn keep(ranks: Vec<Rank>, limit: usize) -> Vec<bool> {
    let mut kept = vec![false; ranks.len()];
    let mut order: Vec<(Rank, usize)> = ranks.into_iter().zip(0..).collect();
    if limit < order.len() {
        if limit > 0 {
            order.select_nth_unstable(limit - 1);
        }
        order.truncate(limit);
    }
    for (_, index) in order {
        kept[index] = true;
    }
    kept
}

/// Drops the lowest-ranking items of a list; returns how many.
fn prune_list<T>(list: &mut Vec<T>, limit: usize, rank: impl Fn(&T) -> Rank) -> usize {
    if list.len() <= limit {
        return 0;
    }
    let before = list.len();
    let mut kept = keep(list.iter().map(rank).collect(), limit).into_iter();
    list.retain(|_| kept.next().unwrap_or(false));
    before - list.len()
}

/// Brings a canonical profile within `limits`.
pub(super) fn prune(profile: &mut Profile, limits: &Limits) -> Pruned {
    let mut pruned = Pruned {
        names: prune_list(&mut profile.names, limits.names, |n| {
            (Reverse(n.seen), n.first_use_ns)
        }),
        blocks: prune_list(&mut profile.blocks, limits.blocks, |b| {
            (Reverse(b.seen), b.first_use_ns)
        }),
        ..Pruned::default()
    };
    pruned.files = prune_list(&mut profile.files, limits.files, |f| {
        let seen = f.extents.iter().fold(0, |seen, e| seen | e.seen);
        let first = f.extents.iter().map(|e| e.first_use_ns).min();
        (Reverse(seen), first.unwrap_or(u64::MAX))
    });
    let extents = profile.extent_count();
    if extents > limits.extents {
        pruned.extents = extents - limits.extents;
        let all = profile.files.iter().flat_map(|f| &f.extents);
        let ranks = all.map(|e| (Reverse(e.seen), e.first_use_ns)).collect();
        let mut kept = keep(ranks, limits.extents).into_iter();
        for file in &mut profile.files {
            file.extents.retain(|_| kept.next().unwrap_or(false));
        }
        let before = profile.files.len();
        profile.files.retain(|f| !f.extents.is_empty());
        pruned.files += before - profile.files.len();
    }
    if profile.volumes.len() > limits.volumes {
        pruned.volumes = prune_volumes(profile, limits.volumes);
    }
    if !pruned.is_empty() {
        drop_unused_volumes(profile);
    }
    pruned
}

fn prune_volumes(profile: &mut Profile, limit: usize) -> usize {
    let ranks = volume_masks(profile)
        .into_iter()
        .map(|seen| (Reverse(seen), 0))
        .collect();
    let kept = keep(ranks, limit);
    let stays = |volume: u32| kept.get(volume as usize).copied().unwrap_or(false);
    profile.files.retain(|f| stays(f.volume));
    profile.names.retain(|n| stays(n.volume));
    profile.blocks.retain(|b| stays(b.volume));
    profile.volumes.len() - limit
}

/// For each volume, the runs that used anything of it.
pub(super) fn volume_masks(profile: &Profile) -> Vec<RunMask> {
    let mut masks = vec![0; profile.volumes.len()];
    let files = profile.files.iter().map(|f| {
        let seen = f.extents.iter().fold(0, |seen, e| seen | e.seen);
        (f.volume, seen)
    });
    let names = profile.names.iter().map(|n| (n.volume, n.seen));
    let blocks = profile.blocks.iter().map(|b| (b.volume, b.seen));
    for (volume, seen) in files.chain(names).chain(blocks) {
        if let Some(mask) = masks.get_mut(volume as usize) {
            *mask |= seen;
        }
    }
    masks
}

/// Drops the volumes that nothing refers to, and renumbers the rest.
pub(super) fn drop_unused_volumes(profile: &mut Profile) {
    let masks = volume_masks(profile);
    let mut next = 0;
    let map: Vec<u32> = masks
        .iter()
        .map(|&mask| {
            let index = next;
            next += u32::from(mask != 0);
            index
        })
        .collect();
    let mut used = masks.iter().map(|&mask| mask != 0);
    profile.volumes.retain(|_| used.next().unwrap_or(false));
    remap_volumes(profile, &map);
}
