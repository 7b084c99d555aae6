//! The kernel's fault-around window, narrowed to one page while a run is recorded.
//!
//! With `fault_around_bytes` (debugfs) at one page the kernel maps nothing around a
//! fault (`do_fault_around` in mm/memory.c): every fault names the page that was used,
//! in every process and kind of mapping, on every kernel that has the file. It is the
//! whole machine's, so it is put back on every way out: by [`Narrowed`] when it is
//! dropped, and after a SIGKILL by [`put_back_left`] from a journal.
//!
//! The journal is a file in the state directory. Whoever narrows holds its lock (flock:
//! the kernel lets go of it with the process, and it works between containers), and
//! writes what it is about to do into it before. So an entry under no lock is of one
//! that was killed. A file that is empty says that there is nothing to put back; it is
//! never removed, so that all lock the same one. Nothing is flushed to the disk: what a
//! crash of the machine loses, the value does not survive either, and the entry names
//! the boot.
//!
//! Invariant: the value is changed only from what was read to one page, and back only
//! from one page. If it is anything else, somebody else has set it, and it stays.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::mapped::pages_of_a_fault;

const SETTING: &str = "fault_around_bytes";
const JOURNAL: &str = "fault-around-bytes";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Why the window is not narrowed, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum FaultAroundError {
    /// debugfs is closed, or the kernel has none.
    #[error("fault_around_bytes in debugfs: {0}")]
    Setting(#[source] io::Error),
    /// The state directory's file can't be used.
    #[error("{path}: {source}")]
    Journal {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A large folio is mapped as a whole, whatever the window.
    #[error("a fault maps {0} pages of a large folio here, though fault_around_bytes was one page")]
    MapsMore(usize),
    /// Another process has narrowed it, or is about to.
    #[error("fault_around_bytes is another headstart's for now")]
    InUse,
}

/// What was done about a window that a killed process left narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Left {
    /// There was nothing to put back.
    Nothing,
    /// It was put back.
    PutBack {
        /// What it was, bytes.
        from: u64,
        /// What it is again, bytes.
        to: u64,
    },
    /// Somebody else has set it since: it stays.
    Changed {
        /// What it is, bytes.
        now: u64,
    },
    /// A process that lives has narrowed it, and will put it back.
    InUse,
}

/// One line of the journal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Bytes, as read before.
    before: u64,
    /// Bytes, as set.
    set: u64,
    boot: String,
}

/// The right to narrow the window: nobody else has it meanwhile.
pub struct FaultAround {
    setting: Setting,
    journal: Journal,
}

/// A window of one page; put back when dropped.
pub struct Narrowed {
    around: FaultAround,
    /// What to put back; `None` where it was one page already, or is again what it was.
    before: Option<u64>,
}

/// What a run recorded with a window of one page came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Narrowing {
    /// Pages that were mapped around a fault all the same: maybe used.
    pub maybe_pages: u64,
    /// Why it was not narrow until the end.
    pub error: Option<String>,
}

impl Narrowing {
    /// Whether every fault named its page.
    pub fn is_exact(&self) -> bool {
        self.maybe_pages == 0 && self.error.is_none()
    }
}

/// Whether the window can be narrowed here; changes nothing.
///
/// # Errors
/// Why it can't.
pub fn may_narrow() -> Result<(), FaultAroundError> {
    let setting = Setting::of_kernel()?;
    setting
        .open(OFlags::RDWR)
        .map(drop)
        .map_err(FaultAroundError::Setting)
}

/// Puts back what a killed process left, as the journal in `state_dir` tells.
///
/// # Errors
/// There is something to put back, or it can't be known, and it could not be done.
pub fn put_back_left(state_dir: &Path) -> Result<Left, FaultAroundError> {
    put_back_left_of(state_dir, Setting::of_kernel)
}

