//! How far a plan has been handed out to the threads that carry it out.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use crate::model::Action;

/// The two parts of a plan, which are handed out side by side: look-ups wait for
/// one block after another, data only for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Names and metadata blocks.
    Names,
    Data,
}

impl Part {
    pub(super) fn other(self) -> Self {
        match self {
            Part::Names => Part::Data,
            Part::Data => Part::Names,
        }
    }

    pub(super) fn has(self, action: Action) -> bool {
        matches!(action, Action::Read { .. }) == (self == Part::Data)
    }
}

/// How far a part of the plan has been handed out.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    pub(super) action: usize,
    /// Pages of it.
    pub(super) page: u32,
    /// Names found in memory one after the other.
    found: u32,
}

/// So many names in memory, one after the other, and the next as many are passed over, then
/// twice as many, up to the second number.
const FOUND: u32 = 8;
const PASSED: u32 = 512;

impl Cursor {
    /// A name was looked for, and is in memory or is not: how many names to pass over.
    pub(super) fn found(&mut self, is_there: bool) -> u32 {
        if !is_there {
            self.found = 0;
            return 0;
        }
        self.found = self.found.saturating_add(1);
        match self.found.checked_sub(FOUND) {
            None => 0,
            Some(more) => (FOUND << more.min(PASSED.ilog2())).min(PASSED),
        }
    }
}

/// How far the plan has been handed out.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    pub(super) names: Mutex<Cursor>,
    pub(super) data: Mutex<Cursor>,
    /// Index of the action that the names have come to.
    pub(super) names_at: AtomicUsize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_are_passed_over_the_longer_all_are_there() {
        let mut cursor = Cursor::default();
        for _ in 1..FOUND {
            assert_eq!(cursor.found(true), 0);
        }
        assert_eq!(cursor.found(true), FOUND);
        assert_eq!(cursor.found(true), 2 * FOUND);
        for _ in 0..100 {
            assert!(cursor.found(true) <= PASSED);
        }
        assert_eq!(cursor.found(true), PASSED);
        assert_eq!(cursor.found(false), 0);
        assert_eq!(cursor.found(true), 0);
    }
}
