//! Opening the file, waiting for it, and setting a damaged one aside.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use redb::{Builder, ConcurrencyMode, Database, ReadOnlyDatabase};
use rustix::fs::{FlockOperation, OFlags};

use super::backend::Backend;
use super::panics;
use crate::attribute::regular;

use super::{FILE_NAME, LOCK_POLL, Store, StoreError, now, shown};

/// Memory for pages between reads; a profile is read once.
const CACHE_BYTES: usize = 16 << 20;

/// In what redb says of a file of a version that it does not know, as it says of damage.
const NEWER: &str = "Expected file format version <=";

/// Where the two copies of redb's header are, of which the first byte is the version
/// (redb's docs/design.md, "Database header").
const COMMIT_SLOTS: [u64; 2] = [64, 192];

/// Versions from this one on redb will not reach soon: it is at 3.
const PLAUSIBLE: u8 = 32;

/// An open store file.
pub(super) enum Open {
    Read(ReadOnlyDatabase),
    Write(Database),
}

/// Why an attempt at something failed.
pub(super) enum Failure {
    /// Another process has it.
    Busy,
    /// Another process still had it after all the time there was.
    TimedOut,
    /// The last writer died; a writer has to repair.
    Unclean,
    /// The file says that it is of a newer redb.
    Newer(String),
    /// The file is not what redb wrote.
    Damaged(String),
    /// Something panicked: redb, of a file that is not what it wrote, or we, of a fault of
    /// our own.
    Panicked(String),
    /// Anything else.
    Other(Box<redb::Error>),
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Failure::Busy,
            redb::Error::RepairAborted => Failure::Unclean,
            redb::Error::Corrupted(problem) if problem.contains(NEWER) => Failure::Newer(problem),
            redb::Error::Corrupted(problem) => Failure::Damaged(problem),
            redb::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => Failure::TimedOut,
            redb::Error::Io(e) if matches!(e.kind(), InvalidData | UnexpectedEof) => {
                Failure::Damaged(e.to_string())
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => Failure::Damaged(error.to_string()),
            other => Failure::Other(Box::new(other)),
        }
    }
}

/// redb may panic on a file that something else has written into. Nothing that
/// `body` leaves half done is used afterwards: the caller opens the file anew.
fn catch_panic<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let _told_elsewhere = panics::expect();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Failure::Panicked(text.unwrap_or("inconsistent").to_owned()))
    })
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_concurrency_mode(ConcurrencyMode::MultiWriter);
    builder
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |reason| StoreError::Io {
        operation,
        path: path.to_owned(),
        reason,
    }
}

/// Makes the state directory, for its owner only: profiles tell what is run.
pub(super) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| match e.kind() {
            // What is there is no directory, which this does not say.
            io::ErrorKind::AlreadyExists => io::Error::from(rustix::io::Errno::NOTDIR),
            _ => e,
        })
        .map_err(io_error("creating the state directory", dir))
}

/// Holds off other processes that create the file or set it aside. Where the
/// filesystem has no such locks, those races are left open.
fn lock_dir(dir: &Path) -> Result<File, StoreError> {
    let handle = File::open(dir).map_err(io_error("opening the state directory", dir))?;
    let _ = rustix::fs::flock(&handle, FlockOperation::LockExclusive);
    Ok(handle)
}

/// Opens the store's file. What is no file (a FIFO, on which opening may wait for ever) is
/// refused.
fn open_regular(path: &Path, writable: bool) -> io::Result<File> {
    let flags = if writable {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    regular::open(path, flags).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory => {
            io::Error::other("not a regular file; move it away, and a new store is made")
        }
        _ => error,
    })
}

/// Writes a file `KIND-<unix seconds>` that was not there before.
pub(super) fn write_new(dir: &Path, kind: &str, bytes: &[u8]) -> Result<PathBuf, StoreError> {
    let path = unused(dir, kind);
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("writing", &path))?;
    Ok(path)
}

fn unused(dir: &Path, kind: &str) -> PathBuf {
    let mut path = dir.join(format!("{kind}-{}", now().as_secs()));
    let mut number = 2;
    while path.symlink_metadata().is_ok() {
        path = dir.join(format!("{kind}-{}.{number}", now().as_secs()));
        number += 1;
    }
    path
}

