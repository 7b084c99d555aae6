//! `cargo xtask bench harm`: what prefetching at full load costs others on the node.

mod load;
mod memory;
mod neighbour;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use self::load::{Load, Workload};
use self::memory::Bound;
pub(super) use self::neighbour::{Args as NeighbourArgs, run as neighbour};
use self::neighbour::{Kind, Neighbour, Seen};
use super::Bench;
use super::disk::drop_caches;
use super::node::{Agent, Setup, Tree};
use super::publish::Findings;
use super::stats::{Spread, Table};
use super::throttle::{Limits, Throttle};

/// For how long neighbours read each time.
const LOOK: Duration = Duration::from_secs(8);

/// What the neighbour reads whose reads go to the disk.
const DIRECT_BYTES: u64 = 1 << 30;
/// What the neighbour has in memory.
const CACHED_BYTES: u64 = 256 << 20;
/// What a memory-tight neighbour has beside that.
const TIGHT_BYTES: u64 = 16 << 20;
/// What is left beside the neighbour on a node that is short of memory, and on one that has
/// some for what starts.
const SHORT_BYTES: u64 = 256 << 20;
const ENOUGH_BYTES: u64 = 1 << 30;

/// From one start to the next, on the disk as it is and on a slow one, where they take about
/// two thirds of the time.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_SLOW: Duration = Duration::from_secs(4);

/// What a slow disk gives.
const SLOW: Limits = Limits {
    bytes: Some(100_000_000),
    requests: Some(2000),
};

/// What goes on beside the neighbours, in the order in which they take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The agent warms ahead of starts that it is told of.
    Ahead,
    /// Workloads start, and the agent only observes.
    Starts,
    /// Workloads start, and the agent warms for them.
    Warmed,
}

const ALL: [Beside; 4] = [
    Beside::Nothing,
    Beside::Ahead,
    Beside::Starts,
    Beside::Warmed,
];

/// Rounds of each of [`ALL`].
type Rounds<T> = [Vec<T>; ALL.len()];

/// A node and where its parts run.
struct Scene<'a> {
    load: Load<'a>,
    agent: &'a Agent,
    /// What starts does not fit into the memory that there is.
    is_short: bool,
}

/// What was seen beside something.
#[derive(Clone, Copy)]
struct Look {
    direct: Seen,
    cached: Seen,
    /// What the agent read meanwhile, bytes a second.
    warmed: f64,
}

/// What a neighbour had to read again beside something, MiB, and what the agent read
/// meanwhile, bytes a second.
#[derive(Clone, Copy)]
struct Again {
    mib: f64,
    warmed: f64,
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let program = bench.agent()?;
    let directory = bench.directory.join("harm");
    std::fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    let workloads = load::workloads(&directory)?;
    let (direct, cached) = (directory.join("direct"), directory.join("cached"));
    load::make_file(&direct, DIRECT_BYTES)?;
    load::make_file(&cached, CACHED_BYTES)?;
    let tree = Tree::mount(&directory.join("cgroups"))?;
    let node = Node {
        program,
        directory,
        tree,
        workloads,
        direct,
        cached,
        rounds: bench.rounds,
    };
    let fast = node.latency(None)?;
    let slow = node.latency(Some(SLOW))?;
    let memory = [
        (
            "a limit of its own",
            node.memory(CACHED_BYTES + TIGHT_BYTES, &["neighbour"])?,
        ),
        (
            "a limit that it shares with the agent and what starts",
            node.memory(
                CACHED_BYTES + SHORT_BYTES,
                &["neighbour", "agent", "starts"],
            )?,
        ),
        (
            "the same, with room for what starts",
            node.memory(
                CACHED_BYTES + ENOUGH_BYTES,
                &["neighbour", "agent", "starts"],
            )?,
        ),
    ];
    Ok(findings(&fast, &slow, &memory, bench.rounds).into_markdown())
}

/// What all measurements share.
struct Node {
    program: PathBuf,
    directory: PathBuf,
    tree: Tree,
    workloads: Vec<Workload>,
    direct: PathBuf,
    cached: PathBuf,
    rounds: u32,
}

impl Node {
    /// An agent that has learned all workloads.
    fn agent(&self, cgroup: Option<&Path>) -> Result<Agent> {
        let directory = self.directory.join("agent");
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        let setup = Setup {
            more: WARM,
            cgroup,
            ..Setup::default()
        };
        let agent = Agent::start(&self.program, &directory, setup)?;
        self.load(None, EVERY).learn(&agent)?;
        Ok(agent)
    }

    fn load<'a>(&'a self, cgroup: Option<&'a Path>, every: Duration) -> Load<'a> {
        Load {
            tree: &self.tree,
            cgroup,
            workloads: &self.workloads,
            every,
        }
    }