fn put_back_left_of(
    state_dir: &Path,
    setting: impl FnOnce() -> Result<Setting, FaultAroundError>,
) -> Result<Left, FaultAroundError> {
    let journal = match Journal::open(state_dir, OFlags::empty()) {
        Err(FaultAroundError::Journal { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(Left::Nothing);
        }
        Err(FaultAroundError::InUse) => return Ok(Left::InUse),
        other => other?,
    };
    match journal.entry()? {
        None => Ok(Left::Nothing),
        Some(entry) => put_back(&setting()?, &journal, &entry),
    }
}

fn put_back(setting: &Setting, journal: &Journal, entry: &Entry) -> Result<Left, FaultAroundError> {
    let now = setting.read()?;
    let left = if now == entry.set {
        setting.write(entry.before)?;
        Left::PutBack {
            from: now,
            to: entry.before,
        }
    } else {
        Left::Changed { now }
    };
    journal.clear()?;
    Ok(left)
}

impl FaultAround {
    /// Takes the right; what a killed process left is put back first.
    ///
    /// # Errors
    /// debugfs can't be written, another process has the right, or the journal in
    /// `state_dir` (which has to exist) can't be used.
    pub fn claim(state_dir: &Path) -> Result<Self, FaultAroundError> {
        Self::claim_of(Setting::of_kernel()?, state_dir)
    }

    fn claim_of(setting: Setting, state_dir: &Path) -> Result<Self, FaultAroundError> {
        // Lockdown refuses this, whoever asks.
        setting
            .open(OFlags::RDWR)
            .map_err(FaultAroundError::Setting)?;
        let journal = Journal::open(state_dir, OFlags::CREATE)?;
        if let Some(entry) = journal.entry()? {
            put_back(&setting, &journal, &entry)?;
        }
        Ok(Self { setting, journal })
    }

    /// Narrows the window for a moment, to see whether a fault maps one page then. It does
    /// not where the kernel maps large folios as a whole: there a fault's neighbours can't be
    /// known, and narrowing is of no use. Where that can't be found out (no room in
    /// `directory`), it is taken to be of use.
    ///
    /// # Errors
    /// It is of none, or it can't be narrowed or put back.
    pub fn tried_in(self, directory: &Path) -> Result<Self, FaultAroundError> {
        let page = rustix::param::page_size() as u64;
        let entry = Entry {
            before: self.setting.read()?,
            set: page,
            boot: boot(),
        };
        if entry.before <= page {
            return Ok(self);
        }
        self.journal.write(&entry)?;
        let written = self.setting.write(page);
        let found = written.and_then(|()| is_of_use(directory));
        put_back(&self.setting, &self.journal, &entry)?;
        found.map(|()| self)
    }

    /// Narrows the window.
    ///
    /// # Errors
    /// It is as it was.
    pub fn narrow(self) -> Result<Narrowed, FaultAroundError> {
        let page = rustix::param::page_size() as u64;
        let before = self.setting.read()?;
        let mut narrowed = Narrowed {
            around: self,
            before: None,
        };
        if before > page {
            narrowed.around.journal.write(&Entry {
                before,
                set: page,
                boot: boot(),
            })?;
            narrowed.before = Some(before);
            narrowed.around.setting.write(page)?;
        }
        match narrowed.around.setting.read()? {
            now if now <= page => Ok(narrowed),
            now => Err(FaultAroundError::Setting(io::Error::other(format!(
                "{now} where {page} was written"
            )))),
        }
    }
}

/// Whether a fault maps one page, while the window is one.
fn is_of_use(directory: &Path) -> Result<(), FaultAroundError> {
    match pages_of_a_fault(directory) {
        Ok(pages) if pages > 1 => Err(FaultAroundError::MapsMore(pages)),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(%error, "how much a fault maps is not known");
            Ok(())
        }
    }
}

impl Narrowed {
    /// As [`FaultAround::tried_in`], and narrow all the while.
    ///
    /// # Errors
    /// It is of no use, and is put back.
    pub fn tried_in(self, directory: &Path) -> Result<Self, FaultAroundError> {
        is_of_use(directory).map(|()| self)
    }

