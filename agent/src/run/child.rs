//! Starting a command inside a cgroup, and being to it what a shell would be.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// Why the command did not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No command, or a NUL in it.
    #[error("the command holds a NUL byte")]
    Nul,
    /// It can't be executed.
    #[error("running `{command}`: {source}")]
    Exec {
        /// As given, escaped.
        command: String,
        /// Cause.
        source: io::Error,
    },
    /// The process could not be made, or waited for.
    #[error("starting a process: {0}")]
    Process(#[from] io::Error),
}

/// Signals that are passed on to the command.
const PASSED_ON: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
];

/// From linux/sched.h; libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Where the command's standard output and error go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Where ours go.
    Inherit,
    /// Nowhere.
    Null,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

impl Ended {
    /// As a shell reports it.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Ended::Exited(code) => ExitCode::from((code & 0xff) as u8),
            Ended::Signalled(signal) => ExitCode::from((128 + signal).min(255) as u8),
        }
    }

    /// Whether it ended well.
    pub fn success(self) -> bool {
        self == Ended::Exited(0)
    }
}

/// A running command.
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    signals: OwnedFd,
    old_mask: libc::sigset_t,
    /// When the process was made.
    pub started: Instant,
    exec_ns: u64,
    ended: Option<Ended>,
}

impl Child {
    /// Starts `command` in `cgroup` (where this process is, if `None`), at once:
    /// the process is born there, not moved, which would wait for an RCU grace
    /// period.
    pub fn spawn(
        command: &[OsString],
        cgroup: Option<BorrowedFd<'_>>,
        output: Output,
    ) -> Result<Self, LaunchError> {
        Self::spawn_held(command, cgroup, output, None)
    }

    /// As [`Child::spawn`]; the process waits before its exec until `hold`,
    /// which gets its id, returns.
    pub(super) fn spawn_held(
        command: &[OsString],
        cgroup: Option<BorrowedFd<'_>>,
        output: Output,
        hold: Option<&mut dyn FnMut(i32)>,
    ) -> Result<Self, LaunchError> {
        let args: Vec<CString> = command
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| LaunchError::Nul)?;
        let mut argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
        argv.push(std::ptr::null());
        let null = match output {
            Output::Inherit => None,
            Output::Null => Some(std::fs::File::options().write(true).open("/dev/null")?),
        };
        let (error_in, error_out) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let gate = match hold {
            Some(_) => Some(
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(io::Error::from)?,
            ),
            None => None,
        };
        let (signals, old_mask) = take_signals()?;
        let started = Instant::now();
        // SAFETY: `argv` ends with a null pointer and points into `args`, which
        // outlive the call; the child only makes system calls before exec.
        let (pid, pidfd) = unsafe {
            let null = null.as_ref().map_or(-1, |file| file.as_raw_fd());
            let fds = Descriptors {
                output: null,
                error: error_out.as_raw_fd(),
                gate: gate.as_ref().map_or(-1, |(read, _)| read.as_raw_fd()),
            };
            clone_and_exec(&argv, cgroup, &fds, &old_mask)
        }
        .inspect_err(|_| restore_mask(&old_mask))?;
        drop(error_out);
        if let (Some(hold), Some((_, write))) = (hold, gate) {
            hold(pid);
            rustix::io::write(&write, b"!").map_err(io::Error::from)?;
        }
        let mut child = Self {
            pid,
            pidfd,
            signals,
            old_mask,
            started,
            exec_ns: 0,
            ended: None,
        };
        // First the time just before exec; then the pipe is closed by a
        // successful exec, else errno comes through.
        let mut message = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(error_in), &mut message)?;
        if let Some(time) = message.first_chunk() {
            child.exec_ns = u64::from_ne_bytes(*time);
        }
        if let Some(errno) = message.get(8..).and_then(<[u8]>::first_chunk) {
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes(*errno));
            let command = crate::model::escape(command.first().map_or(b"", |c| c.as_bytes()));
            return Err(LaunchError::Exec { command, source });
        }
        Ok(child)
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// `CLOCK_MONOTONIC` just before the exec, ns: what the process did before
    /// was ours.
    pub fn exec_ns(&self) -> u64 {
        self.exec_ns
    }

    /// Waits for the end, passing signals on; `None` if `deadline` comes first.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<Ended>> {
        if self.ended.is_none() && self.until_end(deadline)? {
            self.ended = Some(reap(self.pid)?);
        }
        Ok(self.ended)
    }

    /// As [`Child::wait`], and leaves the process for others to see ended.
    pub(super) fn until_end(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        if self.ended.is_some() {
            return Ok(true);
        }
        loop {
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if timeout == Some(Duration::ZERO) {
                return Ok(false);
            }
            let timeout = timeout.map(|left| rustix::time::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let mut fds = [
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let (done, signal) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if signal {
                self.pass_on();
            }
            if done {
                return Ok(true);
            }
        }
    }

    /// Passes on one pending signal, unless the terminal sent it: then the
    /// command, in the same process group, has it already.
    fn pass_on(&self) {
        let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is a whole signalfd_siginfo, any bytes are valid.
        let read = unsafe { libc::read(self.signals.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read != size as isize {
            return;
        }
        // SAFETY: initialised by the read (and zeroed before).
        let info = unsafe { info.assume_init() };
        if info.ssi_code == libc::SI_USER || info.ssi_code == libc::SI_QUEUE {
            // SAFETY: plain system call; the pid is not reaped yet, so it is ours.
            unsafe { libc::kill(self.pid, info.ssi_signo as i32) };
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        restore_mask(&self.old_mask);
    }
}

/// Blocks the passed-on signals and gives a descriptor to read them from, and
/// the mask before.
fn take_signals() -> io::Result<(OwnedFd, libc::sigset_t)> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    let mut old = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the sets are valid for writes; sigemptyset initialises.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in PASSED_ON {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), old.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(fd), old.assume_init()))
    }
}

fn restore_mask(mask: &libc::sigset_t) {
    // SAFETY: a mask that pthread_sigmask itself gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

/// Descriptors that the child uses before its exec; -1 for none.
struct Descriptors {
    /// Its standard output and error.
    output: RawFd,
    /// Where it tells the time, and why it could not exec.
    error: RawFd,
    /// Where it waits for a byte.
    gate: RawFd,
}

/// clone3 into `cgroup`, then exec in the child.
///
/// # Safety
/// `argv` ends with null and its strings outlive the call.
unsafe fn clone_and_exec(
    argv: &[*const libc::c_char],
    cgroup: Option<BorrowedFd<'_>>,
    fds: &Descriptors,
    mask: &libc::sigset_t,
) -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_fd().as_raw_fd() as u64;
    }
    // SAFETY: as fork: the child has its own copy of memory and only this thread.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: only async-signal-safe calls from here to exec or exit.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if fds.output >= 0 {
                libc::dup2(fds.output, 1);
                libc::dup2(fds.output, 2);
            }
            if fds.gate >= 0 {
                let mut byte = 0u8;
                libc::read(fds.gate, (&raw mut byte).cast(), 1);
            }
            let mut now = std::mem::zeroed::<libc::timespec>();
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
            let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
            libc::write(fds.error, (&raw const now).cast(), 8);
            libc::execvp(argv[0], argv.as_ptr());
            let errno = *libc::__errno_location();
            libc::write(fds.error, (&raw const errno).cast(), 4);
            libc::_exit(127);
        }
    }
    // SAFETY: the kernel stored a fresh descriptor.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

fn reap(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: plain system call on our own child.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    })
}
