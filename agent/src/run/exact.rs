//! Exact recording: no fault-around, so that every page fault names one page.
//!
//! The kernel maps up to 16 cached pages around a fault (`do_fault_around` in
//! mm/memory.c): a recording then can't tell which of them were used. It does
//! not where the mapping is registered with a userfaultfd for write protection
//! (`should_fault_around`; with `UFFD_FEATURE_WP_ASYNC` any mapping can be, and
//! nobody is ever asked anything; Linux 6.7). So the command is traced: at exec
//! and fork it makes such a descriptor, which is taken over, and whenever it
//! maps a file the probes send it a harmless signal, at which it stops for its
//! tracer and the new mapping is registered.
//!
//! Costs a fault for each page used and a stop for each file mapped: for some
//! runs of a profile, not for all. A tracer that dies leaves the command running
//! on. Invariant: whatever fails here, the command runs as it would have.
//!
//! Not covered, and therefore recorded as windows: shared mappings of files
//! opened read-only (the kernel refuses them), and threads that block the signal.

mod inject;
mod uffd;

use std::collections::HashMap;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::child::HeldSignals;
use inject::{Event, MAP_SIGNAL, Stopped};
use uffd::Uffd;

/// What tracing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traced {
    /// Address spaces without fault-around.
    pub spaces: u64,
    /// Mappings of files without fault-around.
    pub mappings: u64,
    /// Mappings that kept it.
    pub refused: u64,
    /// Why an address space kept it; the last reason.
    pub error: Option<String>,
}

impl Traced {
    /// Whether faults mostly named single pages.
    pub fn is_exact(&self) -> bool {
        self.spaces > 0 && self.mappings > 0 && self.error.is_none()
    }
}

/// Whether a command can be traced so: whether the kernel gives such a descriptor.
///
/// # Errors
/// Why not.
pub fn may_trace() -> io::Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(inject::unsupported());
    }
    Uffd::create().map(drop)
}

/// A thread that traces one command.
pub(super) struct Tracer {
    pid: SyncSender<i32>,
    seized: Receiver<io::Result<()>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Traced>,
}

impl Tracer {
    /// Starts the thread; it waits for a process to trace.
    pub(super) fn begin() -> io::Result<Self> {
        inject::make_interruptible(MAP_SIGNAL)?;
        let (pid, pids) = sync_channel(1);
        let (seizing, seized) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        // The thread inherits that it takes no signal that is the command's.
        let _held = HeldSignals::hold()?;
        // A tracer is a thread, not a process: all requests come from this one,
        // and when it ends the kernel lets go of whatever it traced.
        let thread = std::thread::Builder::new()
            .name("headstart-trace".to_owned())
            .spawn(move || {
                let Ok(pid) = pids.recv() else {
                    return Traced::default();
                };
                let result = inject::seize(pid);
                let failed = result.as_ref().err().map(ToString::to_string);
                // The other side waits for this answer and nothing else.
                let _ = seizing.send(result);
                match failed {
                    None => Loop::new(pid, theirs).run(),
                    Some(error) => Traced {
                        error: Some(error),
                        ..Traced::default()
                    },
                }
            })?;
        Ok(Self {
            pid,
            seized,
            stop,
            thread,
        })
    }

    /// Traces a process that waits to be let on.
    pub(super) fn seize(&self, pid: i32) -> io::Result<()> {
        let gone = |_| io::Error::other("the tracing thread is gone");
        self.pid.send(pid).map_err(|e| gone(e.0))?;
        self.seized.recv().map_err(|_| gone(pid))?
    }

    /// Lets go of everything. The process must not have been waited for: if it
    /// has ended, the thread has to see that.
    pub(super) fn finish(self) -> Traced {
        self.stop.store(true, Ordering::Release);
        drop(self.pid);
        while !self.thread.is_finished() {
            // Again and again: a signal just before the thread waits is lost.
            // SAFETY: the thread is not joined yet, and the signal has a handler.
            unsafe {
                libc::pthread_kill(self.thread.as_pthread_t() as libc::pthread_t, MAP_SIGNAL)
            };
            std::thread::sleep(Duration::from_micros(500));
        }
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Loop {
    main: i32,
    stop: Arc<AtomicBool>,
    /// By thread group.
    spaces: HashMap<i32, Option<Uffd>>,
    traced: Traced,
}

impl Loop {
    fn new(main: i32, stop: Arc<AtomicBool>) -> Self {
        Self {
            main,
            stop,
            spaces: HashMap::new(),
            traced: Traced::default(),
        }
    }

    fn run(mut self) -> Traced {
        while !self.stop.load(Ordering::Acquire) {
            match inject::next_event(self.main) {
                Event::Stopped(stopped) => self.handle(&stopped),
                Event::Interrupted => {}
                Event::Over => break,
            }
        }
        self.traced
    }

    fn handle(&mut self, at: &Stopped) {
        // A thread that was killed meanwhile answers no request: its end is the
        // next event, so no failure here needs more than to be let be.
        if at.is_exec() {
            if at.finish_call().is_ok() {
                self.new_space(at);
            }
            at.go_on(0);
        } else if at.is_group_stop() {
            at.listen();
        } else if at.is_new() {
            let group = at.thread_group();
            if group.is_some_and(|group| !self.spaces.contains_key(&group)) {
                self.new_space(at);
            }
            at.go_on(0);
        } else if at.has_mapped() {
            self.new_mapping(at);
            at.go_on(0);
        } else {
            at.go_on(at.signal());
        }
    }

    /// A process has a new address space.
    fn new_space(&mut self, at: &Stopped) {
        let Some(group) = at.thread_group() else {
            return;
        };
        let space = at.make_uffd().and_then(|fd| {
            let uffd = Uffd::new(fd)?;
            let (mappings, refused) = uffd.register_files(group)?;
            self.traced.mappings += mappings;
            self.traced.refused += refused;
            Ok(uffd)
        });
        match &space {
            Ok(_) => self.traced.spaces += 1,
            Err(error) => {
                tracing::debug!(pid = group, %error, "fault-around stays on");
                self.traced.error = Some(error.to_string());
            }
        }
        self.spaces.insert(group, space.ok());
    }

    fn new_mapping(&mut self, at: &Stopped) {
        let Some(range) = at.mapped() else { return };
        let Some(group) = at.thread_group() else {
            return;
        };
        if let Some(Some(uffd)) = self.spaces.get(&group) {
            match uffd.register(range) {
                Ok(()) => self.traced.mappings += 1,
                Err(_) => self.traced.refused += 1,
            }
        }
    }
}
