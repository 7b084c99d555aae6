//! Stops of a traced thread, and system calls made in its name.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
#[cfg(target_arch = "x86_64")]
use std::os::unix::fs::FileExt;

#[cfg(target_arch = "x86_64")]
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::run::procfs;

/// `include/uapi/linux/ptrace.h`
const PTRACE_EVENT_STOP: i32 = 128;
const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
pub(super) const MAP_SIGNAL: i32 = headstart_abi::MAP_SIGNAL as i32;

/// Begins to trace a process and whatever it starts, without stopping it.
pub(super) fn seize(pid: i32) -> io::Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(unsupported());
    }
    request(libc::PTRACE_SEIZE, pid, 0, OPTIONS as usize)
}

/// On other processors.
pub(super) fn unsupported() -> io::Error {
    io::Error::other("commands are traced on x86-64 only so far")
}

/// What C libraries declare ptrace's requests as.
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;
#[cfg(target_env = "musl")]
type Request = libc::c_int;

fn request(request: Request, pid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: ptrace on a thread that this one traces (or asks to); `data` is a
    // number, or a pointer that the caller keeps valid.
    if unsafe { libc::ptrace(request, pid, address, data) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A thread in a stop that only its tracer ends.
pub(super) struct Stopped {
    tid: i32,
    status: i32,
    /// Signals that came in the middle of a call of ours: delivered after it.
    held: RefCell<Vec<i32>>,
}

/// What a wait ended with.
pub(super) enum Event {
    /// A traced thread stopped.
    Stopped(Stopped),
    /// This thread got a signal.
    Interrupted,
    /// The traced process has ended (which is left for others to wait for), or
    /// nothing is traced any more.
    Over,
}

/// Gives `signal` a handler that does nothing but end a wait.
pub(super) fn make_interruptible(signal: i32) -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: zeroes are an empty mask and no flags (no SA_RESTART, which is what
    // ends a wait); the handler does nothing.
    let done = unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits for the next stop of a traced thread, or the end of `main`.
pub(super) fn next_event(main: i32) -> Event {
    loop {
        let seen = match wait(libc::P_ALL, 0, PEEK | libc::__WNOTHREAD) {
            Ok(Some(seen)) => seen,
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Event::Interrupted,
            Err(_) => return Event::Over,
        };
        if seen.has_ended() && seen.tid == main {
            return Event::Over;
        }
        if seen.has_ended() {
            // Taken: a thread's or grandchild's parent hears of its end after its tracer has.
            // It can't fail, but for somebody who took it: then it is done too.
            let _ = wait(libc::P_PID, seen.tid, libc::WEXITED | libc::WNOHANG);
        } else if let Some(status) = stop_of(seen.tid) {
            return Event::Stopped(Stopped {
                tid: seen.tid,
                status,
                held: RefCell::default(),
            });
        }
    }
}

/// Stops and ends, none of them taken.
const PEEK: i32 = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT;

/// What a wait found.
struct Seen {
    tid: i32,
    code: i32,
    /// Of a traced thread's stop the signal, and above it the event.
    status: i32,
}

impl Seen {
    fn has_ended(&self) -> bool {
        matches!(
            self.code,
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED
        )
    }
}

/// waitid(2); `None` where it was not to wait and there is nothing.
fn wait(kind: libc::idtype_t, id: i32, flags: i32) -> io::Result<Option<Seen>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = flags | libc::__WALL;
    // SAFETY: the buffer is a whole siginfo_t.
    let waited = unsafe { libc::waitid(kind, id as libc::id_t, info.as_mut_ptr(), flags) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by a waitid that succeeded, or zeroes as before it.
    let (tid, code, status) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_code, info.si_status())
    };
    Ok((tid != 0).then_some(Seen { tid, code, status }))
}

/// Takes a stop that is there, and never the end that may have followed it: the status as
/// waitpid(2) has it.
fn stop_of(tid: i32) -> Option<i32> {
    let seen = wait(libc::P_PID, tid, libc::WSTOPPED | libc::WNOHANG).ok()??;
    Some(seen.status << 8 | 0x7f)
}

/// Waits for the next stop of a thread and takes it; none where it has ended instead, which
/// is left for others to wait for.
fn next_stop(tid: i32) -> Option<i32> {
    loop {
        match wait(libc::P_PID, tid, PEEK) {
            Ok(Some(seen)) if seen.has_ended() => return None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        }
        if let Some(status) = stop_of(tid) {
            return Some(status);
        }
    }
}

impl Stopped {
    /// The signal that would be delivered.
    pub(super) fn signal(&self) -> i32 {
        match libc::WSTOPSIG(self.status) {
            _ if self.event() != 0 => 0,
            SYSCALL_STOP => 0,
            signal => signal,
        }
    }

    fn event(&self) -> i32 {
        self.status >> 16
    }

    pub(super) fn is_exec(&self) -> bool {
        self.event() == libc::PTRACE_EVENT_EXEC
    }

    /// Stopped as job control stops, until continued.
    pub(super) fn is_group_stop(&self) -> bool {
        self.event() == PTRACE_EVENT_STOP && libc::WSTOPSIG(self.status) != libc::SIGTRAP
    }

    /// A new thread or process, before its first instruction.
    pub(super) fn is_new(&self) -> bool {
        self.event() == PTRACE_EVENT_STOP && libc::WSTOPSIG(self.status) == libc::SIGTRAP
    }

    /// Whether the probes stopped it: with the signal of which the kernel is
    /// the sender. Anybody else's is delivered.
    pub(super) fn has_mapped(&self) -> bool {
        if self.event() != 0 || self.signal() != MAP_SIGNAL {
            return false;
        }
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let got = request(
            libc::PTRACE_GETSIGINFO,
            self.tid,
            0,
            info.as_mut_ptr() as usize,
        );
        // SAFETY: zeroed, and any bytes are a valid siginfo_t.
        got.is_ok() && unsafe { info.assume_init() }.si_code == libc::SI_KERNEL
    }

    /// Lets it run on; a signal of 0 is none.
    pub(super) fn go_on(&self, signal: i32) {
        for held in self.held.take() {
            let group = self.thread_group().unwrap_or(self.tid);
            // SAFETY: plain system call on a thread that we trace.
            unsafe { libc::syscall(libc::SYS_tgkill, group, self.tid, held) };
        }
        // Fails only where the thread was killed meanwhile.
        let _ = request(libc::PTRACE_CONT, self.tid, 0, signal as usize);
    }

    /// Leaves it stopped, until a SIGCONT.
    pub(super) fn listen(&self) {
        let _ = request(libc::PTRACE_LISTEN, self.tid, 0, 0);
    }

    /// The process it belongs to.
    pub(super) fn thread_group(&self) -> Option<i32> {
        self.status_field("Tgid")
    }

    fn status_field(&self, name: &str) -> Option<i32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()?;
        procfs::status_field(&status, name)?.parse().ok()
    }

    /// Runs on to the end of the system call it is in.
    pub(super) fn finish_call(&self) -> io::Result<()> {
        loop {
            request(libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            let stop = next_stop(self.tid).ok_or_else(|| io::Error::other("ended"))?;
            match (stop >> 16, libc::WSTOPSIG(stop)) {
                (0, SYSCALL_STOP) => return Ok(()),
                (0, signal) => self.held.borrow_mut().push(signal),
                // Job control, or that it is over: nothing to keep.
                _ => {}
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Stopped {
    /// What the mmap(2) mapped that it stopped after.
    pub(super) fn mapped(&self) -> Option<Range<u64>> {
        let regs = self.registers().ok()?;
        let (start, length) = (regs.rax, regs.rsi.checked_next_multiple_of(4096)?);
        let is_address = start % 4096 == 0 && (start as i64) > 0;
        (regs.orig_rax == libc::SYS_mmap as u64 && is_address)
            .then_some(start..start.checked_add(length)?)
    }

    /// Has it make a userfaultfd, and takes that over: in the thread's own table
    /// it is closed again.
    pub(super) fn make_uffd(&self) -> io::Result<OwnedFd> {
        if self.status_field("Seccomp") != Some(0) {
            return Err(io::Error::other(
                "a seccomp filter might kill it for a system call of ours",
            ));
        }
        let saved = self.registers()?;
        let instruction = self.syscall_instruction()?;
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let made = self
            .call(&saved, instruction, libc::SYS_userfaultfd, flags)
            .and_then(|fd| {
                let taken = self.take(fd as i32);
                self.call(&saved, instruction, libc::SYS_close, fd)?;
                taken
            });
        self.set_registers(&saved)?;
        made
    }

    /// A system call instruction that needs no page of any file: the vDSO's.
    fn syscall_instruction(&self) -> io::Result<u64> {
        let missing = || io::Error::other("no vDSO with a system call in it");
        let maps = std::fs::read(format!("/proc/{}/maps", self.tid))?;
        let range = procfs::mappings(&maps)
            .find_map(|(range, name)| (name == b"[vdso]").then_some(range))
            .ok_or_else(missing)?;
        let mut code = vec![0; (range.end - range.start) as usize];
        std::fs::File::open(format!("/proc/{}/mem", self.tid))?
            .read_exact_at(&mut code, range.start)?;
        let at = code.windows(2).position(|w| w == [0x0f, 0x05]);
        Ok(range.start + at.ok_or_else(missing)? as u64)
    }

    fn call(
        &self,
        saved: &libc::user_regs_struct,
        instruction: u64,
        number: libc::c_long,
        argument: u64,
    ) -> io::Result<u64> {
        let regs = libc::user_regs_struct {
            rip: instruction,
            rax: number as u64,
            rdi: argument,
            // Not in a system call: nothing is to be restarted.
            orig_rax: u64::MAX,
            ..*saved
        };
        self.set_registers(&regs)?;
        self.finish_call()?;
        self.finish_call()?;
        let result = self.registers()?.rax;
        match i32::try_from(result as i64) {
            Ok(errno @ -4095..=-1) => Err(io::Error::from_raw_os_error(-errno)),
            _ => Ok(result),
        }
    }

    fn take(&self, fd: i32) -> io::Result<OwnedFd> {
        let group = Pid::from_raw(self.thread_group().unwrap_or(self.tid));
        let group = group.ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        Ok(pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())?)
    }

    fn registers(&self) -> io::Result<libc::user_regs_struct> {
        let mut regs = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        request(
            libc::PTRACE_GETREGS,
            self.tid,
            0,
            regs.as_mut_ptr() as usize,
        )?;
        // SAFETY: plain integers, filled in.
        Ok(unsafe { regs.assume_init() })
    }

    fn set_registers(&self, regs: &libc::user_regs_struct) -> io::Result<()> {
        request(
            libc::PTRACE_SETREGS,
            self.tid,
            0,
            std::ptr::from_ref(regs) as usize,
        )
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Stopped {
    pub(super) fn mapped(&self) -> Option<Range<u64>> {
        None
    }

    pub(super) fn make_uffd(&self) -> io::Result<OwnedFd> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
