//! How fast a plan is carried out, against vmtouch and fio on the same file:
//! `cargo xtask bench warm-rate`.
//!
//! Arguments: a directory for the file, and the number of rounds.

mod memory;
mod rivals;
mod warming;

use std::path::PathBuf;

use anyhow::Context;
use headstart::model::PAGE_SIZE;
use headstart::run::drop_caches;
use headstart::warm::Lead;
use xtask::bench::fio::fio;
use xtask::bench::publish::Findings;
use xtask::bench::stats::{Spread, Table};

use rivals::{RANDOM, Rival, SEQUENTIAL};
use warming::Warming;

/// Size of the file, MiB.
const MEBIBYTES: u64 = 2048;
/// Pages of a scattered extent: 16 KiB.
const EXTENT_PAGES: u64 = 4;
/// Number of scattered extents.
const EXTENTS: usize = 100_000;

/// Where orders begin.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// Each extent by itself.
const AS_IS: &str = "headstart, each extent by itself";

/// Somebody who brings bytes in.
struct Contestant<'a> {
    name: String,
    /// One of several of the same kind, of which the best counts.
    is_fio: bool,
    /// Bytes a second, once.
    run: Box<dyn Fn() -> anyhow::Result<f64> + 'a>,
    rates: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args.next().map_or(Ok(7), |a| a.parse())?;
    std::fs::create_dir_all(&directory)?;
    let file = directory.canonicalize()?.join("warm-rate");
    let bytes = MEBIBYTES << 20;
    if std::fs::metadata(&file).map_or(0, |m| m.len()) != bytes {
        let size = format!("--size={bytes}");
        let write = ["--rw=write", "--bs=1m", "--end_fsync=1", "--refill_buffers"];
        fio(&file, &[&write[..], &[&size]].concat())?;
    }
    let warming = Warming::on(&file)?;

    let whole = warming.plan(&[(0, bytes / PAGE_SIZE)]);
    let mut contestants = ours(&warming, &whole, bytes);
    contestants.push(Contestant {
        name: "vmtouch -t".into(),
        is_fio: false,
        run: Box::new(|| rivals::vmtouch(&file, bytes)),
        rates: Vec::new(),
    });
    contestants.extend(SEQUENTIAL.iter().map(|rival| theirs(rival, &file, bytes)));
    let large = race(&mut contestants, rounds, Unit::MEBIBYTE, Memory::InUse)?;
    let given = race(&mut contestants, rounds, Unit::MEBIBYTE, Memory::AsItIs)?;

    let extents = scattered();
    let (planned, as_is) = (warming.plan(&extents), warming.as_is(&extents));
    let read = EXTENTS as u64 * EXTENT_PAGES * PAGE_SIZE;
    let mut contestants = ours(&warming, &planned, read);
    contestants.push(one(&warming, &as_is, read, AS_IS, Lead::Ahead, true));
    contestants.extend(RANDOM.iter().map(|rival| theirs(rival, &file, read)));
    let small = race(&mut contestants, rounds, Unit::EXTENT, Memory::InUse)?;

    let cost = warming.cost();
    let findings = Findings::new(&format!(
        "Each contestant brings the same bytes in, in turn, in each of {rounds} rounds after one \
         that is not counted, in another order each time; caches are dropped before each, and \
         memory for all of the file is taken, written to and given back, so that a host that \
         takes free memory back from its guests has given it again before the clock runs. \
         `headstart warm` verifies at the end (mincore), which its time includes; fio reads past \
         the page cache where it says direct. Rates: median (least to greatest); ratios are taken \
         round by round. The disk was measured as {:.0} MB/s, {:.0} reads a second, {:.0} µs for one alone.",
        cost.bytes_per_s / 1e6,
        1e9 / cost.read_ns,
        cost.latency_ns / 1e3
    ))
    .table(
        &format!("One file of {MEBIBYTES} MiB, from its beginning to its end:"),
        &large,
    )
    .table(
        "The same with memory as the host left it. `headstart warm` touches each page of the \
         blocks that it reads, so that it waits for the host and what starts need not; reads \
         past the page cache fill the same few pages again and again:",
        &given,
    )
    .table(
        &format!("{EXTENTS} scattered extents of 16 KiB, in random order:"),
        &small,
    );
    print!("{}", findings.into_markdown());
    Ok(())
}

