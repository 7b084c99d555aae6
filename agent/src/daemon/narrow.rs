//! The kernel's fault-around window, one page for as long as something is learned, where
//! the configuration wants that: what is learned then has no maybe pages.
//!
//! A thread of its own narrows it and puts it back: the journal of that is on a disk, which
//! the loop does not wait for. So a start is page by page only if it touched nothing
//! before the window was narrow.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::view::Feature;
use crate::run::{FaultAround, FaultAroundError, Narrowed};

/// Narrows the window, and puts it back when dropped.
pub(super) struct Narrower {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the loop wants.
    wanted: bool,
    over: bool,
    /// Since when it is narrow.
    since: Option<Instant>,
    /// Why it was not, the last time that it was to be.
    refused: String,
}

impl Narrower {
    /// The journal is in `state_dir`.
    pub(super) fn start(state_dir: PathBuf) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let work = shared.clone();
        let thread = std::thread::Builder::new()
            .name("narrow".into())
            .spawn(move || work.work(&state_dir))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Has it narrowed, or put back; waits for neither.
    pub(super) fn want(&self, narrow: bool) {
        let mut state = self.shared.lock();
        if state.wanted != narrow {
            state.wanted = narrow;
            self.shared.changed.notify_all();
        }
    }

    /// Whether it is narrow, and was at that time.
    pub(super) fn was_at(&self, time: Instant) -> bool {
        self.shared.lock().since.is_some_and(|since| since <= time)
    }

    /// Whether starts are learned page by page, as far as that was tried.
    pub(super) fn feature(&self) -> Feature {
        let refused = self.shared.lock().refused.clone();
        Feature {
            name: "learn_exactly",
            live: refused.is_empty(),
            reason: refused,
        }
    }
}

impl Drop for Narrower {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what is wanted is not `this`; `None` at the end.
    fn other_than(&self, this: bool) -> Option<bool> {
        let waits = |state: &mut State| !state.over && state.wanted == this;
        let state = self.changed.wait_while(self.lock(), waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (!state.over).then_some(state.wanted)
    }

    fn work(&self, state_dir: &Path) {
        let mut tried = false;
        while self.other_than(false).is_some() {
            let narrowed = narrow(state_dir, &mut tried);
            let mut state = self.lock();
            state.since = narrowed.as_ref().ok().map(|(_, since)| *since);
            state.refused = match &narrowed {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            };
            drop(state);
            let goes_on = self.other_than(true).is_some();
            self.lock().since = None;
            if let Ok((narrowed, _)) = narrowed
                && let Err(error) = narrowed.finish()
            {
                self.lock().refused = error;
            }
            if !goes_on {
                break;
            }
        }
    }
}

/// Narrows it; since when it is. Whether a fault maps one page then is found out once.
fn narrow(state_dir: &Path, tried: &mut bool) -> Result<(Narrowed, Instant), FaultAroundError> {
    let mut narrowed = FaultAround::claim(state_dir)?.narrow()?;
    let since = Instant::now();
    if !*tried {
        narrowed = narrowed.tried_in(state_dir)?;
        *tried = true;
    }
    Ok((narrowed, since))
}
