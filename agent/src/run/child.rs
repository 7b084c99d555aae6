//! Starting a command inside a cgroup, and being to it what a shell would be.

use std::cell::Cell;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::cgroup::Cgroup;
use super::spawn::{Descriptors, clone_and_exec, reap};

/// Why the command did not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No command, or a NUL in it.
    #[error("the command holds a NUL byte")]
    Nul,
    /// It can't be executed.
    #[error("running `{command}`: {source}{}", advice(.command, .source))]
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

impl LaunchError {
    /// As a shell reports it: 127 where there is no such program, 126 where
    /// there is one that can't be executed.
    pub fn exit_code(&self) -> u8 {
        match self {
            LaunchError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            LaunchError::Exec { .. } => 126,
            LaunchError::Nul | LaunchError::Process(_) => 1,
        }
    }
}

/// What to do about the commonest reasons.
fn advice(command: &str, source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound if command.contains('/') => {
            "; check the path, and the interpreter that its first line names"
        }
        io::ErrorKind::NotFound => "; no directory of PATH has it: check the spelling",
        io::ErrorKind::PermissionDenied => "; it must be an executable file (`chmod +x`)",
        _ => "",
    }
}

/// Signals that are passed on to the command, those of real time besides. (Not `SIGURG`, by
/// which a tracer is woken, and what stops a job that reads or writes in the background.)
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
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Those of them that a terminal sends, to all of a job at once.
const OF_TERMINALS: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGWINCH,
    libc::SIGCONT,
    libc::SIGTSTP,
];

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
    /// As a shell reports it: 128 and the signal's number where one killed it.
    pub fn status(self) -> u8 {
        match self {
            Ended::Exited(code) => (code & 0xff) as u8,
            Ended::Signalled(signal) => (128 + signal).min(255) as u8,
        }
    }

    /// The same, for `main` to return.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self.status())
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
    interrupted: bool,
    /// Its cgroup, where that is to stay for as long as it does.
    cgroup: Option<Cgroup>,
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
                input: -1,
                output: null,
                errors: null,
                told: error_out.as_raw_fd(),
                gate: gate.as_ref().map_or(-1, |(read, _)| read.as_raw_fd()),
                opens: gate.as_ref().map_or(-1, |(_, write)| write.as_raw_fd()),
                dies_with: 0,
            };
            let mask = OUTER_MASK.get().unwrap_or(old_mask);
            clone_and_exec(argv[0], &argv, cgroup, &fds, &mask)
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
            interrupted: false,
            cgroup: None,
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

    /// Has its cgroup go when this does: it may run for longer than it is recorded.
    pub(super) fn keep(&mut self, cgroup: Cgroup) {
        self.cgroup = Some(cgroup);
    }

    /// Whether somebody asked for an end while it was waited for.
    pub fn interrupted(&self) -> bool {
        self.interrupted
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
    fn pass_on(&mut self) {
        let mut info = std::mem::MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is a whole signalfd_siginfo, any bytes are valid.
        let read = unsafe { libc::read(self.signals.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read != size as isize {
            return;
        }
        // SAFETY: initialised by the read (and zeroed before).
        let info = unsafe { info.assume_init() };
        let signal = info.ssi_signo as i32;
        let by_kernel = info.ssi_code == libc::SI_KERNEL;
        // A limit that we reach ourselves is no matter of the command's, which has its own.
        let of_limits = [libc::SIGXCPU, libc::SIGXFSZ].contains(&signal);
        let is_ours = of_limits && (by_kernel || info.ssi_pid == std::process::id());
        let of_terminal = by_kernel && OF_TERMINALS.contains(&signal);
        let is_passed_on = !is_ours && !of_terminal;
        if info.ssi_code == libc::SI_QUEUE {
            let value = libc::sigval {
                sival_ptr: info.ssi_ptr as *mut libc::c_void,
            };
            // SAFETY: plain system call; the pid is not reaped yet, so it is ours.
            unsafe { libc::sigqueue(self.pid, signal, value) };
        } else if is_passed_on {
            // SAFETY: as above.
            unsafe { libc::kill(self.pid, signal) };
        }
        match signal {
            libc::SIGTSTP => stop(),
            libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM => self.interrupted = true,
            _ => {}
        }
    }
}

/// Stops this process as the terminal wants it, so that a shell sees its job
/// stopped; returns when it is continued, at once where nobody could do that.
fn stop() {
    // SAFETY: an initialised set; the signal has its default action.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTSTP);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(libc::SIGTSTP);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        restore_mask(&self.old_mask);
    }
}

thread_local! {
    /// The mask under [`HeldSignals`]: what a command starts with.
    static OUTER_MASK: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

/// Keeps the passed-on signals, in this thread and those it starts from now on,
/// for the [`Child`] that this thread will start: in any other thread they would
/// end the process and leave the command alone.
pub(super) struct HeldSignals(libc::sigset_t);

impl HeldSignals {
    /// Holds them until dropped.
    pub(super) fn hold() -> io::Result<Self> {
        let outer = block(&passed_on())?;
        OUTER_MASK.set(Some(outer));
        Ok(Self(outer))
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        OUTER_MASK.set(None);
        restore_mask(&self.0);
    }
}

fn passed_on() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set, which is valid for writes.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        for signal in PASSED_ON.iter().copied().chain(real_time) {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks signals; the mask before.
fn block(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    // SAFETY: an initialised set, and one to write to.
    unsafe {
        let mut old = std::mem::zeroed::<libc::sigset_t>();
        match libc::pthread_sigmask(libc::SIG_BLOCK, set, &raw mut old) {
            0 => Ok(old),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Blocks the passed-on signals and gives a descriptor to read them from, and
/// the mask before.
fn take_signals() -> io::Result<(OwnedFd, libc::sigset_t)> {
    let set = passed_on();
    let old = block(&set)?;
    // SAFETY: an initialised set; the descriptor is fresh.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            let error = io::Error::last_os_error();
            restore_mask(&old);
            return Err(error);
        }
        Ok((OwnedFd::from_raw_fd(fd), old))
    }
}

fn restore_mask(mask: &libc::sigset_t) {
    // SAFETY: a mask that pthread_sigmask itself gave.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}
