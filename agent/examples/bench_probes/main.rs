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
use reading::Reading;

/// Numbers of readers.
const JOBS: [usize; 2] = [1, 2];

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let directory = PathBuf::from(args.next().context("which directory?")?);
    let rounds: usize = args.next().map_or(Ok(9), |a| a.to_string_lossy().parse())?;
    let reading = Reading::prepare(&directory)?;

    let mut findings = Findings::new(&format!(
        "Cached reads of 4 KiB in random order by fio (psync), one job and two, one second each, in \
         a cgroup of their own. In each of {rounds} rounds every contestant is attached and detached \
         once, and who begins changes from round to round; one round before them is not counted. \
         ns are a job's time for one read; differences and ratios are taken round by round: median \
         (least to greatest)."
    ));
    for jobs in JOBS {
        eprintln!("{jobs} jobs");
        let costs = measure(&reading, jobs, rounds)?;
        let caption = match jobs {
            1 => "One job:".to_owned(),
            more => format!("{more} jobs:"),
        };
        findings = findings.table(&caption, &table(&costs));
    }
    print!("{}", hooks::add(findings, &reading)?.into_markdown());
    Ok(())
}

/// ns a read, by contestant and round.
fn measure(reading: &Reading, jobs: usize, rounds: usize) -> anyhow::Result<Vec<Vec<f64>>> {
    let contestants = Contestant::ALL;
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

fn table(costs: &[Vec<f64>]) -> Table {
    let of = |which: Contestant| &costs[which as usize];
    let differences = |one: &[f64], other: &[f64]| -> Spread {
        let values: Vec<f64> = one.iter().zip(other).map(|(a, b)| a - b).collect();
        Spread::of(&values).unwrap_or(Spread::NONE)
    };
    let (off, empty) = (of(Contestant::Off), of(Contestant::Empty));
    let counting: Vec<f64> = costs[Contestant::Bpftrace as usize]
        .iter()
        .zip(off)
        .map(|(a, b)| a - b)
        .collect();
    let mut table = Table::new([
        "attached",
        "ns a read",
        "− off, ns",
        "− empty, ns",
        "cost ÷ bpftrace's",
    ]);
    for which in Contestant::ALL {
        let own = of(which);
        let cost: Vec<f64> = own.iter().zip(off).map(|(a, b)| a - b).collect();
        table.row([
            which.name().to_owned(),
            format!("{:.0}", Spread::of(own).unwrap_or(Spread::NONE)),
            format!("{:.0}", differences(own, off)),
            format!("{:.0}", differences(own, empty)),
            format!(
                "{:.2}",
                Spread::of_ratios(&cost, &counting).unwrap_or(Spread::NONE)
            ),
        ]);
    }
    table
}
