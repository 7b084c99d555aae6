//! Page ranges with their history: how touches become extents, and how the
//! extents of two profiles become one list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::model::{Certainty, Extent, PageTouch, RunMask};

/// First page no file can have (2^63 bytes): ranges are cut here, so that page
/// arithmetic never overflows.
pub(super) const END_OF_PAGES: u64 = 1 << 51;

/// Pages of one run whose first uses lie closer than this become one extent...
const RESOLUTION_NS: u64 = 1_000_000;

/// ...and later in a run, closer than this part of the time since its start. So
/// reading one file from end to end makes some thousand extents however long
/// it takes, and not one for each millisecond.
const RESOLUTION_PART: u64 = 256;

/// A range of pages with one history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) first_use_ns: u64,
    pub(super) certain: RunMask,
    pub(super) seen: RunMask,
}

impl From<&Extent> for Segment {
    fn from(extent: &Extent) -> Self {
        Segment {
            start: extent.start_page,
            end: extent.start_page.saturating_add(u64::from(extent.pages)),
            first_use_ns: extent.first_use_ns,
            certain: extent.certain,
            seen: extent.seen,
        }
    }
}

/// The newest run of a mask as a number that compares: 0 for no run.
pub(super) fn newest(mask: RunMask) -> u32 {
    RunMask::BITS - mask.leading_zeros()
}

/// Joins neighbours of like history. With a tolerance of nothing the result
/// depends on the pages' history alone and not on how the input was cut, which
/// is what makes merging associative.
struct Coalescer {
    out: Vec<Extent>,
    open: Option<Segment>,
    /// Latest first use in `open`; `open.first_use_ns` is the earliest.
    latest_ns: u64,
    resolution_ns: fn(u64) -> u64,
}

impl Coalescer {
    fn exact() -> Self {
        Self::with(|_| 0)
    }

    fn of_one_run() -> Self {
        Self::with(|first_use_ns| RESOLUTION_NS.max(first_use_ns / RESOLUTION_PART))
    }

    fn with(resolution_ns: fn(u64) -> u64) -> Self {
        Coalescer {
            out: Vec::new(),
            open: None,
            latest_ns: 0,
            resolution_ns,
        }
    }

    fn push(&mut self, segment: Segment) {
        if segment.start >= segment.end {
            return;
        }
        if let Some(open) = &mut self.open {
            let earliest = open.first_use_ns.min(segment.first_use_ns);
            let latest = self.latest_ns.max(segment.first_use_ns);
            if open.end == segment.start
                && open.certain == segment.certain
                && open.seen == segment.seen
                && latest - earliest <= (self.resolution_ns)(earliest)
            {
                open.end = segment.end;
                open.first_use_ns = earliest;
                self.latest_ns = latest;
                return;
            }
        }
        self.close();
        self.latest_ns = segment.first_use_ns;
        self.open = Some(segment);
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let mut start = open.start;
        while start < open.end {
            let pages = u32::try_from(open.end - start).unwrap_or(u32::MAX);
            self.out.push(Extent {
                start_page: start,
                pages,
                first_use_ns: open.first_use_ns,
                certain: open.certain,
                seen: open.seen,
            });
            start += u64::from(pages);
        }
    }

    fn finish(mut self) -> Vec<Extent> {
        self.close();
        self.out
    }
}