impl Store {
    /// Does something with the open file until it works, waiting for others and
    /// setting a damaged file aside.
    pub(super) fn attempt<T>(
        &self,
        operation: &'static str,
        body: impl Fn(Option<&Open>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut db = self.db();
        let mut waiting = Waiting::new(self);
        loop {
            if db.is_none() {
                *db = self.open_file()?;
            }
            let identity = self.identity();
            let failure = match catch_panic(|| body(db.as_ref())) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            // After an error redb refuses all further work on the same handle.
            if !matches!(failure, Failure::Busy) {
                *db = None;
            }
            waiting.after(operation, failure, identity)?;
        }
    }

    /// Opens the file as `access` says; `None` if there is none to read.
    pub(super) fn open_file(&self) -> Result<Option<Open>, StoreError> {
        let mut waiting = Waiting::new(self);
        loop {
            let writable = self.is_written();
            let file = match open_regular(&self.path, writable) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    if !writable {
                        return Ok(None);
                    }
                    self.create_file()?;
                    continue;
                }
                Err(e) => return Err(io_error("opening", &self.path)(e)),
            };
            let meta = file.metadata().map_err(io_error("opening", &self.path))?;
            if meta.len() == 0 && !writable {
                return Ok(None);
            }
            let identity = Some((meta.dev(), meta.ino()));
            let opened = catch_panic(|| {
                if writable {
                    return self.to_write(file).map(Open::Write);
                }
                let backend = Backend::new(file, self.wait).map_err(redb::Error::from)?;
                let opened = builder().open_read_only_with_backend(backend);
                Ok(Open::Read(opened.map_err(redb::Error::from)?))
            });
            match opened {
                Ok(open) => return Ok(Some(open)),
                Err(failure) => waiting.after("opening", failure, identity)?,
            }
        }
    }

    /// A database to write to, in an open file.
    fn to_write(&self, file: File) -> Result<Database, Failure> {
        let backend = Backend::new(file, self.wait).map_err(redb::Error::from)?;
        let db = builder().create_with_backend(backend);
        Ok(db.map_err(redb::Error::from)?)
    }

    /// Device and inode of the store's file.
    fn identity(&self) -> Option<(u64, u64)> {
        let meta = fs::metadata(&self.path).ok()?;
        Some((meta.dev(), meta.ino()))
    }

    /// Makes an empty store beside its place and moves it there, so that nobody
    /// meets a half-made one.
    fn create_file(&self) -> Result<(), StoreError> {
        let dir = lock_dir(&self.dir)?;
        if self.path.exists() {
            return Ok(());
        }
        let new = self.dir.join(format!("{FILE_NAME}.new"));
        let _ = fs::remove_file(&new);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&new).map_err(io_error("creating", &new))?;
        let made = catch_panic(|| {
            let closed = self.to_write(file)?.close();
            Ok(closed.map_err(redb::Error::from)?)
        });
        if let Err(failure) = made {
            let _ = fs::remove_file(&new);
            return Err(self.error("creating", failure));
        }
        fs::rename(&new, &self.path).map_err(io_error("creating", &self.path))?;
        // Without this the name could be lost, and with it what is committed later.
        dir.sync_all().map_err(io_error("creating", &self.path))
    }

    /// Lets one that can write repair what a dead writer left.
    fn repair(&self) -> Result<(), StoreError> {
        tracing::debug!("{}: repairing after an unclean end", shown(&self.path));
        let file = match open_regular(&self.path, true) {
            Ok(file) => file,
            Err(_) => return Err(StoreError::NeedsRepair(self.path.clone())),
        };
        let repaired = catch_panic(|| {
            let closed = self.to_write(file)?.close();
            Ok(closed.map_err(redb::Error::from)?)
        });
        match repaired {
            // Whoever is at work on it repairs it; damage shows when it is opened again.
            Ok(())
            | Err(Failure::Busy | Failure::Damaged(_) | Failure::Panicked(_) | Failure::Unclean) => {
                Ok(())
            }
            Err(other) => Err(self.error("repairing", other)),
        }
    }

    /// Whether both copies of the file's header agree on a version that there may be one
    /// day. Of one that is damaged they hardly do.
    fn is_newer(&self) -> bool {
        let version = |at| {
            let file = open_regular(&self.path, false).ok()?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).ok()?;
            Some(byte)
        };
        let [one, other] = COMMIT_SLOTS.map(version);
        one == other && one.is_some_and(|[version]| version < PLAUSIBLE)
    }

    /// Whether redb finds every page of the file as it wrote it. Where that can't be looked
    /// at (no right to write, another's lock), it is.
    fn is_sound(&self) -> bool {
        let checked = catch_panic(|| {
            let file = open_regular(&self.path, true).map_err(redb::Error::from)?;
            let mut db = self.to_write(file)?;
            Ok(db.check_integrity().map_err(redb::Error::from)?)
        });
        match checked {
            Ok(sound) => sound,
            Err(Failure::Damaged(_) | Failure::Panicked(_)) => false,
            Err(_) => true,
        }
    }

    /// Moves the file away, if it still is the one that was found damaged.
    fn set_aside(&self, identity: Option<(u64, u64)>, problem: &str) -> Result<(), StoreError> {
        let damaged = |reason| StoreError::Damaged {
            path: self.path.clone(),
            problem: problem.to_owned(),
            reason,
        };
        let _dir = lock_dir(&self.dir)?;
        if self.identity() != identity {
            return Ok(());
        }
        let aside = unused(&self.dir, &format!("{FILE_NAME}.corrupt"));
        fs::rename(&self.path, &aside).map_err(damaged)?;
        self.notice(format!(
            "{} is damaged ({problem}): it is kept as {}, and profiles are learned anew",
            shown(&self.path),
            shown(&aside)
        ));
        Ok(())
    }

    fn error(&self, operation: &'static str, failure: Failure) -> StoreError {
        let path = self.path.clone();
        match failure {
            Failure::Busy | Failure::TimedOut => StoreError::Busy {
                path,
                waited: self.wait,
            },
            Failure::Unclean => StoreError::NeedsRepair(path),
            Failure::Newer(_) => StoreError::Newer(path),
            Failure::Damaged(problem) => StoreError::Damaged {
                path,
                problem,
                reason: io::Error::other("it is damaged again"),
            },
            Failure::Panicked(problem) => StoreError::Fault {
                operation,
                path,
                problem,
            },
            Failure::Other(error) => match *error {
                redb::Error::Io(reason) => StoreError::Io {
                    operation,
                    path,
                    reason,
                },
                other => StoreError::Database {
                    operation,
                    path,
                    reason: Box::new(other),
                },
            },
        }
    }
}

