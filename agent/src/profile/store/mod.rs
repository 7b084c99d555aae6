//! Profiles on disk: one redb file that several processes use at once.
//!
//! The file is opened in redb's multi-writer mode: readers never wait and never
//! fail because of others, a writer waits for another's transaction to end, and
//! whoever dies leaves the last commit. A file that is damaged all the same is
//! set aside and never deleted; [`Store::notices`] says so.

mod access;
mod alias;
mod backend;
pub mod entry;
mod file;
mod list;
mod notices;
pub mod panics;
mod past;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TransactionError,
    WriteTransaction,
};

use crate::model::{DeviceCost, Profile, escape};

use super::Pruned;
use super::codec::{self, CodecError};
use super::limits::Limits;
use super::merge::merge_within;
use super::name::{NameError, check_name};
use super::record::record;

pub use access::Access;
pub use entry::{Entry, KEPT, Outcome, keep};
use file::{Failure, Open};
pub use notices::Notices;
pub use past::{Called, Past};

/// The store's file in the state directory.
pub const FILE_NAME: &str = "profiles.redb";

/// How long a command waits for another's write to end.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Pause between two attempts to get what another process holds.
const LOCK_POLL: Duration = Duration::from_millis(2);

const PROFILES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("profiles");
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");

/// Why a store could not be opened, read or written, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{operation} {}: {reason}{}", shown(path), hint(reason))]
    Io {
        /// What was tried, as in "opening".
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        reason: io::Error,
    },
    /// Another process did not let go in time.
    #[error(
        "{}: another process has been writing to it for {} s; try again, or see who with `fuser -v {}`",
        shown(path), waited.as_secs(), shown(path)
    )]
    Busy {
        /// The store's file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The last writer died, and nobody with the right to has written since.
    #[error(
        "{}: was not closed cleanly, and needs one command with write access (as root) to be repaired",
        shown(.0)
    )]
    NeedsRepair(PathBuf),
    /// Made by a newer version.
    #[error(
        "{}: made by a newer version of headstart: upgrade this one, or choose another \
         directory with --state-dir",
        shown(.0)
    )]
    Newer(PathBuf),
    /// Damaged, and could not be set aside.
    #[error(
        "{}: the store is damaged ({problem}) and can't be set aside: {reason}",
        shown(path)
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// Why it is still there.
        reason: io::Error,
    },
    /// A panic that is not the file's doing.
    #[error(
        "{operation} {}: a fault of headstart's own ({problem}); the store is as it was. \
         Please report it, with what `headstart sysdump` writes",
        shown(path)
    )]
    Fault {
        /// What was tried.
        operation: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What the panic said.
        problem: String,
    },
    /// Anything else the database has to say.
    #[error("{operation} {}: {reason}", shown(path))]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The store's file.
        path: PathBuf,
        /// What the database says.
        reason: Box<redb::Error>,
    },
    /// One profile in the store can't be read.
    #[error(
        "profile `{}` in {}: {reason}. Other profiles are not affected; `headstart profile rm` removes it",
        escape(name.as_bytes()), shown(path)
    )]
    Profile {
        /// The profile.
        name: String,
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<CodecError>,
    },
    /// Not a profile's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The profile could not be read back.
    #[error("profile `{}` is too large to be kept: {bytes} bytes of {}", escape(name.as_bytes()), codec::MAX_UNCOMPRESSED)]
    TooLarge {
        /// The profile.
        name: String,
        /// Its size before compression.
        bytes: u64,
    },
    /// The store was opened for reading.
    #[error("{}: opened for reading only", shown(.0))]
    ReadOnly(PathBuf),
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// What to do about an error of the operating system, to be put behind it.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run as root, or choose another directory with --state-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
            "; choose another directory with --state-dir"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room (`headstart profile rm` removes profiles), or choose another directory \
             with --state-dir. Nothing was changed"
        }
        _ => "",
    }
}

