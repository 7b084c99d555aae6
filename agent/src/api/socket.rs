//! The agent's Unix socket: made so that there is one agent, and one only.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::model::escape;

/// Nobody but root and the agent's own user may connect.
const SOCKET_MODE: u32 = 0o600;

/// Others may see that there is a socket.
const DIRECTORY_MODE: u32 = 0o755;

/// How long another process may keep the directory locked. An agent does for milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Pause between two attempts to lock it.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// One agent is enough.
    #[error("another agent (pid {pid}) is listening at {}", shown(.path))]
    Taken {
        /// Where.
        path: PathBuf,
        /// The process that listens.
        pid: i32,
    },
    /// There is a file that no agent has made.
    #[error("{} is there and is no socket: remove it, or name another with `--socket`", shown(.0))]
    NotASocket(PathBuf),
    /// Something else went wrong.
    #[error("{action} {} for the agent's socket: {source} (`socket` in the configuration, or `--socket`, names another)", shown(.path))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// A socket that listens; its file goes when this does.
#[derive(Debug)]
pub(super) struct Bound {
    path: PathBuf,
    /// Device and inode: what another agent has put there in the meantime stays.
    identity: (u64, u64),
}

impl Bound {
    /// Listens at `path`. A file that a dead agent left is replaced.
    ///
    /// # Errors
    /// An agent listens there, or something that is no socket is there.
    pub(super) fn new(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| SocketError::Io {
                action,
                path,
                source,
            }
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        make_directory(directory).map_err(failed("making", directory))?;
        // Of two agents that begin at once one is to find the other's socket. The lock
        // is on the directory, so that no file stays behind.
        let lock = File::open(directory).map_err(failed("opening", directory))?;
        lock_within(&lock, LOCK_WAIT).map_err(failed("locking", directory))?;
        if let Some(pid) = listening(path)? {
            return Err(SocketError::Taken {
                path: path.to_owned(),
                pid,
            });
        }
        // Made under another name, so that it has its mode before anybody finds it, and
        // so that a dead agent's is replaced in one step.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing", &new)(e));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(failed("listening at", &new))?;
        let named = publish(&new, path).map_err(|e| {
            // What is left is in nobody's way: the next one removes it.
            let _ = std::fs::remove_file(&new);
            failed("making", path)(e)
        })?;
        let bound = Self {
            path: path.to_owned(),
            identity: named,
        };
        Ok((bound, listener))
    }
}

/// Removes the socket of an agent that is dead; whether there was one.
///
/// # Errors
/// It can't be found out whether an agent listens there, or the file can't be removed.
pub fn remove_left(path: &Path) -> Result<bool, SocketError> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if !is_socket || listening(path)?.is_some() {
        return Ok(false);
    }
    std::fs::remove_file(path).map_err(|source| SocketError::Io {
        action: "removing",
        path: path.to_owned(),
        source,
    })?;
    Ok(true)
}

impl Drop for Bound {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the socket stays behind: {}", shown(&self.path));
        }
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
}

fn publish(new: &Path, path: &Path) -> io::Result<(u64, u64)> {
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    let identity = identity(new)?;
    std::fs::rename(new, path)?;
    Ok(identity)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The process that listens at `path`, if one does.
fn listening(path: &Path) -> Result<Option<i32>, SocketError> {
    let failed = |action, source| SocketError::Io {
        action,
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("looking at", e)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(peer(&stream).map_or(0, |(pid, _)| pid))),
        // Nobody has it open: its agent is dead.
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(e) => Err(failed("connecting to", e)),
    }
}

/// Locks what anyone who can open it may keep locked: not waited for without end.
fn lock_within(file: &File, wait: Duration) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if since.elapsed() < wait => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process keeps it locked; `fuser -v` with that directory says which",
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Process and user at the other end.
pub(super) fn peer(stream: &impl AsFd) -> io::Result<(i32, u32)> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a plain structure and its length, both valid for writes. (rustix has no pid 0,
    // which is what the kernel says of who is in a pid namespace that ours does not see.)
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok((credentials.pid, credentials.uid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a user may ask: root, and the one that the agent runs as.
pub(super) fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn a_lock_that_is_kept_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().expect("directory");
        let open = || File::open(dir.path()).expect("a directory");
        let held = open();
        flock(&held, FlockOperation::LockExclusive).expect("free");
        let error = lock_within(&open(), Duration::from_millis(20)).expect_err("locked");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(held);
        lock_within(&open(), Duration::from_millis(20)).expect("free again");
    }

    #[test]
    fn the_socket_is_its_users_alone_and_goes_with_its_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/headstart/agent.sock");
        let (bound, _listener) = Bound::new(&path).expect("made");
        assert_eq!(mode(&path), 0o600);
        let parent = path.parent().expect("a parent");
        assert_eq!(mode(parent) & 0o700, 0o700);
        drop(bound);
        let left: Vec<_> = std::fs::read_dir(parent).expect("there").collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_second_agent_is_told_of_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let (_bound, _listener) = Bound::new(&path).expect("made");
        let refused = Bound::new(&path).expect_err("taken").to_string();
        let own = std::process::id();
        assert!(
            refused.starts_with(&format!("another agent (pid {own}) is listening at /")),
            "{refused}"
        );
        assert!(UnixStream::connect(&path).is_ok(), "the first goes on");
    }

    #[test]
    fn what_a_dead_agent_left_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let (bound, listener) = Bound::new(&path).expect("made");
        // As after a kill: the descriptor is closed, the file stays.
        std::mem::forget(bound);
        drop(listener);
        assert!(path.exists());
        let (_bound, _listener) = Bound::new(&path).expect("replaced");
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn another_agents_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let (first, listener) = Bound::new(&path).expect("made");
        drop(listener);
        let (_second, _listener) = Bound::new(&path).expect("replaced");
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").expect("written");
        let refused = Bound::new(&path).expect_err("refused");
        assert!(matches!(refused, SocketError::NotASocket(_)), "{refused}");
        assert_eq!(std::fs::read(&path).expect("there"), b"precious");
    }

    #[test]
    fn of_many_that_begin_at_once_one_listens() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let (bound, listener) = Bound::new(&path).expect("made");
        std::mem::forget(bound);
        drop(listener);
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Bound::new(&path))).collect();
            let joined = threads.into_iter().map(|t| t.join().expect("no panic"));
            joined.collect()
        });
        assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 1, "{made:?}");
    }
}
