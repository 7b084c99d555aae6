//! Running a command and recording what it touches.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::cgroup::{Cgroup, CgroupError};
use super::child::{Child, Ended, LaunchError, Output};
use super::exact::{Traced, Tracer};
use super::fault_around::{FaultAround, Narrowed, Narrowing};
use crate::attribute::{Attributed, Collector, Gaps, Origin, attribute};
use crate::model::{Certainty, StageCounts, Trace};
use crate::probe::{Counters, Group, HookState, Place, ProbeError, Probes, Reader};

/// Default size of the ring buffer: a burst of 50,000 records.
pub const RING_BYTES: u32 = 4 << 20;

/// How often the ring buffer is emptied while a command runs.
const DRAIN_EVERY: Duration = Duration::from_millis(25);

/// What records.
const RECORDING: [Group; 4] = [Group::Use, Group::Miss, Group::Names, Group::Lifecycle];

/// Why a run was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No probes.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// No cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No command.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// No hook is attached that tells of pages.
    #[error("no hook tells of pages, nothing can be recorded: {0}")]
    NoHooks(String),
    /// The kernel refuses them all.
    #[error(
        "the kernel is locked down (confidentiality): probes may not read its memory, nothing can be recorded; boot with lockdown=integrity or without lockdown"
    )]
    LockedDown,
    /// Something around the command failed.
    #[error("while {operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Cause.
        source: std::io::Error,
    },
}

/// What a recorded run was like.
#[derive(Debug)]
pub struct Recording {
    /// What it touched.
    pub trace: Trace,
    /// What it touched and the trace does not hold.
    pub gaps: Gaps,
    /// How it ended; `None` while it goes on after the window.
    pub ended: Option<Ended>,
    /// From the process' birth to its end (or the window's).
    pub seconds: f64,
    /// Time in which some task of it waited for I/O; `None` if unknown.
    pub stall_seconds: Option<f64>,
    /// What the probes counted during the run.
    pub counters: Counters,
    /// What came into each stage from the hooks to the trace, and what became of
    /// it. Balanced, each of them.
    pub stages: Vec<StageCounts>,
    /// Records taken from the ring buffer.
    pub records: u64,
    /// What tracing came to, where the run was to be exact by that.
    pub traced: Option<Traced>,
    /// What a fault-around window of one page came to, where it was to be exact by that.
    pub narrowed: Option<Narrowing>,
}

/// What makes each fault of a run name one page.
enum Exactly {
    Traced(Tracer),
    Narrowed(Narrowed),
}

/// Sees to that while the command waits for its exec, whose process id it gets.
type Hold<'a> = Box<dyn FnOnce(&mut Probes, i32) -> Option<Exactly> + 'a>;

/// Loaded and attached probes, for one run after another.
pub struct Recorder {
    probes: Probes,
    reader: Reader,
    hooks: Vec<HookState>,
    runs: u32,
}

impl RecordError {
    /// The command could not be started.
    pub fn launch(&self) -> Option<&LaunchError> {
        match self {
            RecordError::Launch(error) => Some(error),
            _ => None,
        }
    }
}

impl Recording {
    /// Whether what it used is known page by page. One that lacks records is not: it
    /// would rule out what they told of.
    pub fn is_exact(&self) -> bool {
        self.trace.lost == 0
            && (self.traced.as_ref().is_some_and(Traced::is_exact)
                || self.narrowed.as_ref().is_some_and(Narrowing::is_exact))
    }
}

impl Recorder {
    /// Loads and attaches the probes.
    pub fn new(ring_bytes: u32) -> Result<Self, RecordError> {
        Self::with_places(ring_bytes, |_| true)
    }

    /// As [`Recorder::new`], with hooks at those of their places only that `takes`
    /// says: for comparing them.
    pub fn with_places(
        ring_bytes: u32,
        takes: impl Fn(&Place) -> bool + Sync,
    ) -> Result<Self, RecordError> {
        let mut probes = Probes::load(ring_bytes)?;
        let reader = probes.reader()?;
        let hooks = probes.attach_where(&RECORDING, takes);
        sees_pages(&hooks)?;
        Ok(Self {
            probes,
            reader,
            hooks,
            runs: 0,
        })
    }

