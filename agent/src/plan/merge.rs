//! Merging neighbours: which gaps are worth reading through.

use crate::model::{DeviceCost, HUGE_PAGE_PAGES, PAGE_SIZE};

/// Longest read made by merging, pages: 8 MiB. Longer wanted runs stay whole.
const MAX_MERGED: u64 = 2048;

/// Where that is cut in two, pages: so that the rest begins as huge folios do.
const BLOCK: u64 = HUGE_PAGE_PAGES;

/// Gaps that are considered, pages.
const GAPS: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 64];

/// A stretch of so many windows of readahead is long: the kernel has long seen that it
/// is read in order. (`wc` of 500 MB from a disk of 1.8 GB/s, with windows of 8 MiB,
/// took 0.35 s cold and 0.50 s with the same data read beside it.)
const LONG_WINDOWS: u64 = 4;

/// Runs of one program differ by a few pages, nearly always between pages that all of
/// them use. Gaps (of [`GAPS`]) of up to so many pages, and the chance that a page in such a gap is used
/// by the next run all the same, given how many runs were recorded page by page. (Counted
/// by what was resident after five cold runs each of rustc, node, python, javac, clang and
/// java without readahead: of 10,878 pages in gaps of up to 8 another run used 6.8 on
/// average, of 8,366 in gaps of 9 to 16 0.7, all of them rustc's, of 34,000 in gaps of up to
/// 64 and near ends none. Of rustc's 2,426 in gaps of up to 4 after two runs 2, after three
/// none.)
pub(super) fn near(exact_runs: usize) -> &'static [(u64, f64)] {
    match exact_runs {
        0 | 1 => &[(8, 6e-4), (16, 1e-4)],
        _ => &[(4, 8e-4)],
    }
}

/// Where a page that is missed has the program read so much around it, bytes, even rare ones
/// are worth reading ahead of a start. (With windows of 8 MiB on a disk of 100 MB/s one of
/// them made rustc's start 0.13 s instead of 0.06; of 1.8 GB/s some 4 ms more.)
const WIDE_WINDOW: u64 = 2 << 20;

/// Least gap that is read through ahead of a start: there is time to leave it no page to
/// miss.
pub(super) fn near_ahead(exact_runs: usize, cost: &DeviceCost) -> u64 {
    let near = near(exact_runs);
    let counts = match cost.readahead_bytes >= WIDE_WINDOW {
        true => near,
        false => &near[..1],
    };
    counts.last().map_or(0, |&(gap, _)| gap)
}

/// Pages `start..end` of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Of these, pages that nobody wanted.
    pub(super) gap_pages: u64,
    pub(super) first_use_ns: u64,
    pub(super) certain: bool,
}

/// Joins runs (sorted by page, disjoint) that lie at most `gap` pages apart and
/// are first used within `slack` ns of each other.
pub(super) fn merge(runs: &[Run], gap: u64, slack: u64) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        if let Some(last) = out.last_mut() {
            let between = run.start.saturating_sub(last.end);
            let near_in_time = last.first_use_ns.abs_diff(run.first_use_ns) <= slack;
            let most = last.start + MAX_MERGED;
            let end = match run.end {
                whole if whole <= most => whole,
                _ if between == 0 && run.gap_pages == 0 => most - most % BLOCK,
                _ => last.end,
            };
            if between <= gap && near_in_time && end > last.end {
                last.end = end;
                last.gap_pages += between;
                last.first_use_ns = last.first_use_ns.min(run.first_use_ns);
                last.certain |= run.certain;
                if end < run.end {
                    out.push(Run { start: end, ..*run });
                }
                continue;
            }
        }
        out.push(*run);
    }
    out
}