/// Makes one run's touches of one file, in any order and overlapping, into
/// sorted and disjoint extents of bit 0: a page that any touch was certain of
/// is certain, and was first used when the earliest of its touches was. Pages
/// from `end_page` on are dropped.
pub(super) fn from_touches(touches: &[PageTouch], end_page: u64) -> Vec<Extent> {
    let end_page = end_page.min(END_OF_PAGES);
    let mut ranges: Vec<(u64, u64, u64, bool)> = touches
        .iter()
        .map(|t| {
            let end = t.start_page.saturating_add(u64::from(t.pages));
            let certain = t.certainty == Certainty::Certain;
            (t.start_page, end.min(end_page), t.first_use_ns, certain)
        })
        .filter(|(start, end, ..)| start < end)
        .collect();
    ranges.sort_unstable();
    let mut cuts: Vec<u64> = ranges.iter().flat_map(|r| [r.0, r.1]).collect();
    cuts.sort_unstable();
    cuts.dedup();

    let mut out = Coalescer::of_one_run();
    let mut upcoming = ranges.into_iter().peekable();
    // Touches over the current piece, earliest first use on top. One that has
    // ended is only removed once it comes to the top.
    let mut open: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut certain_until = 0;
    for piece in cuts.windows(2) {
        let [from, to] = [piece[0], piece[1]];
        while let Some((_, end, first_use_ns, certain)) = upcoming.next_if(|r| r.0 <= from) {
            open.push(Reverse((first_use_ns, end)));
            if certain {
                certain_until = end.max(certain_until);
            }
        }
        while open.peek().is_some_and(|Reverse((_, end))| *end <= from) {
            open.pop();
        }
        if let Some(Reverse((first_use_ns, _))) = open.peek() {
            out.push(Segment {
                start: from,
                end: to,
                first_use_ns: *first_use_ns,
                certain: RunMask::from(certain_until > from),
                seen: 1,
            });
        }
    }
    out.finish()
}

/// Merges two sorted, disjoint lists whose masks are bits of the same runs.
/// Segments seen by no run are dropped.
pub(super) fn merge(
    a: impl Iterator<Item = Segment>,
    b: impl Iterator<Item = Segment>,
) -> Vec<Extent> {
    let mut a = a.filter(|s| s.seen != 0);
    let mut b = b.filter(|s| s.seen != 0);
    let mut out = Coalescer::exact();
    let (mut left, mut right) = (a.next(), b.next());
    loop {
        match (&mut left, &mut right) {
            (None, None) => return out.finish(),
            (Some(x), None) => {
                out.push(*x);
                left = a.next();
            }
            (None, Some(y)) => {
                out.push(*y);
                right = b.next();
            }
            (Some(x), Some(y)) if x.start < y.start => {
                out.push(Segment {
                    end: x.end.min(y.start),
                    ..*x
                });
                x.start = x.end.min(y.start);
                if x.start == x.end {
                    left = a.next();
                }
            }
            (Some(x), Some(y)) if y.start < x.start => {
                out.push(Segment {
                    end: y.end.min(x.start),
                    ..*y
                });
                y.start = y.end.min(x.start);
                if y.start == y.end {
                    right = b.next();
                }
            }
            (Some(x), Some(y)) => {
                let end = x.end.min(y.end);
                out.push(both(x, y, end));
                (x.start, y.start) = (end, end);
                let (x_ends, y_ends) = (x.start == x.end, y.start == y.end);
                if x_ends {
                    left = a.next();
                }
                if y_ends {
                    right = b.next();
                }
            }
        }
    }
}

fn both(x: &Segment, y: &Segment, end: u64) -> Segment {
    Segment {
        start: x.start,
        end,
        first_use_ns: first_use(x.seen, x.first_use_ns, y.seen, y.first_use_ns),
        certain: x.certain | y.certain,
        seen: x.seen | y.seen,
    }
}

