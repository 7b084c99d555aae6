//! Which workloads have series of their own, and what they come to.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::catalogue::Sample;
use super::labels::plain;
use super::samples::count;
use crate::daemon::{StartView, View, WorkloadView};

/// What is added up is called so.
const OTHER: &str = "other";

/// Values of the labels `kind`, `namespace` and `workload`.
type Key = [String; 3];

/// Workloads by their labels. Several with the same labels, say those of one name and
/// several images, are one series.
pub(super) struct Groups<'a> {
    own: BTreeMap<Key, Vec<&'a WorkloadView>>,
    other: Vec<&'a WorkloadView>,
}

impl<'a> Groups<'a> {
    /// Those that start most keep series of their own, at most `limit`.
    pub(super) fn new(view: &'a View, limit: usize) -> Self {
        let mut by_key: BTreeMap<Key, Vec<&WorkloadView>> = BTreeMap::new();
        for workload in view.workloads.values() {
            by_key.entry(key(workload)).or_default().push(workload);
        }
        let mut all: Vec<_> = by_key.into_iter().collect();
        // Stable: those of as many starts stay in the order of their names.
        all.sort_by_key(|(_, members)| Reverse(members.iter().map(|w| w.starts).sum::<u64>()));
        let rest = all.split_off(limit.min(all.len()));
        Self {
            own: all.into_iter().collect(),
            other: rest.into_iter().flat_map(|(_, members)| members).collect(),
        }
    }

    fn each(&self) -> impl Iterator<Item = (Key, &[&'a WorkloadView])> {
        let own = self
            .own
            .iter()
            .map(|(key, members)| (key.clone(), &members[..]));
        let other = [String::new(), String::new(), OTHER.to_owned()];
        let other = (!self.other.is_empty()).then_some((other, &self.other[..]));
        own.chain(other)
    }
}

fn key(workload: &WorkloadView) -> Key {
    let name = match &workload.called.name {
        name if name.is_empty() => &workload.key,
        name => name,
    };
    [
        workload.kind.to_owned(),
        plain(&workload.called.namespace),
        plain(name),
    ]
}

/// One sum for each series.
pub(super) fn sums(groups: &Groups<'_>, value: fn(&WorkloadView) -> u64) -> Vec<Sample> {
    let each = groups.each();
    each.map(|(key, members)| Sample {
        labels: key.into(),
        value: members.iter().map(|workload| count(value(workload))).sum(),
    })
    .collect()
}

/// What the newest start of each series has; not of `other`, whose starts have nothing in
/// common.
pub(super) fn newest(groups: &Groups<'_>, value: fn(&StartView) -> Option<f64>) -> Vec<Sample> {
    let own = groups.own.iter();
    own.filter_map(|(key, members)| {
        Some(Sample {
            labels: key.clone().into(),
            value: value(last(members)?)?,
        })
    })
    .collect()
}

/// The newest start's bytes by outcome; likewise.
pub(super) fn outcomes(groups: &Groups<'_>) -> Vec<Sample> {
    let own = groups.own.iter();
    own.filter_map(|(key, members)| Some((key, last(members)?)))
        .flat_map(|(key, start)| {
            let outcomes = [
                ("late", start.late),
                ("unknown", start.unknown),
                ("used", start.used),
                ("wasted", start.wasted),
            ];
            outcomes.map(|(outcome, bytes)| Sample {
                labels: key.iter().cloned().chain([outcome.to_owned()]).collect(),
                value: count(bytes),
            })
        })
        .collect()
}

fn last<'a>(members: &[&'a WorkloadView]) -> Option<&'a StartView> {
    let starts = members.iter().filter_map(|workload| workload.last.as_ref());
    starts.max_by_key(|start| start.began_ms)
}
