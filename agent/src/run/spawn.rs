//! Making a process in a cgroup, and a process of our own that does something for us there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::child::Ended;

/// From linux/sched.h; libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Longest that a process may take to its exec: in a frozen cgroup it never gets there.
const EXEC_WITHIN: Duration = Duration::from_secs(2);

/// What the child does before its exec. Of descriptors -1 is none.
pub(super) struct Descriptors {
    /// Its standard input.
    pub(super) input: RawFd,
    /// Its standard output.
    pub(super) output: RawFd,
    /// Its standard error.
    pub(super) errors: RawFd,
    /// Where it tells the time, and why it could not exec.
    pub(super) told: RawFd,
    /// Where it waits for a byte, to be recorded page by page then.
    pub(super) gate: RawFd,
    /// The other end of the gate, which it closes: it is not to wait for itself.
    pub(super) opens: RawFd,
    /// The process (and thread) with which it is to die; 0 for none.
    pub(super) dies_with: i32,
}

/// clone3 into `cgroup`, then exec of `program` in the child.
///
/// # Safety
/// `argv` ends with null and its strings outlive the call, as does `program`.
pub(super) unsafe fn clone_and_exec(
    program: *const libc::c_char,
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
            for (to, from) in [(0, fds.input), (1, fds.output), (2, fds.errors)] {
                if from >= 0 {
                    libc::dup2(from, to);
                }
            }
            if fds.dies_with != 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // Dead before that was said.
                if libc::getppid() != fds.dies_with {
                    libc::_exit(127);
                }
            }
            if fds.gate >= 0 {
                libc::close(fds.opens);
                let mut byte = 0u8;
                // Nobody opens it any more: who was to is gone.
                loop {
                    match libc::read(fds.gate, (&raw mut byte).cast(), 1) {
                        1 => break,
                        -1 if *libc::__errno_location() == libc::EINTR => {}
                        _ => libc::_exit(127),
                    }
                }
                no_huge_pages();
            }
            let mut now = std::mem::zeroed::<libc::timespec>();
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now);
            let now = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
            libc::write(fds.told, (&raw const now).cast(), 8);
            libc::execvp(program, argv.as_ptr());
            let errno = *libc::__errno_location();
            libc::write(fds.told, (&raw const errno).cast(), 4);
            libc::_exit(127);
        }
    }
    // SAFETY: the kernel stored a fresh descriptor.
    Ok((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Has this process, and what it becomes and makes, map files without huge pages, of whose
/// faults no hook tells (Linux 6.12, mm/memory.c, `do_set_pmd`): where that can be said (Linux
/// 6.18), but for those that it asks for itself. Async-signal-safe.
fn no_huge_pages() {
    const EXCEPT_ADVISED: libc::c_ulong = 1 << 1;
    let disable = |flags: libc::c_ulong| {
        let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
        // SAFETY: integers only; it concerns nothing but how this process's memory is mapped.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, flags, none, none) == 0 }
    };
    // That it can't be said is no reason not to record.
    let _ = disable(EXCEPT_ADVISED) || disable(0);
}

/// Waits for a child and forgets it.
pub(super) fn reap(pid: i32) -> io::Result<Ended> {
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

/// This program once more, with one of its commands, in a cgroup: a process that does
/// something for us there. Killed and forgotten when dropped.
#[derive(Debug)]
pub struct Servant {
    pid: i32,
    pidfd: OwnedFd,
    is_over: bool,
}

impl Servant {
    /// Starts it with these as its standard input and output; it is born in `cgroup`
    /// (where this process is, if `None`). `prepare` gets its process id before it
    /// becomes the program: what it does later is done by then.
    ///
    /// No signal is blocked in it: whoever ends all that is in its cgroup ends it too. It
    /// is killed when the thread that calls this ends.
    ///
    /// # Errors
    /// It can't be made there, or not become the program.
    pub fn start(
        arguments: &[&CStr],
        cgroup: Option<BorrowedFd<'_>>,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        prepare: &mut dyn FnMut(u32) -> io::Result<()>,
    ) -> io::Result<Self> {
        let program = c"/proc/self/exe";
        let name = c"headstart".to_owned();
        let arguments: Vec<CString> = std::iter::once(name)
            .chain(arguments.iter().map(|&argument| argument.to_owned()))
            .collect();
        let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
        argv.push(std::ptr::null());
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (told, tells) = pipe()?;
        let (waits, opens) = pipe()?;
        let fds = Descriptors {
            input: input.as_raw_fd(),
            output: output.as_raw_fd(),
            errors: -1,
            told: tells.as_raw_fd(),
            gate: waits.as_raw_fd(),
            opens: opens.as_raw_fd(),
            dies_with: std::process::id() as i32,
        };
        // SAFETY: `argv` ends with null and points into `arguments`, which outlive the
        // call, as does the program's name; the mask is initialised by sigemptyset.
        let (pid, pidfd) = unsafe {
            let mut mask = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut mask);
            clone_and_exec(program.as_ptr(), &argv, cgroup, &fds, &mask)
        }?;
        // Killed where one of the next steps fails.
        let servant = Self {
            pid,
            pidfd,
            is_over: false,
        };
        drop((tells, waits));
        prepare(pid as u32)?;
        rustix::io::write(&opens, b"!")?;
        servant.is_program(&told)?;
        Ok(servant)
    }

    /// Waits for its exec.
    fn is_program(&self, told: &OwnedFd) -> io::Result<()> {
        let mut message = [0; 12];
        let mut length = 0;
        loop {
            if !readable(told, EXEC_WITHIN)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match rustix::io::read(told, &mut message[length..])? {
                0 => break,
                read => length += read,
            }
        }
        match (message.last_chunk(), length) {
            (_, 8) => Ok(()),
            (Some(errno), 12) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(*errno))),
            _ => Err(io::Error::other("it was killed before it began")),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Has it end now.
    pub fn kill(&self) {
        // Gone is as good.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end, at most so long; how it ended.
    ///
    /// # Errors
    /// It can't be waited for.
    pub fn wait(&mut self, most: Duration) -> io::Result<Option<Ended>> {
        if self.is_over || !readable(&self.pidfd, most)? {
            return Ok(None);
        }
        let ended = reap(self.pid)?;
        self.is_over = true;
        Ok(Some(ended))
    }
}

/// Whether a descriptor can be read within some time.
fn readable(fd: &OwnedFd, within: Duration) -> io::Result<bool> {
    let timeout = rustix::time::Timespec {
        tv_sec: within.as_secs() as i64,
        tv_nsec: i64::from(within.subsec_nanos()),
    };
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            // One that waits for a disk ends after that; its parent does not wait for it.
            let _ = self.wait(Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_at_the_gate_ends_with_who_was_to_open_it() {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let ((waits, opens), (_told, tells)) = (pipe(), pipe());
        let fds = Descriptors {
            input: -1,
            output: -1,
            errors: -1,
            told: tells.as_raw_fd(),
            gate: waits.as_raw_fd(),
            opens: opens.as_raw_fd(),
            dies_with: 0,
        };
        let argv = [c"true".as_ptr(), std::ptr::null()];
        // SAFETY: `argv` ends with null and its string is a constant; zero is a mask that
        // blocks nothing.
        let (pid, pidfd) = unsafe {
            let mask = std::mem::zeroed::<libc::sigset_t>();
            clone_and_exec(argv[0], &argv, None, &fds, &mask)
        }
        .expect("a process");
        drop(opens);
        let ended = readable(&pidfd, Duration::from_secs(10)).expect("waited for");
        if !ended {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        assert_eq!(reap(pid).expect("reaped"), Ended::Exited(127));
    }
}