    /// Which hooks are live.
    pub fn hooks(&self) -> &[HookState] {
        &self.hooks
    }

    /// Runs `command` and records it until it exits or `window` has passed.
    ///
    /// The child is handed back so that a command that outlives the window can
    /// be waited for.
    pub fn record(
        &mut self,
        command: &[OsString],
        output: Output,
        window: Option<Duration>,
    ) -> Result<(Recording, Child), RecordError> {
        self.start(command, output, window, None)
    }

    /// As [`Recorder::record`], with the kernel's fault-around window narrowed to one
    /// page from before the command's exec to the end of the recording, so that every
    /// page fault names one page: for a profile without maybe pages.
    /// [`Recording::narrowed`] tells what came of it.
    pub fn record_narrowed(
        &mut self,
        command: &[OsString],
        output: Output,
        window: Option<Duration>,
        around: FaultAround,
    ) -> Result<(Recording, Child), RecordError> {
        let mut error = None;
        let narrow = |_: &mut Probes, _pid: i32| match around.narrow() {
            Ok(narrowed) => Some(Exactly::Narrowed(narrowed)),
            Err(reason) => {
                error = Some(reason.to_string());
                None
            }
        };
        let (mut recording, child) = self.start(command, output, window, Some(Box::new(narrow)))?;
        if error.is_some() {
            recording.narrowed = Some(Narrowing {
                error,
                ..Narrowing::default()
            });
        }
        Ok((recording, child))
    }

