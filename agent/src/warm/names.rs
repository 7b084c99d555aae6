//! What one thread does with a name.

use std::os::fd::{AsFd, BorrowedFd};

use super::Lead;
use super::engine::lock;
use super::files::Refusal;
use super::lookup::Looked;
use super::report::FailureKind;
use super::work::Worker;
use crate::model::{Action, PlanName};

impl Worker<'_> {
    pub(super) fn name(&mut self, index: u32) {
        let shared = self.shared;
        let progress = &shared.progress;
        let Some(name) = shared.plan.names.get(index as usize) else {
            progress.names_failed.add(1);
            return;
        };
        if shared.is_served(index) || shared.is_stuck(name.volume) {
            return;
        }
        let Ok(_flight) = self.may_ask(name.volume, 0) else {
            return;
        };
        let stopped = || shared.stopped();
        let result = shared.on_volume(self.slot, name.volume, || {
            let root = shared.root(name.volume)?.fd.as_fd();
            if self.is_there_already(root, name) {
                return Some(Ok(Looked::Warmed));
            }
            Some(shared.opener.look_up(root, name, &stopped))
        });
        match result {
            Some(Ok(Looked::Warmed)) => progress.names_warmed.add(1),
            Some(Ok(Looked::Gone)) => progress.names_gone.add(1),
            Some(Err(errno)) => {
                progress.names_failed.add(1);
                let kind = Refusal::of(errno).kind.unwrap_or(FailureKind::Other);
                shared.fail_at(name.volume, name.path.as_bytes(), kind, errno, 0, 0);
            }
            // The volume's own failure is reported.
            None => progress.names_failed.add(1),
        }
    }

    /// Beside a start: whether a name is in memory, where the program was before us. Then it
    /// was at those that come next too, most likely, and they are passed over: what a
    /// look-up costs is what it would save.
    fn is_there_already(&self, root: BorrowedFd<'_>, name: &PlanName) -> bool {
        let shared = self.shared;
        if shared.options.lead != Lead::Beside || name.listed {
            return false;
        }
        let is_there = shared.opener.is_cached(root, name);
        let mut cursor = lock(&shared.cursors.names);
        let mut passed = cursor.found(is_there);
        while passed > 0
            && let Some(Action::Name { .. }) = shared.plan.actions.get(cursor.action)
        {
            cursor.action += 1;
            passed -= 1;
        }
        is_there
    }
}
