//! Which page of a window faulted. Pure.
//!
//! The kernel maps a window of up to 16 pages around a fault (`do_fault_around`
//! in mm/memory.c). It begins where the faulting address is rounded down to 16
//! pages, so that the faulting page is `start + (vpn mod 16)`, unless the
//! mapping itself begins inside the window: then the window is *cut*, and begins
//! with the mapping. A window does not say which it is. What does:
//! - a page that was not cached faults by its own number before its window does;
//! - programs and libraries say where their mappings begin: windows that begin
//!   elsewhere are whole;
//! - the windows of one mapping share the difference between virtual page and
//!   file page: cut ones do not agree with others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::probe::Fault;

/// For each fault of one file in one process, the file page that faulted;
/// `None` where it can't be known.
///
/// `around` is the kernel's window in pages (a power of two), `starts` the sorted
/// pages at which mappings of the file begin, if the file tells.
pub(super) fn faulting_pages(
    faults: &[Fault],
    around: u64,
    starts: Option<&[u64]>,
) -> Vec<Option<u64>> {
    let mappings = Mappings::of(faults, around, starts);
    faults.iter().map(|fault| mappings.page(fault)).collect()
}

/// Where a file is mapped, as far as its faults tell.
struct Mappings<'s> {
    around: u64,
    starts: Option<&'s [u64]>,
    /// Virtual page → file page, of faults that name their page.
    exact: HashMap<u64, u64>,
    /// (Segment, difference virtual page − file page) → first pages of the
    /// windows that speak for it.
    differences: BTreeMap<(usize, u64), BTreeSet<u64>>,
}

impl<'s> Mappings<'s> {
    fn of(faults: &[Fault], around: u64, starts: Option<&'s [u64]>) -> Self {
        let mut this = Self {
            around,
            starts,
            exact: HashMap::new(),
            differences: BTreeMap::new(),
        };
        for fault in faults {
            let Some(vpn) = fault.vpn else { continue };
            if fault.start == fault.last {
                this.exact.insert(vpn, fault.start);
            }
            // The page at a start may as well be the last of the mapping before.
            if this.may_begin_at(fault.start) && starts.is_some() {
                continue;
            }
            if let Some(page) = this.uncut(fault, vpn) {
                let place = (this.segment(page), vpn.wrapping_sub(page));
                this.differences
                    .entry(place)
                    .or_default()
                    .insert(fault.start);
            }
        }
        this
    }

    /// The page that faulted if the window was not cut at its start.
    fn uncut(&self, fault: &Fault, vpn: u64) -> Option<u64> {
        if fault.start == fault.last {
            return Some(fault.start);
        }
        let page = fault.start + (vpn & (self.around - 1));
        (page <= fault.last).then_some(page)
    }

    fn may_begin_at(&self, page: u64) -> bool {
        self.starts
            .is_none_or(|starts| starts.binary_search(&page).is_ok())
    }

    fn segment(&self, page: u64) -> usize {
        self.starts
            .map_or(0, |starts| starts.partition_point(|&start| start <= page))
    }