/// What of `runs` does not lie in `others` (both sorted and disjoint).
pub(super) fn subtract(runs: &[Run], others: &[Run]) -> Vec<Run> {
    let mut out = Vec::with_capacity(runs.len());
    let mut next = 0;
    for run in runs {
        while others.get(next).is_some_and(|other| other.end <= run.start) {
            next += 1;
        }
        let mut start = run.start;
        for other in others[next..]
            .iter()
            .take_while(|other| other.start < run.end)
        {
            if other.start > start {
                out.push(Run {
                    start,
                    end: other.start,
                    ..*run
                });
            }
            start = start.max(other.end);
        }
        if start < run.end {
            out.push(Run { start, ..*run });
        }
    }
    out
}

/// Leaves long stretches that are read from one end to the other to the kernel's
/// readahead of `window` pages, but for their first `first` pages. Also the pages left.
pub(super) fn leave_sequential(runs: Vec<Run>, window: u64, first: u64) -> (Vec<Run>, u64) {
    let follows = |a: &Run, b: &Run| a.end == b.start && a.first_use_ns <= b.first_use_ns;
    let mut left = 0;
    let mut kept = Vec::with_capacity(runs.len());
    for stretch in runs.chunk_by(follows) {
        let start = stretch[0].start;
        let pages: u64 = stretch.iter().map(|run| run.end - run.start).sum();
        if window == 0 || pages < LONG_WINDOWS * window {
            kept.extend_from_slice(stretch);
            continue;
        }
        left += pages - first;
        for run in stretch.iter().filter(|run| run.start < start + first) {
            let end = run.end.min(start + first);
            kept.push(Run {
                end,
                gap_pages: run.gap_pages.min(end - run.start),
                ..*run
            });
        }
    }
    (kept, left)
}

/// Reads and pages of all files, merged.
fn batch(files: &[Vec<Run>], gap: u64, slack: u64) -> (u64, u64) {
    let merged = files.iter().flat_map(|runs| merge(runs, gap, slack));
    merged.fold((0, 0), |(reads, pages), run| {
        (reads + 1, pages + run.end - run.start)
    })
}

/// How long the device takes for all of it at least, ns: for its bytes or its reads,
/// whichever takes longer.
pub(super) fn read_ns(files: &[Vec<Run>], near: u64, cost: &DeviceCost) -> u64 {
    let (reads, pages) = batch(files, near, u64::MAX);
    let by_bytes = pages.saturating_mul(PAGE_SIZE) as f64 / cost.bytes_per_s * 1e9;
    // A float out of range saturates.
    by_bytes.max(reads as f64 * cost.read_ns) as u64
}

/// How long so many reads of so many bytes take, s, where what comes next waits for both.
pub(super) fn in_turn(cost: &DeviceCost) -> impl Fn(u64, u64) -> f64 {
    |reads, bytes| reads as f64 * cost.read_ns / 1e9 + bytes as f64 / cost.bytes_per_s
}

/// Reads that looking a name up takes, when nothing is in memory. (Counted by a throttle
/// while what a start uses was warmed: 2.2 for each of rustc's 331 names, 2.3 of python's 472,
/// 3 to 4 of those of clang and java.)
const READS_OF_NAME: u64 = 2;

/// Processor time to ask for a read, which the program wants too, s.
const ASK_S: f64 = 8e-6;

/// How long so many reads of so many bytes take beside a start, s: a device that is given many at
/// once, names among them, takes as long as its bytes or its reads do, whichever is longer.
/// (With gaps of 4, 8 and 16 pages rustc started in 0.136, 0.145 and 0.164 s from a disk of
/// 1.8 GB/s and 110,000 reads a second, and in 0.91, 0.83 and 1.02 s from one of 100 MB/s and
/// 2,000; clang in 0.137, 0.155 and 0.162 s, and in 0.69, 0.72 and 0.92 s.)
pub(super) fn at_once(cost: &DeviceCost, names: usize) -> impl Fn(u64, u64) -> f64 {
    move |reads, bytes| {
        let with_names = reads.saturating_add(READS_OF_NAME * names as u64);
        let by_reads = with_names as f64 * cost.read_ns / 1e9;
        by_reads.max(bytes as f64 / cost.bytes_per_s) + reads as f64 * ASK_S
    }
}

