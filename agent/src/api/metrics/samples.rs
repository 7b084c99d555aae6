//! Values as samples of a metric.

use std::collections::BTreeMap;

use super::catalogue::Sample;
use crate::daemon::{Totals, View};
use crate::model::StageCounts;
use crate::probe::Ran;

/// Numbers beyond 2^53 lose their last digits, as they do in Prometheus.
pub(super) fn count(n: u64) -> f64 {
    n as f64
}

pub(super) fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// Seconds from milliseconds.
pub(super) fn time(ms: u64) -> f64 {
    count(ms) / 1e3
}

pub(super) fn sample<const N: usize>(labels: [&str; N], value: f64) -> Sample {
    Sample {
        labels: labels.map(str::to_owned).into(),
        value,
    }
}

pub(super) fn one(value: f64) -> Vec<Sample> {
    vec![sample([], value)]
}

/// One series for each key; those of `known` even where nothing was counted yet.
pub(super) fn by(counts: &BTreeMap<&'static str, u64>, known: &[&'static str]) -> Vec<Sample> {
    let mut all: BTreeMap<&str, u64> = known.iter().map(|key| (*key, 0)).collect();
    all.extend(counts);
    all.into_iter()
        .map(|(key, n)| sample([key], count(n)))
        .collect()
}

pub(super) fn programs(totals: &Totals, value: fn(&Ran) -> Option<f64>) -> Vec<Sample> {
    let programs = totals.programs.iter();
    programs
        .filter_map(|(hook, ran)| Some(sample([*hook], value(ran)?)))
        .collect()
}

pub(super) fn stages(view: &View, value: fn(&StageCounts) -> u64) -> Vec<Sample> {
    let stages = view.totals.stages.iter();
    stages
        .map(|stage| sample([stage.name, stage.unit], count(value(stage))))
        .collect()
}
