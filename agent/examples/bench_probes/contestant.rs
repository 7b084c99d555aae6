//! What may be attached while reads are timed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use headstart::probe::{Group, HookState, Kind, Place, Probes};
use headstart::run::{Cgroup, RING_BYTES};

use crate::empty::Empty;
use crate::reading::Reading;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Nothing.
    Off,
    /// A program that does nothing, where reads are seen.
    Empty,
    /// Our hooks of page use; the readers are being learned.
    Use,
    /// The same on functions of the kernel, as on kernels before 6.12.
    Functions,
    /// The same by kprobes.
    Kprobes,
    /// All hooks of a recording; the readers are being learned.
    Recording,
    /// All hooks of a recording, of something else.
    Elsewhere,
    /// bpftrace counting reads.
    Bpftrace,
}

/// What records.
const RECORDING: [Group; 4] = [Group::Use, Group::Miss, Group::Names, Group::Lifecycle];

impl Contestant {
    /// Those that this kernel lets be attached, and why it does not the others.
    pub(crate) fn here() -> anyhow::Result<(Vec<Self>, Vec<String>)> {
        let (mut here, mut not_here) = (Vec::new(), Vec::new());
        for contestant in [
            Self::Off,
            Self::Empty,
            Self::Use,
            Self::Functions,
            Self::Kprobes,
            Self::Recording,
            Self::Elsewhere,
            Self::Bpftrace,
        ] {
            let states = match contestant.places() {
                Some(takes) => Probes::load(RING_BYTES)?.attach_where(&[Group::Use], takes),
                None => Vec::new(),
            };
            match states.iter().find(|state| !state.live) {
                Some(state) => {
                    not_here.push(format!(
                        "{} ({}: {})",
                        contestant.name(),
                        state.place,
                        state.reason
                    ));
                }
                None => here.push(contestant),
            }
        }
        Ok((here, not_here))
    }

    /// Which places of our hooks it is about, if not those that a recording takes.
    /// Raw tracepoints have no other place.
    fn places(self) -> Option<fn(&Place) -> bool> {
        match self {
            Self::Functions => {
                Some(|place| matches!(place.kind, Kind::Fentry | Kind::Fexit | Kind::RawTracepoint))
            }
            Self::Kprobes => Some(|place| matches!(place.kind, Kind::Kprobe | Kind::RawTracepoint)),
            _ => None,
        }
    }

    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "nothing",
            Self::Empty => "an empty program on mm_filemap_get_pages",
            Self::Use => "ours on page use, learning these reads",
            Self::Functions => "the same by fentry and fexit",
            Self::Kprobes => "the same by kprobes",
            Self::Recording => "all of ours, learning these reads",
            Self::Elsewhere => "all of ours, learning something else",
            Self::Bpftrace => "bpftrace counting mm_filemap_get_pages",
        }
    }

    /// ns a read with it attached.
    pub(crate) fn cost(self, reading: &Reading, jobs: usize) -> anyhow::Result<f64> {
        let cgroup = Cgroup::create(0)?;
        let read = || reading.ns(&cgroup, jobs);
        match self {
            Self::Off => read(),
            Self::Empty => {
                let _attached = Empty::attach("mm_filemap_get_pages")?;
                read()
            }
            Self::Use | Self::Functions | Self::Kprobes => {
                let takes = self.places().unwrap_or(|_| true);
                let attach = |p: &mut Probes| p.attach_where(&[Group::Use], takes);
                probed(attach, Some(&cgroup), read)
            }
            Self::Recording => probed(|p| p.attach(&RECORDING), Some(&cgroup), read),
            Self::Elsewhere => probed(|p| p.attach(&RECORDING), None, read),
            Self::Bpftrace => {
                let counter = Counting::start()?;
                let ns = read();
                counter.end()?;
                ns
            }
        }
    }
}

/// Runs `work` with probes attached that watch `cgroup`, or one where nothing
/// runs. Records are taken off the ring meanwhile, as a recording does.
fn probed<T>(
    attach: impl FnOnce(&mut Probes) -> Vec<HookState>,
    cgroup: Option<&Cgroup>,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut probes = Probes::load(RING_BYTES)?;
    let mut reader = probes.reader()?;
    let elsewhere = Cgroup::create(1)?;
    probes.watch(cgroup.unwrap_or(&elsewhere).id())?;
    for hook in attach(&mut probes) {
        ensure!(hook.live, "{}: {}", hook.place, hook.reason);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| {
            let mut records = 0;
            while !stop.load(Ordering::Acquire) {
                reader.wait(Duration::from_millis(25), None);
                records += reader.drain(|_| {});
            }
            records
        });
        let result = work();
        stop.store(true, Ordering::Release);
        let records = drained.join().unwrap_or(0);
        ensure!(
            cgroup.is_none() || records > 0,
            "the probes saw nothing of what they watch"
        );
        result
    })
}

/// bpftrace, counting.
struct Counting(Child);

impl Counting {
    /// Returns when it counts.
    fn start() -> anyhow::Result<Self> {
        let program = "tracepoint:filemap:mm_filemap_get_pages { @reads = count(); } \
                       interval:ms:50 { printf(\"on\\n\"); }";
        let mut child = Command::new("bpftrace")
            .args(["-B", "line", "-e", program])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting bpftrace")?;
        let output = child.stdout.take().context("bpftrace's output")?;
        let mut lines = BufReader::new(output).lines();
        let mut ticks = 0;
        // All programs are attached by the second tick of the clock.
        while ticks < 2 {
            let line = lines.next().context("bpftrace ended early")??;
            ticks += i32::from(line == "on");
        }
        // Its output is thrown away, by a thread that ends with it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self(child))
    }

    fn end(mut self) -> anyhow::Result<()> {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        let status = self.0.wait()?;
        ensure!(status.success(), "bpftrace failed: {status}");
        Ok(())
    }
}