    fn page(&self, fault: &Fault) -> Option<u64> {
        if fault.start == fault.last {
            return Some(fault.start);
        }
        let vpn = fault.vpn?;
        let window = fault.start..=fault.last;
        if let Some(&page) = self.exact.get(&vpn).filter(|page| window.contains(page)) {
            return Some(page);
        }
        let uncut = self.uncut(fault, vpn);
        if !self.may_begin_at(fault.start) {
            return uncut;
        }
        let segment = self.segment(fault.start);
        if self.starts.is_none() {
            // Two windows agree by chance once in many.
            let speakers = self.differences.get(&(segment, vpn.wrapping_sub(uncut?)))?;
            return uncut.filter(|_| speakers.len() > 1);
        }
        // Cut or not: the rest of its segment tells.
        let last = fault.start + (vpn & (self.around - 1));
        let mut told = self
            .differences
            .range((segment, 0)..=(segment, u64::MAX))
            .map(|(&(_, difference), _)| vpn.wrapping_sub(difference))
            .filter(|page| (fault.start..=last).contains(page));
        told.next().filter(|_| told.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::probe::InodeKey;
    use proptest::prelude::*;

    fn fault(start: u64, last: u64, vpn: u64) -> Fault {
        let inode = InodeKey {
            address: 1,
            ino: 1,
            generation: 0,
            dev: 0,
        };
        Fault {
            inode,
            start,
            last,
            vpn: Some(vpn),
        }
    }

    /// `do_fault_around` for a mapping of `pages` file pages from `offset` on,
    /// at virtual page `base`.
    fn kernel_window(base: u64, offset: u64, pages: u64, page: u64) -> Fault {
        let vpn = base + (page - offset);
        let pte = vpn % 512;
        let in_mapping = page - offset;
        let from = (pte / 16 * 16).max(pte - pte.min(in_mapping));
        let to = (from + 16).min(512).min(pte + pages - in_mapping) - 1;
        fault(page + from - pte, page + to - pte, vpn)
    }

    #[test]
    fn windows_that_agree_are_believed_and_a_cut_one_is_not() {
        // A mapping of pages 0..64 at virtual page 0x1005: windows before 0x1010 are cut.
        let mut faults: Vec<Fault> = [3, 20, 40]
            .iter()
            .map(|&page| kernel_window(0x1005, 0, 64, page))
            .collect();
        assert_eq!(
            faulting_pages(&faults, 16, None),
            vec![None, Some(20), Some(40)]
        );
        // Page 3 was not cached: it faulted by its number before its window did.
        faults.push(fault(3, 3, 0x1008));
        assert_eq!(
            faulting_pages(&faults, 16, None),
            vec![Some(3), Some(20), Some(40), Some(3)]
        );
    }

    #[test]
    fn one_window_is_not_enough() {
        let one = kernel_window(0x1005, 7, 40, 9);
        assert_eq!(faulting_pages(&[one], 16, None), vec![None]);
        assert_eq!(faulting_pages(&[one, one], 16, None), vec![None, None]);
    }

    #[test]
    fn a_file_that_tells_where_it_is_mapped_needs_no_agreement() {
        // Segments of pages 0..10 and 10..200, one virtual page further apart.
        let (code, data) = (0x1005, 0x1005 + 10 + 1);
        let starts = Some(&[0, 10][..]);
        let lone = kernel_window(data, 10, 190, 60);
        assert_eq!(faulting_pages(&[lone], 16, starts), vec![Some(60)]);
        let first = kernel_window(data, 10, 190, 12);
        assert_eq!(faulting_pages(&[first], 16, starts), vec![None]);
        assert_eq!(
            faulting_pages(&[first, lone], 16, starts),
            vec![Some(12), Some(60)]
        );
        // What is known of one segment says nothing of another.
        let other = kernel_window(code, 0, 10, 2);
        assert_eq!(
            faulting_pages(&[other, lone], 16, starts),
            vec![None, Some(60)]
        );
    }

    #[test]
    fn without_an_address_nothing_is_certain() {
        let mut one = fault(0, 15, 7);
        one.vpn = None;
        assert_eq!(faulting_pages(&[one], 16, None), vec![None]);
    }

    proptest! {
        #[test]
        fn no_page_is_wrong_and_whole_windows_are_found(
            base in 0x1000u64..0x2000, offset in 0u64..100, picks in proptest::collection::vec(0u64..200, 2..20)
        ) {
            let faults: Vec<Fault> =
                picks.iter().map(|&p| kernel_window(base, offset, 200, offset + p)).collect();
            // Behind the first border, no window is cut.
            let border = base.next_multiple_of(16) - base;
            let whole: HashSet<u64> =
                picks.iter().filter(|&&p| p >= border).map(|p| (base + p) / 16).collect();
            let found = faulting_pages(&faults, 16, None);
            for (&pick, page) in picks.iter().zip(found) {
                if whole.len() > 1 && pick >= border {
                    prop_assert_eq!(page, Some(offset + pick));
                } else {
                    prop_assert!(page.is_none() || page == Some(offset + pick));
                }
            }
        }
    }
}
