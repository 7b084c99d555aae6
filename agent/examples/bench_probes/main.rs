//! What the probes cost reads that are cached: `cargo xtask bench probes`.
//!
//! Arguments: a directory for a file to read, and the number of rounds.

mod contestant;
mod empty;
mod hooks;
mod reading;

use std::path::PathBuf;

use anyhow::Context;
use xtask::bench::publish::Findings;
use xtask::bench::stats::{Spread, Table};

use contestant::Contestant;
use reading::{BLOCK, BYTES, READ, Reading, SLICE, TURN};

/// Numbers of readers.
const JOBS: [usize; 2] = [1, 2];

fn method(rounds: usize, not_here: &[String]) -> String {
    let not_here = match not_here {
        [] => String::new(),
        some => format!(" Not on this kernel: {}.", some.join("; ")),
    };
    format!(
        "Cached reads of {BLOCK} bytes in random order (pread), each job in a file of {} KiB of \
         its own, in a cgroup that holds the jobs and nothing else. In each of {rounds} rounds \
         every contestant is attached and detached once, and who begins changes from round to \
         round; one round before them is not counted. A turn is {} ms of slices of {SLICE} reads, \
         and the fastest slice counts, which nothing interrupted: the cost, without the noise of \
         what else runs (of two jobs the mean of both). Differences and ratios are taken round by \
         round. All numbers: median (and the middle half of the rounds).{not_here}",
        BYTES >> 10,
        TURN.as_millis(),
    )
}

fn main() -> anyhow::Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|arg| arg == READ) {
        return reading::read(&args[1..]);
    }
    let mut args = args.into_iter();
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args
        .next()
        .map_or(Ok(20), |a| a.to_string_lossy().parse())?;
    let reading = Reading::prepare(&directory, JOBS.into_iter().max().unwrap_or(1))?;

    let (contestants, not_here) = Contestant::here()?;
    let mut findings = Findings::new(&method(rounds, &not_here));
    for jobs in JOBS {
        eprintln!("{jobs} jobs");
        let costs = measure(&contestants, &reading, jobs, rounds)?;
        let caption = match jobs {
            1 => "One job:".to_owned(),
            more => format!("{more} jobs:"),
        };
        findings = findings.table(&caption, &table(&contestants, &costs));
    }
    print!("{}", hooks::add(findings, &reading)?.into_markdown());
    Ok(())
}

/// ns a read, by contestant and round.
fn measure(
    contestants: &[Contestant],
    reading: &Reading,
    jobs: usize,
    rounds: usize,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut costs = vec![Vec::new(); contestants.len()];
    for round in 0..=rounds {
        for turn in 0..contestants.len() {
            let which = (turn + round) % contestants.len();
            let ns = contestants[which].cost(reading, jobs)?;
            if round > 0 {
                costs[which].push(ns);
            }
        }
    }
    Ok(costs)
}

/// Of the middle half: rounds that something else disturbed are no part of it.
fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    Spread::of(&sorted[quarter..sorted.len() - quarter]).unwrap_or(Spread::NONE)
}

fn table(contestants: &[Contestant], costs: &[Vec<f64>]) -> Table {
    let of = |which: Contestant| {
        let at = contestants.iter().position(|c| *c == which);
        at.map_or(&[][..], |at| &costs[at]).iter().copied()
    };
    let less = |which, other| of(which).zip(of(other)).map(|(a, b)| a - b);
    let mut table = Table::new([
        "attached",
        "ns a read",
        "− off, ns",
        "− empty, ns",
        "cost ÷ bpftrace's",
    ]);
    for &which in contestants {
        let cost = less(which, Contestant::Off);
        let counting = less(Contestant::Bpftrace, Contestant::Off);
        table.row([
            which.name().to_owned(),
            format!("{:.0}", spread(of(which))),
            format!("{:.1}", spread(less(which, Contestant::Off))),
            format!("{:.1}", spread(less(which, Contestant::Empty))),
            format!("{:.2}", spread(cost.zip(counting).map(|(a, b)| a / b))),
        ]);
    }
    table
}
