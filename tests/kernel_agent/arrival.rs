//! Files on their way into memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::residency::resident_pages;

/// A file that is expected in memory. Machines that take idle memory back all the time
/// (DAMON) may have taken a few pages again before anybody looks: a page counts that was
/// there at any look, and an eighth may be missing where nothing more comes.
pub(crate) struct Arrival {
    path: PathBuf,
    seen: Vec<bool>,
    newest: Instant,
}

impl Arrival {
    const QUIET: Duration = Duration::from_secs(2);

    pub(crate) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: Vec::new(),
            newest: Instant::now(),
        }
    }

    /// Looks once more; something once it has arrived.
    pub(crate) fn look(&mut self) -> Option<()> {
        let now = resident_pages(&self.path);
        self.seen.resize(now.len(), false);
        for (seen, now) in self.seen.iter_mut().zip(now) {
            if now && !*seen {
                *seen = true;
                self.newest = Instant::now();
            }
        }
        let missing = self.seen.len() - self.count();
        let mostly = missing <= self.seen.len() / 8 && self.newest.elapsed() > Self::QUIET;
        (missing == 0 || mostly).then_some(())
    }

    /// What has been seen of it, in words.
    pub(crate) fn told(&self) -> String {
        let (seen, all) = (self.count(), self.seen.len());
        format!(
            "{seen} of {all} pages of {} came into memory",
            self.path.display()
        )
    }

    fn count(&self) -> usize {
        self.seen.iter().filter(|&&there| there).count()
    }
}
