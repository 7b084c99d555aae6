//! What each hook costs while a program's start is learned, as the kernel
//! counts it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use anyhow::ensure;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use headstart::probe::HOOKS;
use headstart::run::{Output, RING_BYTES, Recorder};
use xtask::bench::programs;
use xtask::bench::publish::Findings;
use xtask::bench::stats::Table;

use crate::reading::Reading;

/// The kernel keeps this much of a program's name.
const NAME: usize = 15;

/// Adds a table for a compiler's start, and one for cached reads.
pub(crate) fn add(findings: Findings, reading: &Reading) -> anyhow::Result<Findings> {
    // Counting stops when this is closed.
    let _counting = enable_stats(Stats::RunTime)?;
    let directory = std::env::temp_dir().join(format!("bench-probes-{}", std::process::id()));
    let rustc = programs::prepare(&directory, &["rustc".to_owned()])?;
    let mut findings = findings;
    if let Some(rustc) = rustc.first() {
        findings = findings.table(
            "By hook, while a hot start of rustc is learned; the kernel's own count \
             (`BPF_ENABLE_STATS`), the price of counting included:",
            &table(|| Ok(rustc.command.clone()))?,
        );
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(findings.table(
        "By hook, while one job's cached reads are learned for a second:",
        &table(|| reading.command(Duration::from_secs(1)))?,
    ))
}

/// Of a command, made anew for each run: it may tell when to end.
fn table(command: impl Fn() -> anyhow::Result<Vec<OsString>>) -> anyhow::Result<Table> {
    let others = ids()?;
    let mut recorder = Recorder::new(RING_BYTES)?;
    // Hot, and past the first call of everything.
    recorder.record(&command()?, Output::Null, None)?;
    let before = counts(&others)?;
    let (recording, _) = recorder.record(&command()?, Output::Null, None)?;
    let after = counts(&others)?;
    let mut table = Table::new([
        "hook",
        "calls",
        "ns a call",
        "ms in all",
        "share of the run",
    ]);
    for hook in HOOKS {
        // Where it is attached, its program may be another one than on other kernels.
        let programs: Vec<&str> = hook
            .places
            .iter()
            .flat_map(|place| [Some(place.program), place.beside.map(|b| b.0)])
            .flatten()
            .map(|program| &program[..program.len().min(NAME)])
            .collect();
        let of = |counts: &[Count]| {
            let ours = counts.iter().filter(|c| programs.contains(&&c.name[..]));
            ours.fold((0, 0), |sum, c| (sum.0 + c.calls, sum.1 + c.ns))
        };
        let (calls, ns) = (of(&after).0 - of(&before).0, of(&after).1 - of(&before).1);
        table.row([
            hook.program.to_owned(),
            calls.to_string(),
            format!("{:.0}", ns as f64 / calls.max(1) as f64),
            format!("{:.2}", ns as f64 / 1e6),
            format!("{:.2} %", ns as f64 / 1e7 / recording.seconds),
        ]);
    }
    ensure!(!before.is_empty(), "the kernel shows none of our programs");
    Ok(table)
}

struct Count {
    name: String,
    calls: u64,
    ns: u64,
}

/// Of programs other than `others`: ours.
fn counts(others: &BTreeSet<u32>) -> anyhow::Result<Vec<Count>> {
    let mut counts = Vec::new();
    for info in loaded_programs() {
        let info = info?;
        if !others.contains(&info.id()) {
            counts.push(Count {
                name: info.name_as_str().unwrap_or_default().to_owned(),
                calls: info.run_count(),
                ns: info.run_time().as_nanos() as u64,
            });
        }
    }
    Ok(counts)
}

fn ids() -> anyhow::Result<BTreeSet<u32>> {
    loaded_programs()
        .map(|info| Ok(info?.id()))
        .collect::<anyhow::Result<_>>()
}