    /// Puts it back; whether it was narrow until now.
    ///
    /// # Errors
    /// Somebody else has set it (then it stays as that is), or it can't be put back.
    pub fn finish(mut self) -> Result<(), String> {
        let page = rustix::param::page_size() as u64;
        match self.put_back() {
            Ok(now) if now <= page => Ok(()),
            Ok(now) => Err(format!(
                "somebody else set fault_around_bytes to {now} meanwhile"
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What it was until now.
    fn put_back(&mut self) -> Result<u64, FaultAroundError> {
        let FaultAround { setting, journal } = &self.around;
        let Some(before) = self.before else {
            return setting.read();
        };
        let entry = Entry {
            before,
            set: rustix::param::page_size() as u64,
            boot: String::new(),
        };
        let left = put_back(setting, journal, &entry).inspect_err(|error| {
            tracing::error!(
                %error,
                "fault_around_bytes is not {before} again; `headstart cleanup` puts it back"
            );
        });
        // Not a second time: what is left to do is in the journal.
        self.before = None;
        Ok(match left? {
            Left::Changed { now } => now,
            _ => entry.set,
        })
    }
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        // What goes wrong is logged there.
        let _ = self.put_back();
    }
}

/// Names this boot of the machine; empty where that can't be known.
fn boot() -> String {
    std::fs::read_to_string(BOOT).map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// The kernel's file.
struct Setting {
    directory: OwnedFd,
}

impl Setting {
    /// Where debugfs is mounted, else in a mount that no path leads to, which goes
    /// with its descriptor.
    fn of_kernel() -> Result<Self, FaultAroundError> {
        Self::at(Path::new("/sys/kernel/debug"))
            .filter(|setting| {
                let flags = rustix::fs::AtFlags::empty();
                rustix::fs::statat(&setting.directory, SETTING, flags).is_ok()
            })
            .map_or_else(Self::unmounted, Ok)
            .map_err(FaultAroundError::Setting)
    }

    fn at(path: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        Some(Self { directory })
    }

    fn unmounted() -> io::Result<Self> {
        let directory = super::mount::detached_mount("debugfs")?;
        Ok(Self { directory })
    }

    fn open(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, SETTING, flags, Mode::empty())?;
        Ok(file.into())
    }

    fn read(&self) -> Result<u64, FaultAroundError> {
        let read = || {
            let text = io::read_to_string(self.open(OFlags::RDONLY)?)?;
            text.trim().parse().map_err(io::Error::other)
        };
        read().map_err(FaultAroundError::Setting)
    }

    fn write(&self, bytes: u64) -> Result<(), FaultAroundError> {
        let write = || {
            let mut file = self.open(OFlags::WRONLY | OFlags::TRUNC)?;
            file.write_all(format!("{bytes}\n").as_bytes())
        };
        write().map_err(FaultAroundError::Setting)
    }
}

/// The locked journal.
struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    fn open(state_dir: &Path, create: OFlags) -> Result<Self, FaultAroundError> {
        let path = state_dir.join(JOURNAL);
        let open = || -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | create;
            let mode = Mode::RUSR | Mode::WUSR;
            Ok(rustix::fs::open(&path, flags, mode)?.into())
        };
        let file = match open() {
            Ok(file) => file,
            Err(source) => return Err(FaultAroundError::Journal { path, source }),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, path }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FaultAroundError::InUse),
            Err(errno) => Err(FaultAroundError::Journal {
                path,
                source: errno.into(),
            }),
        }
    }

    /// What is to be put back. Half an entry is none: the value was not changed yet.
    fn entry(&self) -> Result<Option<Entry>, FaultAroundError> {
        let text = io::read_to_string(&self.file).map_err(|e| self.failed(e))?;
        let entry: Option<Entry> = serde_json::from_str(&text).ok();
        Ok(entry.filter(|entry| entry.boot == boot()))
    }

    fn write(&self, entry: &Entry) -> Result<(), FaultAroundError> {
        let write = || {
            self.file.set_len(0)?;
            self.file.write_all_at(&serde_json::to_vec(entry)?, 0)
        };
        write().map_err(|e| self.failed(e))
    }

    fn clear(&self) -> Result<(), FaultAroundError> {
        self.file.set_len(0).map_err(|e| self.failed(e))
    }

    fn failed(&self, source: io::Error) -> FaultAroundError {
        FaultAroundError::Journal {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: u64 = 65_536;

    fn page() -> u64 {
        rustix::param::page_size() as u64
    }

    /// A directory that stands where debugfs would be, and for the state.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(bytes: u64) -> Self {
            let machine = Self(tempfile::tempdir().expect("a directory"));
            machine.set(bytes);
            machine
        }

        fn set(&self, bytes: u64) {
            std::fs::write(self.0.path().join(SETTING), format!("{bytes}\n")).expect("written");
        }

        fn value(&self) -> u64 {
            self.setting().read().expect("a number")
        }

        fn setting(&self) -> Setting {
            Setting::at(self.0.path()).expect("it is there")
        }

        fn claim(&self) -> Result<FaultAround, FaultAroundError> {
            FaultAround::claim_of(self.setting(), self.0.path())
        }

        fn narrow(&self) -> Narrowed {
            let around = self.claim().expect("claimed");
            around.narrow().expect("narrowed")
        }

        /// As a SIGKILL ends it: nothing of it is run, and its lock is gone.
        fn narrow_and_die(&self) {
            let mut narrowed = self.narrow();
            narrowed.before = None;
        }

        fn cleanup(&self) -> Left {
            put_back_left_of(self.0.path(), || Ok(self.setting())).expect("it can be known")
        }
    }

    #[test]
    fn it_is_narrow_as_long_as_it_is_held() {
        let machine = Machine::new(USUAL);
        let narrowed = machine.narrow();
        assert_eq!(machine.value(), page());
        drop(narrowed);
        assert_eq!(machine.value(), USUAL);
        assert_eq!(machine.narrow().finish(), Ok(()));
        assert_eq!(machine.value(), USUAL);
        assert_eq!(machine.cleanup(), Left::Nothing);
    }

    #[test]
    fn what_a_killed_process_left_is_put_back_once() {
        let machine = Machine::new(USUAL);
        machine.narrow_and_die();
        assert_eq!(machine.value(), page());
        let back = Left::PutBack {
            from: page(),
            to: USUAL,
        };
        assert_eq!(machine.cleanup(), back);
        assert_eq!(machine.value(), USUAL);
        assert_eq!(machine.cleanup(), Left::Nothing);
    }

    #[test]
    fn the_next_to_narrow_puts_it_back_first() {
        let machine = Machine::new(USUAL);
        machine.narrow_and_die();
        drop(machine.narrow());
        assert_eq!(machine.value(), USUAL);
    }

    #[test]
    fn what_somebody_else_has_set_stays() {
        let machine = Machine::new(USUAL);
        let narrowed = machine.narrow();
        machine.set(2 * USUAL);
        let said = narrowed.finish().expect_err("it was not narrow");
        assert!(said.contains("131072"), "{said}");
        assert_eq!(machine.value(), 2 * USUAL);

        machine.narrow_and_die();
        machine.set(USUAL);
        assert_eq!(machine.cleanup(), Left::Changed { now: USUAL });
        assert_eq!(machine.value(), USUAL);
        machine.set(page());
        assert_eq!(machine.cleanup(), Left::Nothing, "said once");
        assert_eq!(machine.value(), page());
    }

    #[test]
    fn what_was_one_page_before_is_nobodys_to_put_back() {
        let machine = Machine::new(page());
        assert_eq!(machine.narrow().finish(), Ok(()));
        machine.narrow_and_die();
        assert_eq!(machine.cleanup(), Left::Nothing);
        assert_eq!(machine.value(), page());
    }

    #[test]
    fn one_at_a_time() {
        let machine = Machine::new(USUAL);
        let first = machine.narrow();
        assert!(matches!(machine.claim(), Err(FaultAroundError::InUse)));
        assert_eq!(machine.cleanup(), Left::InUse);
        assert_eq!(machine.value(), page());
        drop(first);
        assert!(machine.claim().is_ok());
        assert_eq!(machine.value(), USUAL);
    }

    #[test]
    fn half_an_entry_or_one_of_another_boot_is_none() {
        let machine = Machine::new(USUAL);
        let other = serde_json::json!({"before": USUAL, "set": page(), "boot": "another"});
        for text in [String::from("{\"before\":65536,"), other.to_string()] {
            machine.set(page());
            std::fs::write(machine.0.path().join(JOURNAL), text).expect("written");
            assert_eq!(machine.cleanup(), Left::Nothing);
            assert_eq!(machine.value(), page());
        }
    }

    #[test]
    fn without_a_journal_nothing_is_changed() {
        let machine = Machine::new(USUAL);
        let nowhere = machine.0.path().join("nowhere");
        let claimed = FaultAround::claim_of(machine.setting(), &nowhere);
        assert!(matches!(claimed, Err(FaultAroundError::Journal { .. })));
        let left = put_back_left_of(&nowhere, || Ok(machine.setting()));
        assert_eq!(left.expect("no directory, nothing left"), Left::Nothing);
        assert_eq!(machine.value(), USUAL);
    }
}
