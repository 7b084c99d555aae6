//! redb's file, but with locks that are not waited for without end.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use super::LOCK_POLL;

/// [`FileBackend`], whose `lock_range` waits for as long as the holder lives:
/// with a stopped process on the other side, for ever.
#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    wait: Duration,
}

impl Backend {
    pub(super) fn new(file: File, wait: Duration) -> Result<Self, DatabaseError> {
        let file = FileBackend::new(file)?;
        Ok(Backend { file, wait })
    }

    fn poll(&self, attempt: impl Fn() -> Result<bool, BackendError>) -> Result<(), BackendError> {
        let since = Instant::now();
        while !attempt()? {
            if since.elapsed() >= self.wait {
                let error = io::Error::new(io::ErrorKind::TimedOut, "lock held by another process");
                return Err(BackendError::Io(error));
            }
            std::thread::sleep(LOCK_POLL);
        }
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.poll(|| self.file.try_lock_range(start, end))
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.poll(|| self.file.try_lock_shared_range(start, end))
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
