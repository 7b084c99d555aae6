//! `headstart compare`: cold, run, warmed and hot starts of a command.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::args::{CompareArgs, Exact, Global};
use super::chart::{self, Bar};
use super::{common, context, format, profile};
use crate::model::{Action, Profile, escape};
use crate::plan::Timing;
use crate::profile::Access;
use crate::run::{CompareError, Output, Recorder, Start, WAYS, Warmup, Way, in_order, start};

/// Of a cold start, what a hot one is quicker by at least where there is anything to gain.
const LEAST_GAP: f64 = 0.02;

/// The starts of one way.
struct Series {
    way: Way,
    seconds: Vec<f64>,
}

pub(super) fn run(global: &Global, args: &CompareArgs) -> anyhow::Result<ExitCode> {
    // Before all the work of which it is to show what came of it.
    let svg = args.svg.as_deref().map(Picture::open).transpose()?;
    let (profile, cost) = profile_and_cost(global, args)?;
    let warmup = Warmup {
        maybe: !args.no_maybe,
        ..common::warmup(&context::config(global)?, cost)
    };
    let mut series: Vec<Series> = WAYS
        .iter()
        .map(|&way| Series {
            way,
            seconds: Vec::new(),
        })
        .collect();
    let mut last: Vec<Start> = Vec::new();
    let bar = rounds_bar(global, args.rounds);
    for round in 0..=args.rounds {
        last.clear();
        for way in in_order(round) {
            let start = start(way, &args.command, &profile, &warmup)?;
            // The first round settles what is paid once: not counted.
            let series = series.iter_mut().find(|series| series.way == way);
            if let Some(series) = series.filter(|_| round > 0) {
                series.seconds.push(start.seconds);
            }
            last.push(start);
        }
        bar.set_position(u64::from(round));
    }
    bar.finish_and_clear();
    if let Some(start) = last.iter().find(|start| !start.ended.success()) {
        format::tell(format!(
            "note: the command ended with status {}\n",
            start.ended.status()
        ));
    }
    report(global, args, &profile, &warmup, &series, &last, svg)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the picture goes.
struct Picture<'a> {
    path: &'a Path,
    file: File,
    /// It was not there before, and there is nothing in it yet.
    is_new: bool,
}

impl<'a> Picture<'a> {
    fn open(path: &'a Path) -> anyhow::Result<Self> {
        let mut options = File::options();
        options.write(true);
        let (opened, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (options.open(path), false),
            made => (made, true),
        };
        let file = opened.with_context(|| format!("writing {}", format::path(path)))?;
        Ok(Self { path, file, is_new })
    }