/// The profiles of one state directory.
pub struct Store {
    dir: PathBuf,
    path: PathBuf,
    /// Whether it is written to.
    writes: AtomicBool,
    wait: Duration,
    /// `None` where there was no file to read, and after an error.
    db: Mutex<Option<Open>>,
    notices: Mutex<Notices>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Store");
        out.field("path", &self.path).field("writes", &self.writes);
        out.finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`, and waits up to [`LOCK_WAIT`] where another
    /// process has to let go first.
    ///
    /// # Errors
    /// No permission, no space, a path that is no directory, a lock held for
    /// too long. A damaged file is no error: it is set aside.
    pub fn open(dir: &Path, access: Access) -> Result<Store, StoreError> {
        Self::open_within(dir, access, LOCK_WAIT)
    }

    /// [`open`](Self::open) with another time to wait for locks, in this and in
    /// all later calls.
    pub fn open_within(dir: &Path, access: Access, wait: Duration) -> Result<Store, StoreError> {
        let store = Store {
            writes: AtomicBool::new(access == Access::Write),
            wait,
            ..Self::closed(dir)
        };
        if access == Access::Write {
            file::create_dir(dir)?;
        }
        let opened = store.open_file()?;
        *store.db() = opened;
        Ok(store)
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has to be said that is no error. Each has also been logged as a warning.
    pub fn notices(&self) -> Notices {
        self.lock_notices().clone()
    }

    /// A profile.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`StoreError::Profile`] if this one is
    /// damaged or of a newer version.
    pub fn get(&self, name: &str) -> Result<Option<Profile>, StoreError> {
        let value = self.get_bytes(name)?;
        let decode = |bytes: Vec<u8>| codec::decode(&bytes);
        let decoded = value.map(decode).transpose();
        decoded
            .map(|found| found.map(|(_, profile)| profile))
            .map_err(|source| self.bad_profile(name, source))
    }

    /// A profile as the bytes of a profile file, not checked.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn get_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_name(name)?;
        self.read("reading a profile from", |txn| {
            let value = txn.open_table(PROFILES)?.get(name)?;
            Ok(value.map(|bytes| bytes.value().to_vec()))
        })
        .map(Option::flatten)
    }

    /// Writes a profile over whatever has its name.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`StoreError::TooLarge`].
    pub fn put(&self, name: &str, profile: &Profile) -> Result<(), StoreError> {
        check_name(name)?;
        let (value, entry) = self.encode(name, profile)?;
        self.write("writing a profile to", |txn| {
            txn.open_table(PROFILES)?.insert(name, &value[..])?;
            txn.open_table(ENTRIES)?.insert(name, &entry[..])?;
            past::forget(txn, name)
        })
    }

    /// Merges into the profile of that name, or makes it; what it is now. One
    /// transaction: what others merge at the same time is not lost.
    ///
    /// What is there but can't be read is moved to a file first. A profile of a
    /// newer version is left alone.
    ///
    /// # Errors
    /// As [`put`](Self::put), and [`StoreError::Profile`] for a newer version.
    pub fn merge_into(&self, name: &str, profile: &Profile) -> Result<Profile, StoreError> {
        let join = |old: Profile, new: &Profile| merge_within(&old, new, &Limits::DEFAULT);
        self.merge_and(name, profile, join, None)
    }

    /// As [`merge_into`](Self::merge_into), for a run that was just recorded: what
    /// exact runs rule out is dropped, of it and of those before it
    /// ([`exact`](super::exact) says why here), and runs that were joined late push none out
    /// that was seen whole.
    ///
    /// # Errors
    /// As [`merge_into`](Self::merge_into).
    pub fn record_into(&self, name: &str, run: &Profile) -> Result<Profile, StoreError> {
        self.merge_and(name, run, record, None)
    }

    fn merge_and(
        &self,
        name: &str,
        profile: &Profile,
        join: fn(Profile, &Profile) -> (Profile, Pruned),
        learned: Option<(&Outcome, &Called)>,
    ) -> Result<Profile, StoreError> {
        check_name(name)?;
        let (result, notices) = self.write("merging a profile into", |txn| {
            let mut notices = Vec::new();
            let mut profiles = txn.open_table(PROFILES)?;
            let old = profiles.get(name)?.map(|bytes| bytes.value().to_vec());
            let old = match old.map(|bytes| (codec::decode(&bytes), bytes)) {
                None => Profile::default(),
                Some((Ok((_, profile)), _)) => profile,
                Some((Err(source @ CodecError::Newer { .. }), _)) => {
                    return Ok((Err(self.bad_profile(name, source)), notices));
                }
                Some((Err(source), bytes)) => match self.save_damaged(name, &source, &bytes) {
                    Ok(notice) => {
                        notices.push(notice);
                        Profile::default()
                    }
                    Err(error) => return Ok((Err(error), notices)),
                },
            };
            let (merged, pruned) = join(old, profile);
            if !pruned.is_empty() {
                notices.push(format!(
                    "profile `{}` reached its largest size; left out: {} files, {} extents, {} names, {} metadata blocks that recent runs did not use, or used last",
                    escape(name.as_bytes()), pruned.files, pruned.extents, pruned.names, pruned.blocks,
                ));
            }
            let (value, entry) = match self.encode(name, &merged) {
                Ok(encoded) => encoded,
                Err(error) => return Ok((Err(error), notices)),
            };
            profiles.insert(name, &value[..])?;
            txn.open_table(ENTRIES)?.insert(name, &entry[..])?;
            if let Some(learned) = learned {
                past::add(txn, name, learned)?;
            }
            Ok((Ok(merged), notices))
        })?;
        notices.into_iter().for_each(|notice| self.notice(notice));
        result
    }

    /// Removes a profile; whether there was one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        check_name(name)?;
        self.write("removing a profile from", |txn| {
            let removed = txn.open_table(PROFILES)?.remove(name)?.is_some();
            let listed = txn.open_table(ENTRIES)?.remove(name)?.is_some();
            past::forget(txn, name)?;
            Ok(removed || listed)
        })
    }

    /// What was measured of a device; `key` is whatever names it to the caller.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn device_cost(&self, key: &str) -> Result<Option<DeviceCost>, StoreError> {
        let value = self.read("reading device costs from", |txn| {
            let value = txn.open_table(DEVICES)?.get(key)?;
            Ok(value.map(|bytes| bytes.value().to_vec()))
        })?;
        Ok(value.flatten().and_then(|b| entry::device_from_bytes(&b)))
    }

    /// Keeps what was measured of a device.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn set_device_cost(&self, key: &str, cost: &DeviceCost) -> Result<(), StoreError> {
        let value = entry::device_to_bytes(cost);
        self.write("writing device costs to", |txn| {
            txn.open_table(DEVICES)?.insert(key, &value[..])?;
            Ok(())
        })
    }

    /// A profile's value and entry.
    fn encode(&self, name: &str, profile: &Profile) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let value = codec::encode(name, profile);
        let bytes = codec::announced(&value);
        if bytes > codec::MAX_UNCOMPRESSED {
            let name = name.to_owned();
            return Err(StoreError::TooLarge { name, bytes });
        }
        let entry = Entry::of(name, profile, value.len() as u64, now().as_millis() as u64);
        Ok((value, entry.to_bytes()))
    }

    /// Writes a value that can't be read to a file of its own; says so.
    fn save_damaged(
        &self,
        name: &str,
        problem: &CodecError,
        bytes: &[u8],
    ) -> Result<String, StoreError> {
        let path = file::write_new(&self.dir, "damaged-profile", bytes)?;
        Ok(format!(
            "profile `{}` could not be read ({problem}); its bytes are kept in {}, and it starts anew",
            escape(name.as_bytes()),
            shown(&path)
        ))
    }

    fn bad_profile(&self, name: &str, source: CodecError) -> StoreError {
        StoreError::Profile {
            name: name.to_owned(),
            path: self.path.clone(),
            reason: Box::new(source),
        }
    }

    /// Reads; `None` where there is no store, or nothing of the kind in it.
    fn read<T>(
        &self,
        operation: &'static str,
        body: impl Fn(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<Option<T>, StoreError> {
        self.attempt(operation, |db| {
            let txn = match db {
                None => return Ok(None),
                Some(Open::Read(db)) => db.begin_read(),
                Some(Open::Write(db)) => db.begin_read(),
            };
            let value = txn.map_err(redb::Error::from).and_then(|txn| body(&txn));
            match value {
                Ok(value) => Ok(Some(value)),
                Err(redb::Error::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(Failure::from(error)),
            }
        })
    }

    /// Writes in one transaction, once no other process is in one.
    fn write<T>(
        &self,
        operation: &'static str,
        body: impl Fn(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let done = self.attempt(operation, |db| {
            let Some(Open::Write(db)) = db else {
                return Ok(None);
            };
            let txn = match db.try_begin_write() {
                Err(TransactionError::WouldBlock) => return Err(Failure::Busy),
                other => other.map_err(redb::Error::from)?,
            };
            let value = body(&txn)?;
            txn.commit().map_err(redb::Error::from)?;
            Ok(Some(value))
        })?;
        done.ok_or_else(|| StoreError::ReadOnly(self.path.clone()))
    }

    fn db(&self) -> MutexGuard<'_, Option<Open>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice(&self, notice: String) {
        tracing::warn!("{notice}");
        self.lock_notices().add(notice);
    }
}

/// Time since the epoch.
fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}
