//! `cargo xtask bench burst`: 200 containers of 20 images that start at once.

mod scene;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use self::scene::{EACH, IMAGES, Scene};
use super::Bench;
use super::agent::host::{Host, Node, Running, Store};
use super::disk::drop_caches;
use super::publish::Findings;
use super::stats::{Spread, Table};
use super::throttle::{Limits, Throttle};

/// Disks: what each gives, and what it is called.
const DISKS: [(Limits, &str); 2] = [
    (
        Limits {
            bytes: Some(200_000_000),
            requests: None,
        },
        "200 MB/s",
    ),
    // https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
    // For each processor what one of eight has of it.
    (
        Limits {
            bytes: Some(31_000_000),
            requests: Some(750),
        },
        "31 MB/s and 750 reads a second: for two processors what they have of a gp3 volume of \
         EBS (125 MB/s, 3,000 reads a second) on a node of eight",
    ),
];

/// Ways to start, in the order in which they take turns.
const WAYS: [&str; 3] = ["cold", "hot", "agent"];
const COLD: usize = 0;
const HOT: usize = 1;
const AGENT: usize = 2;

/// What is used of what `status --json` says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    learning: u64,
    warming: u64,
    totals: Totals,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Totals {
    starts: BTreeMap<String, u64>,
    starts_not_learned: BTreeMap<String, u64>,
    runs_learned: u64,
    records_lost: u64,
    warmed_bytes: BTreeMap<String, u64>,
    outcome_bytes: BTreeMap<String, u64>,
    throttled: BTreeMap<String, u64>,
    stages: Vec<Stage>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Stage {
    name: String,
    out: u64,
    filtered: BTreeMap<String, u64>,
}

/// A burst.
struct Measured {
    /// Seconds until the last container ended.
    last: f64,
    /// Seconds until half of them had.
    median: f64,
    /// Bytes that were read from the disk.
    read: u64,
}

/// Measures; the result as Markdown.
pub(super) fn measure(bench: &Bench) -> Result<String> {
    let agent = bench.agent()?;
    let dir = bench.directory.join("burst");
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let host = Host::new()?;
    let scene = Scene::new(&host, &dir)?;
    let node = Node::new(&host, &agent, &dir.join("node"), &Store::new(&dir), "")?;
    let throttle = Throttle::new(&dir, DISKS[0].0)?;
    let once = learn(&scene, &node, &throttle)?;
    drop(throttle);
    let mut seen = Vec::new();
    for (limits, _) in DISKS {
        let throttle = Throttle::new(&dir, limits)?;
        seen.push(bursts(bench.rounds, &scene, &node, &throttle)?);
    }
    Ok(findings(&scene, &seen, &once).into_markdown())
}

/// What was seen on a disk.
#[derive(Default)]
struct Bursts {
    all: [Vec<Measured>; WAYS.len()],
    told: Vec<Totals>,
}

fn bursts(rounds: u32, scene: &Scene<'_>, node: &Node<'_>, throttle: &Throttle) -> Result<Bursts> {
    let mut seen = Bursts::default();
    // The first round is not counted.
    for round in 0..=rounds {
        for (way, name) in WAYS.into_iter().enumerate() {
            let running = match way {
                AGENT => Some(node.start_as_kept(throttle)?),
                _ => None,
            };
            let measured = one(scene, way, throttle).with_context(|| format!("a {name} burst"))?;
            let (last, median) = (measured.last, measured.median);
            let read = megabytes(measured.read);
            eprintln!(
                "{name}: the last after {last:.2} s, half after {median:.2} s; {read:.0} MB read"
            );
            let totals = running.map(|running| settled(node, &running)).transpose()?;
            if round > 0 {
                seen.all[way].push(measured);
                seen.told.extend(totals);
            }
        }
    }
    Ok(seen)
}

/// Has each image started once, cold, and learned: bytes that each read from the disk.
fn learn(scene: &Scene<'_>, node: &Node<'_>, throttle: &Throttle) -> Result<Vec<u64>> {
    let running = node.start(throttle)?;
    let mut once = Vec::new();
    for (container, image) in scene.images.iter().enumerate() {
        drop_caches()?;
        scene.start_nothing()?;
        let before = throttle.bytes_read()?;
        scene.start(container, Some(throttle))?;
        once.push(throttle.bytes_read()? - before);
        running.learned(image)?;
        scene.clean()?;
    }
    drop(running);
    node.keep()?;
    Ok(once)
}

fn one(scene: &Scene<'_>, way: usize, throttle: &Throttle) -> Result<Measured> {
    if way != HOT {
        drop_caches()?;
        scene.start_nothing()?;
    }
    let before = throttle.bytes_read()?;
    let ended = scene.burst(throttle)?;
    let read = throttle.bytes_read()? - before;
    scene.clean()?;
    let spread = Spread::of(&ended).unwrap_or(Spread::NONE);
    Ok(Measured {
        last: spread.max,
        median: spread.median,
        read,
    })
}

/// What the agent tells once all starts are over.
fn settled(node: &Node<'_>, running: &Running<'_>) -> Result<Totals> {
    running.until("all starts are over", || {
        let status: Status = node.json(&["status"])?;
        let noticed = status.totals.starts.get("cgroup").copied()?;
        let not_learned: u64 = status.totals.starts_not_learned.values().sum();
        let is_over = status.learning == 0 && status.warming == 0;
        let told = status.totals.runs_learned + not_learned;
        let all = (IMAGES * EACH) as u64;
        (is_over && noticed >= all && told >= all).then_some(status.totals)
    })
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn findings(scene: &Scene<'_>, seen: &[Bursts], once: &[u64]) -> Findings {
    let rounds = seen.first().map_or(0, |bursts| bursts.all[COLD].len());
    let once: f64 = megabytes(once.iter().sum());
    let method = format!(
        "{} containers, {EACH} of each of {IMAGES} images, are started at once, each by mounting \
         its overlay filesystem and `runc run`, in cgroups and a storage as Podman makes them. \
         An image is a layer with a copy of {} of its own (as in `bench agent`: imports, a small \
         jar, all of node's modules) over one with the libraries of all. The disk is throttled, \
         for containers, runtime and agent together (blkio). Each image was started once, \
         cold, with an agent that learned it; together they read {once:.0} MB so, one after \
         another. Then come {rounds} rounds on each disk and one before them that \
         is not counted: cold (page cache, dentries and inodes dropped), hot, and cold with an \
         agent that begins with what was known after those first starts and takes its cue from \
         the containers' cgroups alone. After caches are dropped a container of `true` is run, so \
         that the runtime is in memory as on a node. Seconds from the first request: median (least \
         to greatest) of the rounds.",
        IMAGES * EACH,
        scene.kinds.join(", "),
    );
    DISKS
        .iter()
        .zip(seen)
        .fold(Findings::new(&method), |findings, ((_, disk), bursts)| {
            let ratio = |of: fn(&Measured) -> f64| {
                let values = |way: usize| bursts.all[way].iter().map(of).collect::<Vec<f64>>();
                Spread::of_ratios(&values(AGENT), &values(COLD)).unwrap_or(Spread::NONE)
            };
            let note = format!(
                "With the agent the last container ends after {:.2} of the time without it, and \
                 half have ended after {:.2}, round by round.",
                ratio(|m| m.last),
                ratio(|m| m.median),
            );
            findings
                .table(&format!("{disk}:"), &times(&bursts.all, once))
                .note(&note)
                .table(
                    "What the agent tells of a burst, of the rounds:",
                    &outcomes(&bursts.told),
                )
        })
}

fn times(all: &[Vec<Measured>; WAYS.len()], once: f64) -> Table {
    let mut table = Table::new([
        "burst",
        "the last has ended",
        "half have ended",
        "read from the disk, MB",
        "of one cold start of each image",
    ]);
    for (name, measured) in WAYS.iter().zip(all) {
        let spread = |of: fn(&Measured) -> f64| {
            let values: Vec<f64> = measured.iter().map(of).collect();
            Spread::of(&values).unwrap_or(Spread::NONE)
        };
        let read = spread(|m| megabytes(m.read));
        table.row([
            (*name).to_owned(),
            format!("{:.2}", spread(|m| m.last)),
            format!("{:.2}", spread(|m| m.median)),
            format!("{read:.0}"),
            format!("{:.0} %", 100.0 * read.median / once),
        ]);
    }
    table
}

fn outcomes(told: &[Totals]) -> Table {
    let mut table = Table::new(["", "median (least to greatest)"]);
    let mut row = |what: &str, of: &dyn Fn(&Totals) -> f64| {
        let values: Vec<f64> = told.iter().map(of).collect();
        let spread = Spread::of(&values).unwrap_or(Spread::NONE);
        table.row([what.to_owned(), format!("{spread:.0}")]);
    };
    let plans = |totals: &Totals| {
        let plans = totals.stages.iter().find(|stage| stage.name == "plans");
        plans.cloned().unwrap_or_default()
    };
    let of = |counts: &BTreeMap<String, u64>, what: &str| counts.get(what).copied().unwrap_or(0);
    row("plans carried out", &|t| plans(t).out as f64);
    row("starts that shared one", &|t| {
        of(&plans(t).filtered, "joined") as f64
    });
    row("starts whose turn came too late", &|t| {
        let filtered = plans(t).filtered;
        (of(&filtered, "too_late") + of(&filtered, "gone")) as f64
    });
    row("plans held back", &|t| {
        t.throttled.values().sum::<u64>() as f64
    });
    for (what, result) in [("read, MB", "read"), ("there already, MB", "resident")] {
        row(what, &|t| megabytes(of(&t.warmed_bytes, result)));
    }
    for (what, outcome) in [
        ("planned for each start and used, MB", "used"),
        ("late, MB", "late"),
        ("wasted, MB", "wasted"),
        ("unknown, MB", "unknown"),
    ] {
        row(what, &|t| megabytes(of(&t.outcome_bytes, outcome)));
    }
    row("runs learned", &|t| t.runs_learned as f64);
    row("records lost", &|t| t.records_lost as f64);
    table
}
