//! Open files of a plan, as many as the process may have.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use rustix::fs::{Access, Advice, AtFlags, FileType};
use rustix::io::Errno;

use super::lookup::{Looked, Opener, Reopener};
use super::progress::Progress;
use super::report::FailureKind;
use super::residency::Sight;
use super::roots::VolumeRoot;
use crate::model::{FileVersion, PAGE_SIZE, PlanFile};

/// Most files kept open, however many the process may have.
const MAX_OPEN: u64 = 4096;

/// Something that pages are read from: a file, or a volume's device.
#[derive(Debug)]
pub(super) struct Source {
    fd: OwnedFd,
    /// Done once it is known that something has to be read.
    advised: Once,
    /// Pages that exist, the last one maybe in part.
    pub(super) pages: u64,
    /// Index into the plan's volumes.
    pub(super) volume: u32,
    /// Index into the plan's files; `None` for the device.
    pub(super) file: Option<u32>,
    /// Bytes that one readahead call brings in at most.
    pub(super) window: u64,
    pub(super) sight: Sight,
}

/// Where a volume's metadata blocks are read from.
pub(super) enum Device {
    Open(Arc<Source>),
    /// There is none, or this process may not read it.
    Unreadable,
    /// The volume itself is not there.
    NoVolume,
}

impl Source {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// To be called before anything is read. Without it, waiting for a page that
    /// is not there after all would start readahead of its own, past what is
    /// wanted.
    pub(super) fn will_be_read(&self) {
        self.advised.call_once(|| {
            let _ = rustix::fs::fadvise(&self.fd, 0, None, Advice::Random);
        });
    }

    /// Drops pages whose read failed: left in the page cache, they would look
    /// as if they were there.
    pub(super) fn forget(&self, start_page: u64, pages: u64) {
        super::sys::drop_pages(self.fd.as_fd(), start_page, pages);
    }

    pub(super) fn device(fd: OwnedFd, bytes: u64, volume: u32, window: u64) -> Self {
        Self {
            fd,
            advised: Once::new(),
            pages: bytes / PAGE_SIZE,
            volume,
            file: None,
            window,
            sight: Sight {
                // Who could open a device but not see its pages reads all of them.
                allowed: sees_all(),
                counts: true,
            },
        }
    }
}

/// A quarter of the descriptors that this process may have: so many files may
/// be kept open, and as many again may be held by reads in flight.
pub(super) fn descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (limit.unwrap_or(u64::MAX) / 4).max(4)
}

/// Why a file is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `None`: it is not there any more.
    pub(super) kind: Option<FailureKind>,
    pub(super) errno: Errno,
}

impl Refusal {
    /// No descriptor was free, which says nothing about the file.
    pub(super) fn is_temporary(self) -> bool {
        matches!(self.errno, Errno::MFILE | Errno::NFILE)
    }

    pub(super) fn of(errno: Errno) -> Self {
        let kind = match errno {
            Errno::NOENT | Errno::NOTDIR => None,
            Errno::LOOP | Errno::XDEV => Some(FailureKind::Escapes),
            Errno::ACCESS | Errno::PERM => Some(FailureKind::Denied),
            Errno::IO => Some(FailureKind::Read),
            _ => Some(FailureKind::Other),
        };
        Self { kind, errno }
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unseen,
    /// Counted before, closed since.
    Seen,
    Open(Arc<Source>),
    Refused(Refusal),
}

/// A file's entry: its state, how many of its actions have not begun, and how
/// many look-ups of its name opening it is to serve for.
#[derive(Debug, Default)]
struct Entry {
    state: Mutex<State>,
    to_come: AtomicU64,
    names: AtomicU64,
}

/// The files of a plan.
#[derive(Debug)]
pub(super) struct FileTable {
    entries: Vec<Entry>,
    /// Opened ones, oldest first; may hold some that are closed.
    opened: Mutex<VecDeque<u32>>,
    capacity: usize,
    opener: Opener,
    reopener: Reopener,
    sees_all: bool,
}

impl FileTable {
    pub(super) fn new(files: usize, opener: Opener) -> Self {
        Self {
            entries: std::iter::repeat_with(Entry::default).take(files).collect(),
            opened: Mutex::new(VecDeque::new()),
            capacity: descriptors().min(MAX_OPEN) as usize,
            opener,
            reopener: Reopener::default(),
            sees_all: sees_all(),
        }
    }