/// The first is what `headstart warm` does, for `wanted` bytes.
fn ours<'a>(warming: &'a Warming, plan: &'a warming::Shared, wanted: u64) -> Vec<Contestant<'a>> {
    let ours = [
        ("headstart warm", Lead::Ahead, true),
        ("headstart, not verified", Lead::Ahead, false),
        ("headstart beside a start", Lead::Beside, false),
    ];
    let contestant = |(name, lead, verify)| one(warming, plan, wanted, name, lead, verify);
    ours.map(contestant).into()
}

fn one<'a>(
    warming: &'a Warming,
    plan: &'a warming::Shared,
    wanted: u64,
    name: &str,
    lead: Lead,
    verify: bool,
) -> Contestant<'a> {
    Contestant {
        name: name.to_owned(),
        is_fio: false,
        run: Box::new(move || Ok(wanted as f64 / warming.seconds(plan, lead, verify)?)),
        rates: Vec::new(),
    }
}

fn theirs<'a>(rival: &'a Rival, file: &'a std::path::Path, bytes: u64) -> Contestant<'a> {
    Contestant {
        name: rival.name.to_owned(),
        is_fio: true,
        run: Box::new(move || rival.rate(file, MEBIBYTES << 20, bytes)),
        rates: Vec::new(),
    }
}

/// What is counted a second.
#[derive(Clone, Copy)]
struct Unit {
    bytes: u64,
    name: &'static str,
}

impl Unit {
    const MEBIBYTE: Self = Self {
        bytes: 1 << 20,
        name: "MiB/s",
    };
    const EXTENT: Self = Self {
        bytes: EXTENT_PAGES * PAGE_SIZE,
        name: "extents/s",
    };
}

/// In what state contestants find the memory that they fill.
#[derive(Clone, Copy, PartialEq)]
enum Memory {
    AsItIs,
    /// It has just been written to.
    InUse,
}

/// Rounds of all, and a table of them.
fn race(
    contestants: &mut [Contestant<'_>],
    rounds: usize,
    unit: Unit,
    memory: Memory,
) -> anyhow::Result<Table> {
    for contestant in contestants.iter_mut() {
        contestant.rates.clear();
    }
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    let mut state = SEED;
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        // In another order each time: what a disk gives depends on what came just before.
        shuffle(&mut order, &mut state);
        for &at in &order {
            let contestant = &mut contestants[at];
            drop_caches()?;
            if memory == Memory::InUse {
                memory::touch(MEBIBYTES << 20)?;
            }
            let rate = (contestant.run)().with_context(|| contestant.name.clone())?;
            if round > 0 {
                contestant.rates.push(rate / unit.bytes as f64);
            }
        }
    }
    let mut table = Table::new(["", unit.name, "headstart warm ÷ this"]);
    let mut row = |name: &str, rates: &[f64]| {
        let ratio = Spread::of_ratios(&contestants[0].rates, rates);
        table.row([
            name.to_owned(),
            format!("{:.0}", Spread::of(rates).unwrap_or(Spread::NONE)),
            format!("{:.2}", ratio.unwrap_or(Spread::NONE)),
        ]);
    };
    for contestant in contestants.iter() {
        row(&contestant.name, &contestant.rates);
    }
    let best = |round: usize| {
        let rivals = contestants.iter().filter(|c| c.is_fio);
        rivals.map(|c| c.rates[round]).fold(0.0, f64::max)
    };
    row(
        "fio's best of each round",
        &(0..rounds).map(best).collect::<Vec<_>>(),
    );
    Ok(table)
}

/// Extents all over the file, in random order, none of them twice.
fn scattered() -> Vec<(u64, u64)> {
    let slots = (MEBIBYTES << 20) / PAGE_SIZE / EXTENT_PAGES;
    let mut extents: Vec<(u64, u64)> = (0..slots)
        .map(|slot| (slot * EXTENT_PAGES, EXTENT_PAGES))
        .collect();
    shuffle(&mut extents, &mut { SEED });
    extents.truncate(EXTENTS);
    extents
}

/// An order of its own for each state (Marsaglia's xorshift, Fisher and Yates' shuffle).
fn shuffle<T>(items: &mut [T], state: &mut u64) {
    for at in (1..items.len()).rev() {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        items.swap(at, (*state % (at as u64 + 1)) as usize);
    }
}
