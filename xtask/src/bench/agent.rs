//! `cargo xtask bench agent`: containers that start on a node where the agent has seen them
//! start once, and on another.

pub(super) mod host;
pub(super) mod images;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::host::{Host, Last, Node, Store, Took};
use self::images::{Container, IDLE};
use super::Bench;
use super::disk::drop_caches;
use super::publish::Findings;
use super::stats::{Spread, Table};
use super::throttle::{Limits, Throttle};

/// What became of each start is told by what is learned of it.
const LEARNS: &str = "cpu_pressure = 100.0";

/// Bytes that the disk reads a second.
const BANDWIDTH: u64 = 200_000_000;

/// How much earlier than the start it is told of, where it is.
const NOTICE: Duration = Duration::from_secs(2);

/// What the container reads that is bound by bandwidth alone.
const WEIGHTS_BYTES: f64 = 500e6;

/// Ways to start, in the order in which they take turns.
const WAYS: [&str; 5] = ["cold", "hot", "agent", "agent, 2 s before", "second node"];
const COLD: usize = 0;
const HOT: usize = 1;
/// Those with an agent, by [`WAYS`].
const WARMED: [usize; 3] = [2, 3, 4];

/// One container's starts.
struct Measured {
    container: Container,
    /// By [`WAYS`], then round.
    took: [Vec<Took>; WAYS.len()],
    /// By [`WARMED`], then round.
    last: [Vec<Last>; WARMED.len()],
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench, wanted: &[String]) -> Result<String> {
    let agent = bench.agent()?;
    let dir = bench.directory.join("agent");
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let host = Host::new()?;
    let stores = [Store::new(&dir.join("one")), Store::new(&dir.join("two"))];
    let containers = images::prepare(&host, &dir, &stores, wanted)?;
    ensure!(!containers.is_empty(), "there is nothing to measure");
    let limits = Limits {
        bytes: Some(BANDWIDTH),
        requests: None,
    };
    let throttle = Throttle::new(&dir, limits)?;
    let nodes = (
        Node::new(&host, &agent, &dir.join("node-one"), &stores[0], LEARNS)?,
        Node::new(&host, &agent, &dir.join("node-two"), &stores[1], LEARNS)?,
    );
    let scene = Scene {
        host: &host,
        stores: &stores,
        throttle: &throttle,
    };
    let mut all = Vec::new();
    for container in containers {
        eprintln!("{}: {}", container.name, container.what);
        all.push(scene.one(container, &nodes.0, &nodes.1, &dir, bench.rounds)?);
    }
    Ok(findings(&all, bench.rounds).into_markdown())
}

struct Scene<'a> {
    host: &'a Host,
    stores: &'a [Store; 2],
    throttle: &'a Throttle,
}

impl Scene<'_> {
    fn one(
        &self,
        container: Container,
        first: &Node<'_>,
        second: &Node<'_>,
        dir: &Path,
        rounds: u32,
    ) -> Result<Measured> {
        // The first start: cold, and learned.
        let running = first.start(self.throttle)?;
        self.forget(0)?;
        self.start(0, &container)?;
        let key = running.learned(&container.image())?.key;
        drop(running);
        first.keep()?;
        let exported = dir.join("exported").display().to_string();
        first.headstart(&["profile", "export", &key, &exported])?;
        second.headstart(&["profile", "import", &exported, "--as", &key])?;
        second.keep()?;
        let mut measured = Measured {
            container,
            took: Default::default(),
            last: Default::default(),
        };
        // The first round is not counted.
        for round in 0..=rounds {
            for (way, name) in WAYS.into_iter().enumerate() {
                let (took, last) = self
                    .turn(way, &measured.container, &key, first, second)
                    .with_context(|| format!("starting {} ({name})", measured.container.name))?;
                eprintln!("  {name}: {:.3} s, of these {:.3}", took.all, took.command);
                if round == 0 {
                    continue;
                }
                measured.took[way].push(took);
                let at = WARMED.iter().position(|warmed| *warmed == way);
                if let (Some(at), Some(last)) = (at, last) {
                    measured.last[at].push(last);
                }
            }
        }
        Ok(measured)
    }

    fn turn(
        &self,
        way: usize,
        container: &Container,
        key: &str,
        first: &Node<'_>,
        second: &Node<'_>,
    ) -> Result<(Took, Option<Last>)> {
        if way == COLD || way == HOT {
            if way == COLD {
                self.forget(0)?;
            }
            return Ok((self.start(0, container)?, None));
        }
        let is_second = way == 4;
        let (node, store) = if is_second { (second, 1) } else { (first, 0) };
        let running = node.start_as_kept(self.throttle)?;
        self.forget(store)?;
        let is_told = way == 3;
        if is_told {
            node.headstart(&["notify", key])?;
            std::thread::sleep(NOTICE);
        }
        let took = self.start(store, container)?;
        let known = running.learned(&container.image())?;
        let last = known.last.context("a start that is over")?;
        let signal = if is_told { "notify" } else { "bundle" };
        ensure!(last.signal == signal, "it was known by {}", last.signal);
        ensure!(known.key == key, "its key is {}, not {key}", known.key);
        Ok((took, Some(last)))
    }

    /// Nothing is in memory but what a node has there that runs containers.
    fn forget(&self, store: usize) -> Result<()> {
        drop_caches()?;
        self.host.start_nothing(&self.stores[store], IDLE)
    }

    fn start(&self, store: usize, container: &Container) -> Result<Took> {
        self.host
            .start(&self.stores[store], container, self.throttle)
    }
}