/// The first use that stays: that of the newer run; the earlier for one run.
pub(super) fn first_use(a_seen: RunMask, a_ns: u64, b_seen: RunMask, b_ns: u64) -> u64 {
    match newest(a_seen).cmp(&newest(b_seen)) {
        std::cmp::Ordering::Greater => a_ns,
        std::cmp::Ordering::Less => b_ns,
        std::cmp::Ordering::Equal => a_ns.min(b_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn touch(start_page: u64, pages: u32, certainty: Certainty, first_use_ns: u64) -> PageTouch {
        PageTouch {
            start_page,
            pages,
            certainty,
            first_use_ns,
        }
    }

    #[test]
    fn a_certain_page_splits_its_window() {
        let touches = [
            touch(0, 16, Certainty::Maybe, 500),
            touch(5, 1, Certainty::Certain, 900),
        ];
        let extents = from_touches(&touches, 100);
        let shape: Vec<_> = extents
            .iter()
            .map(|e| (e.start_page, e.pages, e.certain, e.first_use_ns))
            .collect();
        assert_eq!(shape, [(0, 5, 0, 500), (5, 1, 1, 500), (6, 10, 0, 500)]);
    }

    #[test]
    fn pages_used_at_other_times_stay_apart() {
        let touches = [
            touch(0, 1, Certainty::Certain, 0),
            touch(1, 1, Certainty::Certain, RESOLUTION_NS),
            touch(2, 1, Certainty::Certain, RESOLUTION_NS + 1),
        ];
        let extents = from_touches(&touches, 100);
        assert_eq!(extents.len(), 2);
        assert_eq!((extents[0].pages, extents[1].start_page), (2, 2));
    }

    #[test]
    fn reading_for_an_hour_does_not_make_a_million_extents() {
        let touches: Vec<_> = (0..3_600_000_u64)
            .map(|ms| touch(ms, 1, Certainty::Certain, ms * 1_000_000))
            .collect();
        let extents = from_touches(&touches, u64::MAX);
        assert!(extents.len() < 3_000, "{} extents", extents.len());
    }

    #[test]
    fn windows_past_the_end_are_cut_and_huge_ones_are_split() {
        let past = [
            touch(8, 16, Certainty::Maybe, 0),
            touch(30, 1, Certainty::Certain, 0),
        ];
        let extents = from_touches(&past, 10);
        assert_eq!(extents.len(), 1);
        assert_eq!((extents[0].start_page, extents[0].pages), (8, 2));

        let huge = [
            touch(0, u32::MAX, Certainty::Certain, 0),
            touch(7, u32::MAX, Certainty::Certain, 0),
        ];
        let extents = from_touches(&huge, u64::MAX);
        let pages: Vec<_> = extents.iter().map(|e| e.pages).collect();
        assert_eq!(pages, [u32::MAX, 7]);
        let overflowing = [touch(u64::MAX - 1, 9, Certainty::Certain, 0)];
        assert!(from_touches(&overflowing, u64::MAX).is_empty());
    }

    fn any_touch() -> impl Strategy<Value = PageTouch> {
        (0..60_u64, 0..20_u32, any::<bool>(), 0..6_000_000_u64).prop_map(
            |(start, pages, certain, ns)| {
                let certainty = if certain {
                    Certainty::Certain
                } else {
                    Certainty::Maybe
                };
                touch(start, pages, certainty, ns)
            },
        )
    }

    proptest! {
        #[test]
        fn each_page_keeps_its_history(touches in prop::collection::vec(any_touch(), 0..30)) {
            let mut pages: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
            for t in &touches {
                for page in t.start_page..(t.start_page + u64::from(t.pages)).min(64) {
                    let entry = pages.entry(page).or_insert((false, u64::MAX));
                    entry.0 |= t.certainty == Certainty::Certain;
                    entry.1 = entry.1.min(t.first_use_ns);
                }
            }
            let mut last_end = 0;
            for e in from_touches(&touches, 64) {
                prop_assert!(e.pages > 0 && e.start_page >= last_end && e.seen == 1);
                last_end = e.start_page + u64::from(e.pages);
                for page in e.start_page..last_end {
                    let (certain, first_use_ns) = pages.remove(&page).expect("a page that was touched, once");
                    prop_assert_eq!(e.certain == 1, certain);
                    prop_assert!(first_use_ns >= e.first_use_ns);
                    prop_assert!(first_use_ns - e.first_use_ns <= RESOLUTION_NS);
                }
            }
            prop_assert!(pages.is_empty());
        }
    }
}