    /// How long neighbours' reads take, with everybody on a disk of some limits.
    fn latency(&self, limits: Option<Limits>) -> Result<Rounds<Look>> {
        let throttle = limits
            .map(|limits| Throttle::new(&self.directory, limits))
            .transpose()?;
        let cgroup = throttle.as_ref().map(Throttle::cgroup);
        let agent = self.agent(cgroup)?;
        let scene = Scene {
            load: self.load(cgroup, if limits.is_some() { EVERY_SLOW } else { EVERY }),
            agent: &agent,
            is_short: false,
        };
        self.rounds(|beside| {
            let neighbours = vec![
                Neighbour::start(Kind::Direct, &self.direct, LOOK, cgroup)?,
                Neighbour::start(Kind::Cached, &self.cached, LOOK, cgroup)?,
            ];
            let (seen, warmed) = scene.beside(beside, neighbours)?;
            let [direct, cached] = seen[..] else {
                bail!("there are two neighbours");
            };
            eprintln!(
                "  {beside:?}: direct {:.0} µs, {:.0} µs; cached {:.2} µs, {:.2} µs; {:.0} MB/s \
                 warmed",
                direct.p50,
                direct.p99,
                cached.p50,
                cached.p99,
                warmed / 1e6
            );
            Ok(Look {
                direct,
                cached,
                warmed,
            })
        })
    }

    /// What a neighbour has to read again whose memory is bounded, MiB; it alone is in the
    /// bound, or the agent and what starts too.
    fn memory(&self, bytes: u64, members: &[&str]) -> Result<Rounds<Again>> {
        let bound = Bound::new(bytes, members)?;
        let agent = self.agent(bound.member("agent").as_deref())?;
        let starts = bound.member("starts");
        let scene = Scene {
            load: self.load(starts.as_deref(), EVERY),
            agent: &agent,
            is_short: starts.is_some() && bytes <= CACHED_BYTES + SHORT_BYTES,
        };
        let tight = bound.member("neighbour");
        self.rounds(|beside| {
            let neighbour = Neighbour::start(Kind::Cached, &self.cached, LOOK, tight.as_deref())?;
            let (seen, warmed) = scene.beside(beside, vec![neighbour])?;
            let bytes: u64 = seen.iter().map(|seen| seen.bytes_read).sum();
            let mib = bytes as f64 / 1048576.0;
            eprintln!(
                "  {beside:?}: {mib:.1} MiB read again; {:.0} MB/s warmed",
                warmed / 1e6
            );
            Ok(Again { mib, warmed })
        })
    }

    /// Rounds of all in turn; the first is not counted.
    fn rounds<T>(&self, look: impl Fn(Beside) -> Result<T>) -> Result<Rounds<T>> {
        let mut all = Rounds::default();
        for round in 0..=self.rounds {
            for (beside, seen) in ALL.into_iter().zip(&mut all) {
                drop_caches()?;
                let one = look(beside)?;
                if round > 0 {
                    seen.push(one);
                }
            }
        }
        Ok(all)
    }
}

// All starts are learned, though they follow one another without a pause.
const WARM: &str = "observe_only = false\nhook_share = 1.0\ncpu_pressure = 100.0";
const OBSERVE: &str = "observe_only = true\nhook_share = 1.0\ncpu_pressure = 100.0";

impl Scene<'_> {
    /// What neighbours see while something goes on, and what the agent reads meanwhile,
    /// bytes a second.
    fn beside(&self, what: Beside, mut neighbours: Vec<Neighbour>) -> Result<(Vec<Seen>, f64)> {
        // What it was told before is not to be counted here.
        self.agent.rests()?;
        let observes = what == Beside::Starts;
        self.agent
            .configure(if observes { OBSERVE } else { WARM })?;
        let stop = AtomicBool::new(false);
        let (began, before) = (Instant::now(), self.agent.bytes_read()?);
        let (seen, read, went_on) = std::thread::scope(|scope| {
            let beside = scope.spawn(|| match what {
                Beside::Nothing => Ok(()),
                Beside::Ahead => self.load.announce_all(self.agent, &stop),
                Beside::Starts | Beside::Warmed => self.load.start_all(&stop),
            });
            neighbours.iter_mut().for_each(Neighbour::go);
            let seen: Result<Vec<Seen>> = neighbours.into_iter().map(Neighbour::seen).collect();
            // What it reads once they have ended it reads alone.
            let read = self.agent.bytes_read().map(|after| {
                let bytes = after - before;
                (bytes, bytes as f64 / began.elapsed().as_secs_f64())
            });
            stop.store(true, Ordering::Relaxed);
            (seen, read, beside.join())
        });
        match went_on {
            Ok(went_on) => went_on?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let (bytes, a_second) = read?;
        let warms = bytes > 16 << 20;
        let as_expected = match what {
            Beside::Nothing | Beside::Starts => !warms,
            // In turns with others, which may be little.
            Beside::Ahead => bytes > 1 << 20,
            Beside::Warmed => warms || self.is_short,
        };
        ensure!(as_expected, "{what:?}: the agent warmed {bytes} bytes");
        Ok((seen?, a_second))
    }
}