    /// As [`Recorder::record`], with the command traced so that every page fault
    /// names one page: slower, for a profile without maybe pages. Where that
    /// can't be done the run is recorded all the same; [`Recording::traced`]
    /// tells.
    pub fn record_exact(
        &mut self,
        command: &[OsString],
        output: Output,
        window: Option<Duration>,
    ) -> Result<(Recording, Child), RecordError> {
        let tracer = Tracer::begin().map_err(|source| RecordError::Io {
            operation: "starting a thread",
            source,
        })?;
        let seize = |probes: &mut Probes, pid: i32| {
            // One that nobody traces would get the signals itself.
            match tracer.seize(pid) {
                Ok(()) => {
                    if let Err(error) = probes.stop_at_maps(true) {
                        tracing::warn!(%error, "the command is not stopped: maybe pages stay");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the command can't be traced: maybe pages stay");
                }
            }
            Some(Exactly::Traced(tracer))
        };
        let recorded = self.start(command, output, window, Some(Box::new(seize)));
        self.probes.stop_at_maps(false)?;
        recorded
    }

    fn start(
        &mut self,
        command: &[OsString],
        output: Output,
        window: Option<Duration>,
        hold: Option<Hold<'_>>,
    ) -> Result<(Recording, Child), RecordError> {
        self.runs += 1;
        let cgroup = Cgroup::create(self.runs)?;
        let before = self.probes.counters()?;
        self.probes.watch(cgroup.id())?;
        let place = Some(cgroup.as_fd());
        let mut exactly = None;
        let mut child = match hold {
            None => Child::spawn(command, place, output)?,
            Some(hold) => {
                let mut hold = Some(hold);
                let probes = &mut self.probes;
                let mut once = |pid| exactly = hold.take().and_then(|hold| hold(probes, pid));
                Child::spawn_held(command, place, output, Some(&mut once))?
            }
        };
        match self.follow(&cgroup, &mut child, exactly, 0, &before, window) {
            Ok(recording) => {
                child.keep(cgroup);
                Ok((recording, child))
            }
            Err(error) => {
                // It runs all the same, and nobody else waits for it; the
                // recording's failure is the one to report.
                let _ = child.wait(None);
                Err(error)
            }
        }
    }

    /// Records a command that was started in `cgroup` before the probes were
    /// there: what it did until now is not seen.
    pub fn join(
        &mut self,
        cgroup: &Cgroup,
        child: &mut Child,
        window: Option<Duration>,
    ) -> Result<Recording, RecordError> {
        let before = self.probes.counters()?;
        self.probes.watch(cgroup.id())?;
        let blind_ns = child.started.elapsed().as_nanos() as u64;
        self.follow(cgroup, child, None, blind_ns, &before, window)
    }

    fn follow(
        &mut self,
        cgroup: &Cgroup,
        child: &mut Child,
        exactly: Option<Exactly>,
        blind_ns: u64,
        before: &Counters,
        window: Option<Duration>,
    ) -> Result<Recording, RecordError> {
        let io = |operation| move |source| RecordError::Io { operation, source };
        let stop = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| io("making an event descriptor")(errno.into()))?;
        let mut collector = Collector::default();
        let deadline = window.map(|window| child.started + window);
        let (ended, traced, narrowed, unwatched) = std::thread::scope(|scope| {
            let (reader, stop, collector) = (&mut self.reader, &stop, &mut collector);
            scope.spawn(move || {
                loop {
                    let stopped = reader.wait(DRAIN_EVERY, Some(stop.as_fd()));
                    reader.drain(|bytes| collector.add(bytes));
                    if stopped {
                        break;
                    }
                }
            });
            // A tracer has to see the end before anyone else takes it.
            let over = child.until_end(deadline);
            let (traced, narrowed) = match exactly {
                Some(Exactly::Traced(tracer)) => (Some(tracer.finish()), None),
                Some(Exactly::Narrowed(narrowed)) => (None, Some(narrowed)),
                None => (None, None),
            };
            let ended = match over {
                Ok(true) => child.wait(None),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            let elapsed = child.started.elapsed();
            // Before the last look at the ring: what was counted has arrived.
            let unwatched = self.probes.unwatch(cgroup.id());
            // Not a moment longer than needed: it is the whole machine's.
            let narrowed = narrowed.map(Narrowed::finish);
            if cgroup.is_populated() {
                self.probes.settle();
            }
            let stopped = rustix::io::write(stop, &1u64.to_ne_bytes());
            debug_assert!(stopped.is_ok(), "an event descriptor takes a one");
            (ended, traced, narrowed, unwatched.map(|()| elapsed))
        });
        let elapsed = unwatched?;
        let ended = ended.map_err(io("waiting for the command"))?;
        let counters = self.probes.counters()?.since(before);
        let origin = Origin {
            time_ns: child.exec_ns(),
            ours_before: true,
        };
        let Attributed {
            mut trace,
            gaps,
            stages,
        } = attribute(&collector, origin, self.probes.fault_around_pages())
            .map_err(io("reading the mount table"))?;
        let narrowed = narrowed.map(|held| Narrowing {
            maybe_pages: maybe_pages(&trace),
            error: held.err(),
        });
        trace.duration_ns = elapsed.as_nanos() as u64;
        trace.blind_ns = blind_ns;
        trace.lost = counters.not_seen() + collector.lost();
        if let Some(error) = collector.last_error() {
            tracing::warn!(%error, lost = collector.lost(), "some records were not understood");
        }
        Ok(Recording {
            trace,
            gaps,
            ended,
            seconds: elapsed.as_secs_f64(),
            stall_seconds: cgroup.io_stall_us().map(|us| us as f64 / 1e6),
            counters,
            stages: counters.stages().into_iter().chain(stages).collect(),
            records: collector.records(),
            traced,
            narrowed,
        })
    }
}

/// Whether hooks as they are attached tell of pages.
///
/// # Errors
/// Why they don't.
pub fn sees_pages(hooks: &[HookState]) -> Result<(), RecordError> {
    let mut seers = hooks.iter().filter(|hook| hook.sees_pages);
    if seers.clone().any(|hook| hook.live) {
        return Ok(());
    }
    // What it refuses then is a helper function, which the verifier calls unknown.
    if super::lockdown().is_some_and(|mode| mode == "confidentiality") {
        return Err(RecordError::LockedDown);
    }
    let reasons: Vec<String> = seers
        .by_ref()
        .map(|hook| format!("{}: {}", hook.program, hook.reason))
        .collect();
    Err(RecordError::NoHooks(reasons.join("; ")))
}

/// Pages of a trace that were mapped around a fault: maybe used.
pub fn maybe_pages(trace: &Trace) -> u64 {
    let touches = trace.files.iter().flat_map(|file| &file.touches);
    touches
        .filter(|touch| touch.certainty == Certainty::Maybe)
        .map(|touch| u64::from(touch.pages))
        .sum()
}
