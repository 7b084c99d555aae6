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
}

/// How far the plan has been handed out.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    pub(super) names: Mutex<Cursor>,
    pub(super) data: Mutex<Cursor>,
    /// Index of the action that the names have come to.
    pub(super) names_at: AtomicUsize,
}
