//! Records of one file → runs of its pages. Pure.

use super::collect::{At, Origin};
use super::faults::faulting_pages;
use crate::model::{Certainty, PageTouch};
use crate::probe::Fault;

/// Adds what the faults of one process used: the page that faulted, where it is
/// known, and the window around it. `starts` as in [`faulting_pages`].
pub(super) fn push_faults(
    out: &mut Vec<PageTouch>,
    faults: &[(At, Fault)],
    origin: Origin,
    around: u64,
    starts: Option<&[u64]>,
) {
    let windows: Vec<Fault> = faults.iter().map(|(_, fault)| *fault).collect();
    for ((at, fault), page) in faults.iter().zip(faulting_pages(&windows, around, starts)) {
        let Some(first_use_ns) = origin.since(*at) else {
            continue;
        };
        out.extend(page.map(|start_page| PageTouch {
            start_page,
            pages: 1,
            certainty: Certainty::Certain,
            first_use_ns,
        }));
        if fault.start < fault.last {
            out.push(PageTouch {
                start_page: fault.start,
                pages: (fault.last - fault.start + 1) as u32,
                certainty: Certainty::Maybe,
                first_use_ns,
            });
        }
    }
}

/// Bits → runs of pages, all certain.
pub(super) fn push_runs(out: &mut Vec<PageTouch>, base: u64, mut bits: u64, first_use_ns: u64) {
    while bits != 0 {
        let from = bits.trailing_zeros();
        let pages = (bits >> from).trailing_ones();
        let start_page = base + u64::from(from);
        out.push(PageTouch {
            start_page,
            pages,
            certainty: Certainty::Certain,
            first_use_ns,
        });
        bits &= u64::MAX.checked_shl(from + pages).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_become_runs() {
        let mut runs = Vec::new();
        push_runs(&mut runs, 64, 1 << 63 | 0b0110, 5);
        let spans: Vec<_> = runs.iter().map(|r| (r.start_page, r.pages)).collect();
        assert_eq!(spans, vec![(65, 2), (127, 1)]);
    }
}
