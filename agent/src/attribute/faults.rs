//! Which page of a window faulted.
//!
//! The kernel maps a window of up to 16 pages around a fault (`do_fault_around`
//! in mm/memory.c). It begins where the faulting address is rounded down to 16
//! pages, so that the faulting page is `start + (vpn mod 16)`, unless the
//! mapping itself begins inside the window: then the window begins with the
//! mapping. The two can't be told apart from one window, but all windows of one
//! mapping share the difference between virtual page and file page.

use std::collections::HashMap;

use crate::probe::Fault;

/// For each fault of one file in one process, the file page that faulted;
/// `None` where it can't be known.
///
/// `around` is the kernel's window in pages (a power of two).
pub(super) fn faulting_pages(faults: &[Fault], around: u64) -> Vec<Option<u64>> {
    // Difference virtual page - file page, if the window was not cut.
    let uncut = |fault: &Fault| {
        let vpn = fault.vpn?;
        let page = fault.start + (vpn & (around - 1));
        (page <= fault.last).then(|| vpn.wrapping_sub(page))
    };
    let mut votes: HashMap<u64, usize> = HashMap::new();
    for difference in faults.iter().filter_map(uncut) {
        *votes.entry(difference).or_default() += 1;
    }
    let mut candidates: Vec<(u64, usize)> = votes.iter().map(|(&d, &n)| (d, n)).collect();
    candidates.sort_by_key(|&(difference, votes)| (std::cmp::Reverse(votes), difference));
    faults
        .iter()
        .map(|fault| {
            if fault.start == fault.last {
                return Some(fault.start);
            }
            let vpn = fault.vpn?;
            let own = uncut(fault);
            let own_votes = own.map_or(0, |difference| votes[&difference]);
            let agreed = candidates.iter().find(|&&(difference, votes)| {
                let page = vpn.wrapping_sub(difference);
                (fault.start..=fault.last).contains(&page)
                    && (votes > own_votes || Some(difference) == own)
            });
            agreed.map(|&(difference, _)| vpn.wrapping_sub(difference))
        })
        .collect()
}

#[cfg(test)]
mod tests {
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
    fn a_window_cut_by_its_mapping_is_told_by_the_others() {
        // A mapping of pages 0..64 at virtual page 0x1005: windows before 0x1010 are cut.
        let faults: Vec<Fault> = [3, 20, 40]
            .iter()
            .map(|&page| kernel_window(0x1005, 0, 64, page))
            .collect();
        assert_eq!(
            faulting_pages(&faults, 16),
            vec![Some(3), Some(20), Some(40)]
        );
    }

    #[test]
    fn without_an_address_nothing_is_certain() {
        let mut one = fault(0, 15, 7);
        one.vpn = None;
        assert_eq!(faulting_pages(&[one], 16), vec![None]);
    }

    proptest! {
        #[test]
        fn most_faults_of_a_mapping_are_found(
            base in 0x1000u64..0x2000, offset in 0u64..100, picks in proptest::collection::vec(0u64..200, 6..20)
        ) {
            let faults: Vec<Fault> =
                picks.iter().map(|&p| kernel_window(base, offset, 200, offset + p)).collect();
            let uncut = picks.iter().filter(|&&p| p >= 16).count();
            let cut = picks.len() - uncut;
            prop_assume!(uncut > cut);
            let found = faulting_pages(&faults, 16);
            for (pick, page) in picks.iter().zip(found) {
                prop_assert_eq!(page, Some(offset + pick));
            }
        }
    }
}