/// What has been tried so far.
struct Waiting<'a> {
    store: &'a Store,
    since: Instant,
    damaged: u32,
    repairs: u32,
}

impl<'a> Waiting<'a> {
    fn new(store: &'a Store) -> Self {
        Waiting {
            store,
            since: Instant::now(),
            damaged: 0,
            repairs: 0,
        }
    }

    /// Deals with a failure; `Ok` to try again.
    fn after(
        &mut self,
        operation: &'static str,
        failure: Failure,
        identity: Option<(u64, u64)>,
    ) -> Result<(), StoreError> {
        match failure {
            Failure::Busy if self.since.elapsed() < self.store.wait => {
                std::thread::sleep(LOCK_POLL);
                Ok(())
            }
            Failure::Unclean if self.repairs < 3 => {
                self.repairs += 1;
                self.store.repair()
            }
            // Once more: nobody's file is moved for a passing error.
            Failure::Damaged(_) | Failure::Panicked(_) if self.damaged == 0 => {
                self.damaged = 1;
                std::thread::sleep(LOCK_POLL);
                Ok(())
            }
            Failure::Newer(problem) if !self.store.is_newer() => {
                self.after(operation, Failure::Damaged(problem), identity)
            }
            Failure::Damaged(problem) if self.damaged == 1 => {
                self.damaged = 2;
                self.store.set_aside(identity, &problem)
            }
            // Nor for a fault that is not the file's.
            Failure::Panicked(problem) if self.damaged == 1 && !self.store.is_sound() => {
                self.damaged = 2;
                self.store.set_aside(identity, &problem)
            }
            failure => Err(self.store.error(operation, failure)),
        }
    }
}