/// The gap for which a start waits least: for its reads and their bytes, which take
/// `seconds`; and a page in a gap that is used all the same costs the program a fault, which
/// reads all that is missing from the readahead window around it; such are in gaps that
/// are `near`. Of equals the smallest.
pub(super) fn choose_gap(
    files: &[Vec<Run>],
    near: &[(u64, f64)],
    slack: u64,
    cost: &DeviceCost,
    seconds: impl Fn(u64, u64) -> f64,
) -> u64 {
    let miss_s = cost.latency_ns / 1e9 + cost.readahead_bytes as f64 / cost.bytes_per_s;
    let batches = GAPS.map(|gap| (gap, batch(files, gap, slack)));
    let pages_with = |gap: u64| {
        let with = batches.iter().find(|(other, _)| *other == gap);
        with.map_or(0, |(_, (_, pages))| *pages)
    };
    // Of pages in near gaps those that are not read, each by the chance of the narrowest.
    let misses = |pages: u64| {
        let mut read = pages;
        let missed = near.iter().map(|&(gap, chance)| {
            let all = pages_with(gap);
            let missing = all.saturating_sub(read);
            read = read.max(all);
            missing as f64 * chance
        });
        missed.sum::<f64>()
    };
    let mut best = (f64::INFINITY, 0);
    for (gap, (reads, pages)) in batches {
        let time = seconds(reads, pages.saturating_mul(PAGE_SIZE)) + misses(pages) * miss_s;
        if time < best.0 * 0.99 {
            best = (time, gap);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(start: u64, end: u64) -> Run {
        Run {
            start,
            end,
            gap_pages: 0,
            first_use_ns: 0,
            certain: true,
        }
    }

    fn cost(read_ns: f64, bytes_per_s: f64) -> DeviceCost {
        DeviceCost {
            read_ns,
            latency_ns: read_ns,
            bytes_per_s,
            readahead_bytes: 0,
            measured_ms: 1,
        }
    }

    #[test]
    fn a_gap_is_read_through_where_a_read_costs_more() {
        let files = vec![(0..100).map(|i| run(i * 4, i * 4 + 1)).collect::<Vec<_>>()];
        // 100 reads of 1 ms against 300 more pages at 1 GB/s.
        let near = near(1);
        let chosen = |cost: &DeviceCost| choose_gap(&files, near, u64::MAX, cost, in_turn(cost));
        assert!(chosen(&cost(1e6, 1e9)) >= 3);
        // Reads cost nothing.
        assert_eq!(chosen(&cost(0.0, 1e6)), 0);
        // They cost nothing, but a page too little costs 8 MiB.
        let wide = DeviceCost {
            readahead_bytes: 8 << 20,
            ..cost(0.0, 1e6)
        };
        assert_eq!(chosen(&wide), 4);
    }

    #[test]
    fn beside_a_start_reads_and_bytes_go_on_at_once() {
        let files = vec![(0..100).map(|i| run(i * 4, i * 4 + 1)).collect::<Vec<_>>()];
        let chosen = |names, cost: &DeviceCost| {
            choose_gap(&files, &[], u64::MAX, cost, at_once(cost, names))
        };
        // Its bytes take 4 ms, with the gaps 16 ms; 100 reads of 9 µs less.
        assert_eq!(chosen(0, &cost(9e3, 1024e5)), 0);
        // They take longer; and so they do by those for names.
        assert_eq!(chosen(0, &cost(200e3, 1024e5)), 4);
        assert_eq!(chosen(1000, &cost(9e3, 1024e5)), 4);
        // What its bytes take is next to nothing: fewer are to be asked for.
        assert_eq!(chosen(0, &cost(1e3, 4e9)), 4);
    }

    #[test]
    fn rare_misses_count_where_windows_are_wide() {
        let narrow = cost(1e5, 1e8);
        let wide = DeviceCost {
            readahead_bytes: 8 << 20,
            ..narrow
        };
        assert_eq!((near_ahead(1, &narrow), near_ahead(1, &wide)), (8, 16));
        assert_eq!((near_ahead(2, &narrow), near_ahead(3, &wide)), (4, 4));
        let mut all = (0..4).flat_map(near);
        assert!(all.all(|(gap, _)| GAPS.contains(gap)), "they are tried");
    }

    #[test]
    fn pages_of_other_times_are_not_drawn_forward() {
        let late = Run {
            first_use_ns: 1_000,
            ..run(2, 3)
        };
        assert_eq!(merge(&[run(0, 1), late], 4, 10).len(), 2);
        assert_eq!(merge(&[run(0, 1), late], 4, 1_000).len(), 1);
    }

    #[test]
    fn long_reads_are_cut_where_blocks_begin() {
        let runs: Vec<Run> = (0..10).map(|i| run(100 + i * 600, 700 + i * 600)).collect();
        let ends: Vec<u64> = merge(&runs, 0, u64::MAX).iter().map(|r| r.end).collect();
        assert_eq!(ends, [2048, 4096, 6100]);
        // Not through a gap.
        let apart = [run(0, 2000), run(2001, 2200)];
        assert_eq!(merge(&apart, 1, u64::MAX), apart);
    }

    #[test]
    fn long_sequential_stretches_are_left_to_readahead_after_their_first_window() {
        let at = |start, end, first_use_ns| Run {
            first_use_ns,
            ..run(start, end)
        };
        let runs = vec![at(0, 6, 0), at(6, 40, 5), at(50, 90, 9), at(90, 99, 1)];
        let (kept, left) = leave_sequential(runs.clone(), 10, 10);
        // What follows page 90 was read before what comes before it.
        assert_eq!(
            kept,
            [at(0, 6, 0), at(6, 10, 5), at(50, 60, 9), at(90, 99, 1)]
        );
        assert_eq!(left, 30 + 30);
        let (kept, left) = leave_sequential(runs.clone(), 10, 0);
        assert_eq!(kept, [at(90, 99, 1)]);
        assert_eq!(left, 40 + 40);
        assert_eq!(leave_sequential(runs.clone(), 0, 0), (runs, 0));
    }

    proptest! {
        #[test]
        fn subtracting_leaves_exactly_the_rest(
            a in proptest::collection::vec(any::<bool>(), 64), b in proptest::collection::vec(any::<bool>(), 64)
        ) {
            let runs = |bits: &[bool]| -> Vec<Run> {
                let pages: Vec<Run> = bits.iter().enumerate().filter(|(_, b)| **b).map(|(i, _)| run(i as u64, i as u64 + 1)).collect();
                merge(&pages, 0, u64::MAX)
            };
            let left = subtract(&runs(&a), &runs(&b));
            let pages: Vec<u64> = left.iter().flat_map(|r| r.start..r.end).collect();
            let wanted: Vec<u64> = (0..64).filter(|&i| a[i as usize] && !b[i as usize]).collect();
            prop_assert_eq!(pages, wanted);
        }

        #[test]
        fn merging_keeps_every_page_and_counts_the_gaps(
            lengths in proptest::collection::vec((0u64..20, 1u64..40, 0u64..100), 1..50), gap in 0u64..20, slack in 0u64..100
        ) {
            let mut at = 0;
            let runs: Vec<Run> = lengths.iter().map(|&(skip, len, time)| {
                let start = at + skip;
                at = start + len;
                Run { first_use_ns: time, ..run(start, at) }
            }).collect();
            let merged = merge(&runs, gap, slack);
            let wanted: u64 = runs.iter().map(|r| r.end - r.start).sum();
            let got: u64 = merged.iter().map(|r| r.end - r.start - r.gap_pages).sum();
            prop_assert_eq!(wanted, got);
            for run in &runs {
                let covered: u64 = merged.iter().filter(|m| m.first_use_ns <= run.first_use_ns)
                    .map(|m| m.end.min(run.end).saturating_sub(m.start.max(run.start))).sum();
                prop_assert_eq!(covered, run.end - run.start);
            }
            prop_assert!(merged.windows(2).all(|w| w[0].end <= w[1].start));
        }
    }
}
