//! Records a command in memory and measures its starts: for trying things out.
//! `cargo run --release --example lab -- RUNS ROUNDS CMD…`
use headstart::model::{Profile, RunInfo};
use headstart::profile::{from_trace, merge};
use headstart::run::{Output, RING_BYTES, Recorder, WAYS, Warmup, start};

fn main() -> anyhow::Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let number = |i: usize| args[i].to_string_lossy().parse::<u64>();
    let (runs, rounds) = (number(0)?, number(1)?);
    let command = &args[2..];
    let mut profile = Profile::default();
    {
        let mut recorder = Recorder::new(RING_BYTES)?;
        for run in 0..runs {
            if std::env::var_os("COLD").is_some() {
                headstart::run::drop_caches()?;
            }
            let exact = std::env::var_os("EXACT").is_some();
            let (recording, _child) = match exact {
                true => recorder.record_exact(command, Output::Null, None)?,
                false => recorder.record(command, Output::Null, None)?,
            };
            println!(
                "recorded {:.4} s, {:?}, {:?}",
                recording.seconds, recording.ended, recording.traced
            );
            let info = RunInfo {
                started_ms: run,
                id: run,
                duration_ns: recording.trace.duration_ns,
                exact,
                blind_ns: 0,
            };
            profile = merge(&profile, &from_trace(&recording.trace, info));
        }
    }
    let mut cost = headstart::model::DeviceCost::UNMEASURED;
    if let Ok(path) = std::env::var("MEASURE") {
        cost = headstart::warm::measure(std::path::Path::new(&path))?;
        println!("{cost:?}");
    }
    let maybe = std::env::var_os("NO_MAYBE").is_none();
    let warmup = Warmup {
        cost,
        maybe,
        ..Warmup::default()
    };
    for timing in [
        headstart::plan::Timing::Ahead,
        headstart::plan::Timing::Beside,
    ] {
        let plan = warmup.plan(&profile, timing);
        println!(
            "{timing:?} {} actions {:?}",
            plan.actions.len(),
            plan.totals
        );
    }
    let mut times = std::collections::BTreeMap::<String, Vec<f64>>::new();
    for _ in 0..rounds {
        for way in WAYS {
            let start = start(way, command, &profile, &warmup)?;
            times
                .entry(format!("{way:?}"))
                .or_default()
                .push(start.seconds);
            if let (Some(report), Some(s)) = (&start.warm, start.warm_seconds) {
                println!(
                    "{way:?} {:.4} warm done {s:.4} read {} failed {} names {}/{} failures {:?}",
                    start.seconds,
                    report.data.read,
                    report.data.failed,
                    report.names_warmed,
                    report.names_planned,
                    report.failures.first()
                );
            }
        }
    }
    let mut median = std::collections::BTreeMap::new();
    for (way, mut list) in times {
        list.sort_by(f64::total_cmp);
        println!(
            "{way:10} median {:.4} min {:.4} max {:.4}",
            list[list.len() / 2],
            list[0],
            list[list.len() - 1]
        );
        median.insert(way, list[list.len() / 2]);
    }
    let gap = median["Cold"] - median["Hot"];
    println!(
        "gap closed: zero lead {:.1} %, lead {:.1} %, warmed/hot {:.3}",
        (median["Cold"] - median["ZeroLead"]) / gap * 100.0,
        (median["Cold"] - median["Warmed"]) / gap * 100.0,
        median["Warmed"] / median["Hot"]
    );
    Ok(())
}
