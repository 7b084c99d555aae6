//! A cgroup to which what is warmed is charged, with a bound of its own.
//!
//! The kernel charges a page of a file to the cgroup of the process that brings it in. In
//! the agent's own cgroup warmed pages would push out one another, and the agent, as soon
//! as they reach a limit that was meant for a small daemon.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::cgroup::{DIRECTORY, Swept, maker, own_place, read, root_directory, sweep};

/// How the kernel calls a handle that is a cgroup's id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// How the agent's own cgroup is called at the end, beside that which is charged.
const AGENT: &str = "-agent";

/// Whether a cgroup is one that the agent has put itself into.
pub(super) fn is_beside_warm(cgroup: &Path) -> bool {
    let name = cgroup.file_name().map(OsStr::as_bytes);
    name.is_some_and(|name| maker(name).is_some() && name.ends_with(AGENT.as_bytes()))
}

/// How long a cgroup may take to be empty once its last process was killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);

/// Why there is no cgroup to charge warmed pages to.
#[derive(Debug, thiserror::Error)]
pub enum WarmCgroupError {
    /// No v2 hierarchy, or none of it can be reached.
    #[error("the cgroup v2 hierarchy can't be reached: {0}")]
    Hierarchy(io::Error),
    /// The kernel has none, it belongs to version 1, or the parent hands it on to nobody.
    #[error(
        "this cgroup has no memory controller of version 2: give the service \
         `Delegate=memory`, and boot with systemd.unified_cgroup_hierarchy=1 where \
         controllers are of version 1"
    )]
    NoController,
    /// The cgroup is systemd's to manage.
    #[error("`{0}` is not delegated: give the service `Delegate=memory`")]
    NotDelegated(String),
    /// A cgroup that hands controllers on may have no process in it.
    #[error("other processes are in this cgroup: run the agent as a service of its own")]
    NotAlone,
    /// The filesystem is read-only, or this process may not write there.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> WarmCgroupError {
    move |source| WarmCgroupError::Io {
        operation,
        source: source.into(),
    }
}

/// Beside one another in the cgroup that the agent was started in: `headstart-<pid>-agent`,
/// to which the agent itself moves, for a cgroup that hands controllers on may have no
/// process in it, and `headstart-<pid>-warm`. Below the root of all, where that rule does
/// not hold, only the second. Taken back when dropped.
#[derive(Debug)]
pub struct WarmCgroup {
    parent: OwnedFd,
    directory: OwnedFd,
    warm: String,
    /// The agent's; `None` where it stays where it was.
    agent: Option<Moved>,
}

impl WarmCgroup {
    /// Makes it, with `memory.high` of so many bytes.
    ///
    /// # Errors
    /// Why it can't be made; nothing is left of the attempt.
    pub fn make(high: u64) -> Result<Self, WarmCgroupError> {
        let (parent, path) = own_place().map_err(WarmCgroupError::Hierarchy)?;
        let controllers = read(&parent, "cgroup.controllers").map_err(failed("reading it"))?;
        if !has_memory(&controllers) {
            return Err(WarmCgroupError::NoController);
        }
        sweep(&parent);
        // Only the root of all has no type.
        let is_root = path.as_os_str().is_empty() && read(&parent, "cgroup.type").is_err();
        let agent = if is_root {
            let handed_on = read(&parent, "cgroup.subtree_control").unwrap_or_default();
            if !has_memory(&handed_on) {
                return Err(WarmCgroupError::NoController);
            }
            None
        } else {
            is_delegated(&parent, &path)?;
            let agent = Moved::below(parent.try_clone().map_err(failed("its directory"))?)?;
            match write(&parent, "cgroup.subtree_control", "+memory") {
                Ok(()) => {}
                Err(Errno::BUSY) => return Err(WarmCgroupError::NotAlone),
                Err(error) => return Err(failed("handing the memory controller on")(error)),
            }
            Some(agent)
        };
        let warm = format!("headstart-{}-warm", std::process::id());
        let directory = make(&parent, &warm)?;
        let cgroup = Self {
            parent,
            directory,
            warm,
            agent,
        };
        cgroup.set_high(high)?;
        Ok(cgroup)
    }

    /// For processes that are to be born in it.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Bytes above which the kernel takes its least used pages back.
    ///
    /// # Errors
    /// It can't be set.
    pub fn set_high(&self, bytes: u64) -> Result<(), WarmCgroupError> {
        let text = bytes.to_string();
        write(&self.directory, "memory.high", &text).map_err(failed("setting memory.high"))
    }
}

impl Drop for WarmCgroup {
    fn drop(&mut self) {
        remove(&self.parent, &self.warm);
        if self.agent.take().is_some() {
            // The agent is back in it.
            tracing::debug!("the warm cgroup is gone");
        }
    }
}

/// This process, moved to a cgroup below the one that it was in; moved back when dropped.
#[derive(Debug)]
struct Moved {
    parent: OwnedFd,
    name: String,
}

impl Moved {
    fn below(parent: OwnedFd) -> Result<Self, WarmCgroupError> {
        let name = format!("headstart-{}{AGENT}", std::process::id());
        let directory = make(&parent, &name)?;
        let moved = Self { parent, name };
        write(&directory, "cgroup.procs", "0").map_err(failed("moving to a cgroup below"))?;
        Ok(moved)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // Nobody may be in a cgroup that hands controllers on.
        let handed_on = write(&self.parent, "cgroup.subtree_control", "-memory");
        let back = write(&self.parent, "cgroup.procs", "0");
        if let Err(error) = handed_on.and(back) {
            let error = io::Error::from(error);
            tracing::debug!(%error, "this process stays in a cgroup of its own");
        }
        remove(&self.parent, &self.name);
    }
}

