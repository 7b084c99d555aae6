//! Who may write, and from when on.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{FILE_NAME, LOCK_WAIT, Store, StoreError};

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read. Creates nothing: where there is no store, it is empty.
    Read,
    /// To read and write. Creates directory and file.
    Write,
}

impl Store {
    /// The store in `dir`, to be read, which nothing is asked of yet: whoever needs it opens it.
    pub fn closed(dir: &Path) -> Store {
        Store {
            dir: dir.to_owned(),
            path: dir.join(FILE_NAME),
            writes: AtomicBool::new(false),
            wait: LOCK_WAIT,
            db: Mutex::new(None),
            notices: Mutex::default(),
        }
    }

    /// Has a store that was opened to read be written to from now on, if that can be done
    /// within `wait`.
    ///
    /// # Errors
    /// As [`open`](Self::open); it is read as before.
    pub fn begin_writing(&self, wait: Duration) -> Result<(), StoreError> {
        let tried = Self::open_within(&self.dir, Access::Write, wait)?;
        let found = tried.notices();
        found
            .last
            .into_iter()
            .for_each(|notice| self.lock_notices().add(notice));
        drop(tried);
        let mut db = self.db();
        self.writes.store(true, Ordering::Relaxed);
        // Opened anew, to write, by whoever needs it next.
        *db = None;
        Ok(())
    }

    /// Whether it is open to be written to.
    pub fn is_written(&self) -> bool {
        self.writes.load(Ordering::Relaxed)
    }
}