fn findings(all: &[Measured], rounds: u32) -> Findings {
    let what: Vec<String> = all
        .iter()
        .map(|m| format!("{} ({})", m.container.name, m.container.what))
        .collect();
    let method = format!(
        "Containers of Podman and runc, from images made of this machine's programs: {}. The disk \
         is throttled to {} MB/s, for containers, runtime and agent together (blkio). The agent \
         sees one cold start of each and learns it; the container is removed. Then come {rounds} \
         rounds and one before them that is not counted. In each the container is made, runs and \
         is removed: without an agent cold (page cache, dentries and inodes dropped) and hot; \
         cold with an agent that knows the first start and takes its cue from what the \
         runtime writes down (the bundle); cold with `headstart notify` 2 s before; and cold on a second node, which \
         has another store and knows the profile by import alone. After caches are dropped a \
         container of `true` is run, so that the runtime is in memory as on a node. Each agent \
         begins with what was known after the first start. Times are in seconds: median (least to \
         greatest). The share of the cold-to-hot gap closed is taken of medians.",
        what.join(", "),
        BANDWIDTH / 1_000_000
    );
    let findings = Findings::new(&method)
        .table(
            "`podman run`, from the request to its end:",
            &times(all, |took| took.all),
        )
        .table(
            "Of these the command alone, from when Podman has it started to its end:",
            &times(all, |took| took.command),
        )
        .table(
            "What became of what was warmed. *In time* is the share of the bytes used that the \
             agent had begun to read before their first use (it is not said whether they had \
             arrived). *Lead* is from the signal to the container's first touch of a \
             file of its own; *read* is what was read beside the start, and what the \
             notification had read before is not in it:",
            &outcomes(all),
        );
    match all.iter().find(|m| m.container.name == "weights") {
        Some(weights) => findings.note(&bound(weights)),
        None => findings,
    }
}

fn spread(took: &[Took], of: fn(&Took) -> f64) -> Spread {
    let seconds: Vec<f64> = took.iter().map(of).collect();
    Spread::of(&seconds).unwrap_or(Spread::NONE)
}

fn times(all: &[Measured], of: fn(&Took) -> f64) -> Table {
    let mut head = vec!["container".to_owned()];
    head.extend(WAYS.map(str::to_owned));
    head.extend(WARMED.map(|way| format!("gap closed: {}", WAYS[way])));
    let mut table = Table::new(head);
    for measured in all {
        let spreads = measured.took.each_ref().map(|took| spread(took, of));
        let gap = spreads[COLD].median - spreads[HOT].median;
        let mut row = vec![measured.container.name.to_owned()];
        row.extend(spreads.iter().map(|spread| format!("{spread:.3}")));
        row.extend(WARMED.map(|way| {
            let closed = (spreads[COLD].median - spreads[way].median) / gap;
            format!("{:.1} %", closed * 100.0)
        }));
        table.row(row);
    }
    table
}

fn outcomes(all: &[Measured]) -> Table {
    let mut table = Table::new([
        "container",
        "way",
        "in time",
        "lead, s",
        "used, MiB",
        "late, MiB",
        "not predicted, MiB",
        "not begun, MiB",
        "read, MiB",
        "wasted, MiB",
    ]);
    for measured in all {
        for (way, last) in WARMED.into_iter().zip(&measured.last) {
            let of = |value: &dyn Fn(&Last) -> f64| {
                let values: Vec<f64> = last.iter().map(value).collect();
                Spread::of(&values).unwrap_or(Spread::NONE)
            };
            let mebibytes = |value: fn(&Last) -> u64| {
                format!("{:.1}", of(&|last| value(last) as f64 / 1048576.0).median)
            };
            let in_time = of(&|last| {
                let all = last.used + last.late + last.missed;
                100.0 * last.used as f64 / all as f64
            });
            let lead = of(&|last| last.lead_seconds.unwrap_or(f64::NAN));
            table.row([
                measured.container.name.to_owned(),
                WAYS[way].to_owned(),
                format!("{in_time:.1} %"),
                format!("{lead:.3}"),
                mebibytes(|last| last.used),
                mebibytes(|last| last.late),
                mebibytes(|last| last.missed),
                mebibytes(|last| last.unknown),
                mebibytes(|last| last.read),
                mebibytes(|last| last.wasted),
            ]);
        }
    }
    table
}

fn bound(weights: &Measured) -> String {
    let bound = WEIGHTS_BYTES / BANDWIDTH as f64;
    let cold = spread(&weights.took[COLD], |took| took.command).median / bound;
    // With an agent the disk is busy from its signal on.
    let since_signal = |at: usize| {
        let ended = weights.took[WARMED[at]].iter().map(|took| took.ended);
        let starts = ended.zip(&weights.last[at]);
        let seconds: Vec<f64> = starts
            .map(|(ended, last)| (ended - last.began_ms as f64 / 1e3) / bound)
            .collect();
        Spread::of(&seconds).unwrap_or(Spread::NONE)
    };
    format!(
        "The weights are {:.0} MB, and the disk needs {bound:.2} s for these: that is the bound \
         for what is not told of earlier. Cold the command takes {cold:.2} times the bound. With \
         an agent, from its signal (the bundle) to the command's end, it is {:.2} of the bound; \
         on the second node {:.2}. (The throttle lets a burst of up to 100 ms through first, and \
         the agent's clock of a start is one of milliseconds.)",
        WEIGHTS_BYTES / 1e6,
        since_signal(0),
        since_signal(2),
    )
}
