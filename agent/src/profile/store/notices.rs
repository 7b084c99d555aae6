//! What a store has to say beside results and errors.

use std::collections::VecDeque;

/// What has to be said that is no error: something damaged was set aside, or something was
/// pruned.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    /// Since the store was opened.
    pub count: u64,
    /// The last of them, the newest at the end.
    pub last: VecDeque<String>,
}

impl Notices {
    /// Most that are kept.
    const KEPT: usize = 8;

    pub(super) fn add(&mut self, notice: String) {
        self.count += 1;
        if self.last.len() == Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(notice);
    }
}