    fn write(mut self, picture: &str) -> anyhow::Result<()> {
        // What is no file, a pipe say, has no length.
        let is_file = self.file.metadata().is_ok_and(|meta| meta.is_file());
        let emptied = match is_file {
            true => self.file.set_len(0),
            false => Ok(()),
        };
        let written = emptied.and_then(|()| self.file.write_all(picture.as_bytes()));
        written.with_context(|| format!("writing {}", format::path(self.path)))?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for Picture<'_> {
    fn drop(&mut self) {
        if self.is_new {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// The named profile, or one recorded now from one run.
fn profile_and_cost(
    global: &Global,
    args: &CompareArgs,
) -> anyhow::Result<(Profile, crate::model::DeviceCost)> {
    if let Some(name) = &args.profile {
        let store = context::open_store(global, Access::Read)?;
        let Some(found) = store.get(name)? else {
            bail!("{}", profile::missing(&store, name)?);
        };
        let cost = crate::run::device_cost(&store, &found, true);
        return Ok((found, cost));
    }
    let state_dir = context::state_dir(global)?;
    common::put_back(&state_dir);
    let mut recorder = Recorder::new(context::ring_bytes(global)?)?;
    let (recording, mut child) = match args.exact {
        // The profile is a new one, whose first run is page by page.
        Exact::Auto | Exact::Always => {
            let command = &args.command;
            common::record_exactly(&mut recorder, &state_dir, command, Output::Null, None)?
        }
        Exact::Never => recorder.record(&args.command, Output::Null, None)?,
    };
    child.wait(None)?;
    if child.interrupted() {
        bail!(CompareError::Interrupted);
    }
    let found = common::profile_of(&recording);
    let cost = crate::run::measured_cost(&found);
    Ok((found, cost))
}

fn rounds_bar(global: &Global, rounds: u32) -> indicatif::ProgressBar {
    use std::io::IsTerminal;
    if global.json || !std::io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    indicatif::ProgressBar::new(u64::from(rounds)).with_style(
        indicatif::ProgressStyle::with_template("round {pos} of {len} {bar:30} {eta} left")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    )
}

fn report(
    global: &Global,
    args: &CompareArgs,
    profile: &Profile,
    warmup: &Warmup,
    series: &[Series],
    last: &[Start],
    svg: Option<Picture<'_>>,
) -> anyhow::Result<()> {
    let bars = bars(series);
    let median = |way: Way| of(way, series, &bars).map_or(f64::NAN, |bar| bar.median);
    let (cold, hot) = (median(Way::Cold), median(Way::Hot));
    let is_gap = is_gap(series, &bars);
    let closed = |way: Way| is_gap.then(|| (cold - median(way)) / (cold - hot));
    let shown: String = args
        .command
        .iter()
        .map(|arg| escape(arg.as_encoded_bytes()))
        .collect::<Vec<_>>()
        .join(" ");
    if let Some(svg) = svg {
        svg.write(&chart::svg(&shown, &picture(&bars, &closed)))?;
    }
    let plan = warmup.plan(profile, Timing::Ahead);
    let ahead = plan.totals;
    if global.json {
        let mut ways = serde_json::Map::new();
        for (series, bar) in series.iter().zip(&bars) {
            ways.insert(key(series.way).into(), way_json(series, bar));
        }
        let warm_seconds = |way: Way| {
            last.iter()
                .find(|s| s.way == way)
                .and_then(|s| s.warm_seconds)
        };
        return format::emit_json(&json!({
            "command": args.command.iter().map(|a| escape(a.as_encoded_bytes())).collect::<Vec<_>>(),
            "rounds": args.rounds,
            "runs_recorded": profile.runs.len(),
            "ways": ways,
            "gap_closed_zero_lead": closed(Way::ZeroLead),
            "gap_closed_lead": closed(Way::Warmed),
            "warmed_over_hot": median(Way::Warmed) / hot,
            "zero_lead_over_cold": median(Way::ZeroLead) / cold,
            "bytes_planned": ahead.bytes,
            "bytes_certain": ahead.certain_bytes,
            "bytes_maybe": ahead.maybe_bytes,
            "bytes_gap": ahead.gap_bytes,
            "reads_planned": plan.actions.iter().filter(|a| matches!(a, Action::Read { .. })).count(),
            "names": ahead.names,
            "warm_seconds": warm_seconds(Way::Warmed),
            "device": {
                "read_ns": warmup.cost.read_ns,
                "latency_ns": warmup.cost.latency_ns,
                "bytes_per_s": warmup.cost.bytes_per_s,
            },
            "warm": last.iter().find(|s| s.way == Way::Warmed).and_then(|s| s.warm.clone()),
        }));
    }
    if !is_gap {
        format::tell(
            "note: cold and hot starts can't be told apart here: there is no gap to close\n",
        );
    }
    format::emit(format!(
        "{shown}\n{}\n{} planned ({} certain, {} maybe, {} read only because it lies between), {} names\n",
        chart::text(&picture(&bars, &closed), format::columns()),
        format::bytes(ahead.bytes),
        format::bytes(ahead.certain_bytes),
        format::bytes(ahead.maybe_bytes),
        format::bytes(ahead.gap_bytes),
        ahead.names,
    ))
}

fn bars(series: &[Series]) -> Vec<Bar> {
    series
        .iter()
        .map(|series| {
            let mut sorted = series.seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
            let middle = sorted.len() / 2;
            let median = if sorted.len() % 2 == 1 {
                at(middle)
            } else {
                (at(middle) + at(middle - 1)) / 2.0
            };
            Bar {
                label: label(series.way),
                median,
                min: at(0),
                max: at(sorted.len().saturating_sub(1)),
                note: String::new(),
            }
        })
        .collect()
}

/// The bar of a way.
fn of<'b>(way: Way, series: &[Series], bars: &'b [Bar]) -> Option<&'b Bar> {
    let at = series.iter().position(|series| series.way == way);
    bars.get(at?)
}

/// Whether hot starts are quicker than cold ones, by more than either differ: shares of a gap
/// that is none are any numbers.
fn is_gap(series: &[Series], bars: &[Bar]) -> bool {
    match (of(Way::Cold, series, bars), of(Way::Hot, series, bars)) {
        (Some(cold), Some(hot)) => {
            let is_wide = hot.median < (1.0 - LEAST_GAP) * cold.median;
            is_wide && hot.median < cold.min && hot.max < cold.median
        }
        _ => false,
    }
}

/// The bars from slowest to fastest, with the share of the gap each closes.
fn picture(bars: &[Bar], closed: &impl Fn(Way) -> Option<f64>) -> Vec<Bar> {
    [Way::Cold, Way::ZeroLead, Way::Warmed, Way::Hot]
        .iter()
        .filter_map(|&way| {
            let mut bar = bars.iter().find(|bar| bar.label == label(way))?.clone();
            if let (Way::ZeroLead | Way::Warmed, Some(share)) = (way, closed(way)) {
                bar.note = format!("{:.0} % of the gap closed", share * 100.0);
            }
            Some(bar)
        })
        .collect()
}

fn way_json(series: &Series, bar: &Bar) -> Value {
    json!({"median": bar.median, "min": bar.min, "max": bar.max, "seconds": series.seconds})
}

fn label(way: Way) -> &'static str {
    match way {
        Way::Cold => "cold",
        Way::ZeroLead => "zero lead",
        Way::Warmed => "warmed",
        Way::Hot => "hot",
    }
}

fn key(way: Way) -> &'static str {
    match way {
        Way::Cold => "cold",
        Way::ZeroLead => "zero_lead",
        Way::Warmed => "warmed",
        Way::Hot => "hot",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_wider_than_what_starts_of_one_kind_differ_by() {
        let starts = |cold: &[f64], hot: &[f64]| {
            let of = |way, seconds: &[f64]| Series {
                way,
                seconds: seconds.to_vec(),
            };
            let series = [of(Way::Hot, hot), of(Way::Cold, cold)];
            is_gap(&series, &bars(&series))
        };
        assert!(starts(&[0.4, 0.5, 0.6], &[0.1, 0.1, 0.2]));
        assert!(starts(&[1.00], &[0.97]));
        assert!(!starts(&[1.00], &[0.99]), "as good as none");
        assert!(!starts(&[0.2, 0.2, 0.2], &[0.2, 0.2, 0.3]));
        assert!(
            !starts(&[0.1, 0.5, 0.6], &[0.2, 0.2, 0.2]),
            "one was quicker"
        );
        assert!(
            !starts(&[0.2, 0.3, 0.3], &[0.1, 0.1, 0.4]),
            "one took longer"
        );
    }
}