/// Whether the root of the v2 hierarchy that can be seen has the memory controller.
///
/// # Errors
/// It has not, or can't be read.
pub fn has_memory_controller() -> Result<(), WarmCgroupError> {
    let root = root_directory().map_err(WarmCgroupError::Hierarchy)?;
    let controllers = read(&root, "cgroup.controllers").map_err(failed("reading it"))?;
    match has_memory(&controllers) {
        true => Ok(()),
        false => Err(WarmCgroupError::NoController),
    }
}

/// Removes cgroups that agents and commands left which were killed.
///
/// # Errors
/// The hierarchy can't be reached or read.
pub fn remove_left_cgroups() -> io::Result<Swept> {
    let mut swept = Swept::default();
    let mut ahead = vec![root_directory()?];
    while let Some(directory) = ahead.pop() {
        let here = sweep(&directory);
        swept.removed += here.removed;
        swept.in_use += here.in_use;
        for entry in rustix::fs::Dir::read_from(&directory)?.flatten() {
            let name = entry.file_name();
            let is_directory = entry.file_type() == rustix::fs::FileType::Directory;
            if is_directory && !matches!(name.to_bytes(), b"." | b"..") {
                // Gone since it was listed: nothing is left in it.
                let child = rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty());
                ahead.extend(child.ok());
            }
        }
    }
    Ok(swept)
}

/// The directory of a cgroup (v2), by its id.
///
/// # Errors
/// It is gone, or this process may not open it so (`CAP_DAC_READ_SEARCH`).
pub fn cgroup_by_id(id: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    let root = root_directory()?;
    let mut handle = Handle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id: id.to_ne_bytes(),
    };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle has the layout of the kernel's, with as many bytes as it says, and
    // lives across the call.
    let fd = unsafe { libc::open_by_handle_at(root.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn has_memory(controllers: &str) -> bool {
    controllers.split_ascii_whitespace().any(|c| c == "memory")
}

/// Whether systemd leaves what is below to us; of cgroups that it does not know nobody else
/// says anything.
fn is_delegated(directory: &OwnedFd, path: &Path) -> Result<(), WarmCgroupError> {
    let name = path.file_name().unwrap_or(OsStr::new(""));
    let ends = |suffix: &str| name.as_bytes().ends_with(suffix.as_bytes());
    if ![".service", ".scope", ".slice"].iter().any(|s| ends(s)) {
        return Ok(());
    }
    let says = |attribute: &str| {
        let mut value = [0u8; 1];
        let read = rustix::fs::fgetxattr(directory, attribute, &mut value[..]);
        read.is_ok_and(|length| length == 1) && value == *b"1"
    };
    match ["user.delegate", "trusted.delegate"].into_iter().any(says) {
        true => Ok(()),
        false => Err(WarmCgroupError::NotDelegated(crate::model::escape(
            name.as_bytes(),
        ))),
    }
}

fn make(parent: &OwnedFd, name: &str) -> Result<OwnedFd, WarmCgroupError> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("making a cgroup")(error)),
    }
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).map_err(failed("making a cgroup"))
}

fn remove(parent: &OwnedFd, name: &str) {
    let until = Instant::now() + EMPTY_WITHIN;
    loop {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error != Errno::NOENT => {
                let error = io::Error::from(error);
                tracing::debug!(%error, name, "a cgroup stays, for the next start to remove");
                return;
            }
            _ => return,
        }
    }
}

fn write(directory: &OwnedFd, file: &str, text: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, file, flags, Mode::empty())?;
    rustix::io::write(&fd, text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_is_a_word_of_its_own() {
        assert!(has_memory("cpuset cpu io memory pids\n"));
        assert!(!has_memory("cpuset memoryless hugetlb\n"));
        assert!(!has_memory(""));
    }

    #[test]
    fn units_are_systemds_until_it_delegates_them() {
        let temp = tempfile::tempdir().expect("a directory");
        let directory: OwnedFd = std::fs::File::open(temp.path()).expect("open").into();
        for path in ["", "docker/0123", "kubepods/burstable/podx/0123"] {
            assert!(is_delegated(&directory, Path::new(path)).is_ok(), "{path}");
        }
        for path in [
            "system.slice/headstart.service",
            "user.slice/session-1.scope",
        ] {
            let error = is_delegated(&directory, Path::new(path)).expect_err("systemd's");
            assert!(error.to_string().contains("Delegate=memory"), "{error}");
        }
    }

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let Ok(all) = crate::run::existing_paths() else {
            eprintln!("SKIPPED: the cgroup v2 hierarchy can't be reached");
            return;
        };
        let (id, path) = all.last().expect("the root at least");
        match cgroup_by_id(*id) {
            Ok(directory) => {
                let found = rustix::fs::fstat(&directory).expect("there").st_ino;
                assert_eq!(found, *id, "{path:?}");
            }
            Err(error) => eprintln!("SKIPPED: cgroups can't be opened by their id: {error}"),
        }
    }
}