fn findings(
    fast: &Rounds<Look>,
    slow: &Rounds<Look>,
    memory: &[(&str, Rounds<Again>)],
    rounds: u32,
) -> Findings {
    let method = format!(
        "Four workloads, each of which reads 256 MiB when it starts, known to an agent with the \
         default configuration, but that it learns each start (`hook_share = 1`). Four things take turns, {rounds} rounds and one before them that \
         is not counted: *nothing*; *ahead*: the agent is told of starts that don't come, and \
         warms for them at once, again as soon as it has; *starts*: they start one after the \
         other, cold, one each second (on the slow disk each {} s), and the agent only observes; *warmed*: they start so and the agent warms \
         beside them. Two neighbours read 4 KiB at random places for {} s: one from the disk \
         (O_DIRECT, 400 times a second), one what it has in memory (256 MiB, 25,600 times a \
         second). Ratios are taken round by round: median (least to greatest).",
        EVERY_SLOW.as_secs(),
        LOOK.as_secs()
    );
    let note = format!(
        "The agent read {:.0} MB/s ahead and {:.0} MB/s beside starts on the disk as it is, {:.0} \
         and {:.0} MB/s on the slow one.",
        warmed(fast, 1),
        warmed(fast, 3),
        warmed(slow, 1),
        warmed(slow, 3),
    );
    Findings::new(&method)
        .table(
            "Latency of a read, µs, on the disk as it is:",
            &latencies(fast),
        )
        .table(
            "The same on a disk throttled, for all of them together, to 100 MB/s and 2,000 reads \
             a second (blkio):",
            &latencies(slow),
        )
        .note(&note)
        .table(
            &format!(
                "What the neighbour with 256 MiB in memory has to read again, MiB in {} s, where \
                 a memory cgroup leaves it little more:",
                LOOK.as_secs()
            ),
            &refaults(memory),
        )
}

/// Median of what the agent read beside something, MB/s.
fn warmed(rounds: &Rounds<Look>, at: usize) -> f64 {
    let rates: Vec<f64> = rounds[at].iter().map(|look| look.warmed / 1e6).collect();
    Spread::of(&rates).unwrap_or(Spread::NONE).median
}

/// A number of a look.
type Of = fn(&Look) -> f64;

fn latencies(rounds: &Rounds<Look>) -> Table {
    let mut table = Table::new([
        "reads",
        "nothing",
        "ahead",
        "ahead ÷ nothing",
        "starts",
        "warmed",
        "warmed ÷ starts",
    ]);
    let rows: [(&str, Of); 4] = [
        ("from the disk, p50", |look| look.direct.p50),
        ("from the disk, p99", |look| look.direct.p99),
        ("from memory, p50", |look| look.cached.p50),
        ("from memory, p99", |look| look.cached.p99),
    ];
    for (name, of) in rows {
        let values = rounds
            .each_ref()
            .map(|looks| looks.iter().map(of).collect::<Vec<f64>>());
        let spread = |at: usize| Spread::of(&values[at]).unwrap_or(Spread::NONE);
        let ratio = |one: usize, other: usize| {
            Spread::of_ratios(&values[one], &values[other]).unwrap_or(Spread::NONE)
        };
        table.row([
            name.to_owned(),
            format!("{:.1}", spread(0)),
            format!("{:.1}", spread(1)),
            format!("{:.3}", ratio(1, 0)),
            format!("{:.1}", spread(2)),
            format!("{:.1}", spread(3)),
            format!("{:.3}", ratio(3, 2)),
        ]);
    }
    table
}

fn refaults(memory: &[(&str, Rounds<Again>)]) -> Table {
    let mut table = Table::new([
        "neighbour with",
        "nothing",
        "ahead",
        "starts",
        "warmed",
        "the agent reads ahead, MB/s",
        "beside starts",
    ]);
    let spread = |looks: &[Again], of: fn(&Again) -> f64| {
        let values: Vec<f64> = looks.iter().map(of).collect();
        Spread::of(&values).unwrap_or(Spread::NONE)
    };
    for (name, rounds) in memory {
        let again = rounds
            .each_ref()
            .map(|looks| format!("{:.1}", spread(looks, |look| look.mib)));
        let warmed = |at: usize| format!("{:.0}", spread(&rounds[at], |look| look.warmed / 1e6));
        table.row(
            [(*name).to_owned()]
                .into_iter()
                .chain(again)
                .chain([warmed(1), warmed(3)]),
        );
    }
    table
}