    /// Announces an action, so that the file is closed after its last one.
    pub(super) fn expect(&self, file: u32) {
        if let Some(entry) = self.entries.get(file as usize) {
            entry.to_come.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Announces a look-up of the file's name that opening it makes needless.
    pub(super) fn expect_name(&self, file: u32) {
        if let Some(entry) = self.entries.get(file as usize) {
            entry.names.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Its volume is not there.
    pub(super) fn fail_name(&self, file: u32, progress: &Progress) {
        if let Some(entry) = self.entries.get(file as usize) {
            let names = entry.names.swap(0, Ordering::Relaxed);
            progress.names_failed.add(names);
        }
    }

    /// An action of the file was handed out to its end.
    pub(super) fn begun(&self, file: u32) {
        if let Some(entry) = self.entries.get(file as usize) {
            entry.to_come.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The file, open. `first` is told of a refusal, once a file, but not of a
    /// temporary one unless this is the last `try`.
    pub(super) fn get(
        &self,
        index: u32,
        file: &PlanFile,
        root: &VolumeRoot,
        progress: &Progress,
        last_try: bool,
        first: impl FnOnce(Refusal),
    ) -> Result<Arc<Source>, Refusal> {
        let Some(entry) = self.entries.get(index as usize) else {
            return Err(Refusal::of(Errno::INVAL));
        };
        let mut state = entry.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = entry.to_come.load(Ordering::Relaxed) == 0;
        let seen = match &*state {
            State::Open(source) => {
                let source = source.clone();
                if last {
                    *state = State::Seen;
                }
                return Ok(source);
            }
            State::Refused(refusal) => return Err(*refusal),
            State::Unseen => false,
            State::Seen => true,
        };
        let mut looked = Ok(Looked::Gone);
        let mut result = self.open(index, file, root, &mut looked);
        if result.as_ref().is_err_and(|r| r.is_temporary()) {
            // Some other part of the process uses many: give up ours.
            self.close_down_to(0);
            result = self.open(index, file, root, &mut looked);
        }
        if !last_try && result.as_ref().is_err_and(|r| r.is_temporary()) {
            return result.map(|(source, _)| Arc::new(source));
        }
        match (entry.names.swap(0, Ordering::Relaxed), looked) {
            (0, _) => {}
            (names, Ok(Looked::Warmed)) => progress.names_warmed.add(names),
            (names, Ok(Looked::Gone)) => progress.names_gone.add(names),
            (names, Err(_)) => progress.names_failed.add(names),
        }
        if !seen {
            progress.files_seen.add(1);
        }
        match result {
            Ok((source, version)) => {
                if !seen && version != file.version {
                    progress.files_changed.add(1);
                }
                let source = Arc::new(source);
                if last {
                    *state = State::Seen;
                    return Ok(source);
                }
                *state = State::Open(source.clone());
                drop(state);
                self.opened
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back(index);
                self.close_down_to(self.capacity);
                Ok(source)
            }
            Err(refusal) => {
                *state = State::Refused(refusal);
                match refusal.kind {
                    None => progress.files_missing.add(1),
                    Some(_) => progress.files_failed.add(1),
                }
                first(refusal);
                Err(refusal)
            }
        }
    }

    /// Closes the oldest until `count` are listed as open.
    fn close_down_to(&self, count: usize) {
        loop {
            let oldest = {
                let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
                if opened.len() <= count {
                    return;
                }
                opened.pop_front()
            };
            let Some(entry) = oldest.and_then(|at| self.entries.get(at as usize)) else {
                return;
            };
            // One that is locked is being opened, by a thread that may be
            // waiting for a dead volume.
            if let Ok(mut state) = entry.state.try_lock()
                && matches!(*state, State::Open(_))
            {
                *state = State::Seen;
            }
        }
    }

    /// Opens a file; `looked` says what became of its name.
    fn open(
        &self,
        index: u32,
        file: &PlanFile,
        root: &VolumeRoot,
        looked: &mut Result<Looked, Refusal>,
    ) -> Result<(Source, FileVersion), Refusal> {
        let mut refuse = |errno| {
            let refusal = Refusal::of(errno);
            *looked = match refusal.kind {
                None => Ok(Looked::Gone),
                Some(_) => Err(refusal),
            };
            refusal
        };
        let handle = self
            .opener
            .open(root.fd.as_fd(), &file.path)
            .map_err(&mut refuse)?;
        let stat = rustix::fs::fstat(&handle).map_err(&mut refuse)?;
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        *looked = Ok(if is_file {
            Looked::Warmed
        } else {
            Looked::Gone
        });
        if !is_file {
            return Err(Refusal {
                kind: Some(FailureKind::NotRegular),
                errno: Errno::INVAL,
            });
        }
        let fd = self.reopener.open(handle.as_fd()).map_err(Refusal::of)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let source = Source {
            pages: size.div_ceil(PAGE_SIZE),
            volume: file.volume,
            file: Some(index),
            window: root.window,
            sight: Sight {
                allowed: self.sees_all || may_see(handle.as_fd(), stat.st_uid),
                counts: root.fs_type != "overlay",
            },
            fd,
            advised: Once::new(),
        };
        let version = FileVersion {
            size,
            mtime_ns: (stat.st_mtime as i64)
                .saturating_mul(1_000_000_000)
                .saturating_add(stat.st_mtime_nsec as i64),
        };
        Ok((source, version))
    }
}

/// Whether this process may ask about every file's pages, whoever owns it.
pub(super) fn sees_all() -> bool {
    use rustix::thread::CapabilitySet;
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::FOWNER))
}

/// Whether the kernel tells which pages of a file are resident to one who is
/// not capable of all (`can_do_mincore`): its owner, or who may write it.
fn may_see(fd: BorrowedFd<'_>, owner: u32) -> bool {
    owner == rustix::process::geteuid().as_raw()
        || rustix::fs::accessat(fd, "", Access::WRITE_OK, AtFlags::EMPTY_PATH).is_ok()
}
