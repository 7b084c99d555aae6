//! Prometheus' text exposition format, version 0.0.4.
//!
//! Values come from a snapshot, so that no library's registers are needed for them.

use std::fmt::{self, Write};

use super::catalogue::{CATALOGUE, Input, Metric, Source};
use super::workloads::Groups;
use crate::daemon::{Histogram, LEAD_BOUNDS, View};

/// All metrics of `view`; at most `workloads` workloads have series of their own, the
/// rest are added up.
pub fn render(view: &View, workloads: usize) -> String {
    let input = Input {
        view,
        groups: Groups::new(view, workloads),
    };
    let mut out = String::new();
    for metric in CATALOGUE {
        // Writing to a String can't fail.
        let _ = write_metric(&mut out, metric, &input);
    }
    out
}

fn write_metric(out: &mut String, metric: &Metric, input: &Input<'_>) -> fmt::Result {
    let name = metric.name;
    writeln!(out, "# HELP {name} {}.", metric.help)?;
    writeln!(out, "# TYPE {name} {}", metric.kind.name())?;
    match metric.source {
        Source::Times(times) => {
            let label = metric.labels.first().copied().unwrap_or_default();
            let mut all = times(input.view).into_iter();
            all.try_for_each(|(value, times)| write_histogram(out, name, label, value, &times))
        }
        Source::Samples(samples) => samples(input).into_iter().try_for_each(|sample| {
            let labels = metric.labels.iter().copied().zip(&sample.labels);
            write_labels(out, name, labels)?;
            writeln!(out, " {}", Number(sample.value))
        }),
    }
}

fn write_histogram(
    out: &mut String,
    name: &str,
    label: &str,
    value: &str,
    times: &Histogram,
) -> fmt::Result {
    let of = format!("{label}=\"{value}\"");
    for (bound, n) in LEAD_BOUNDS.iter().zip(times.buckets) {
        let bound = Number(*bound);
        writeln!(out, "{name}_bucket{{{of},le=\"{bound}\"}} {n}")?;
    }
    writeln!(out, "{name}_bucket{{{of},le=\"+Inf\"}} {}", times.count)?;
    writeln!(out, "{name}_sum{{{of}}} {}", Number(times.sum))?;
    writeln!(out, "{name}_count{{{of}}} {}", times.count)
}

fn write_labels<'a>(
    out: &mut String,
    name: &str,
    labels: impl Iterator<Item = (&'static str, &'a String)>,
) -> fmt::Result {
    out.write_str(name)?;
    let mut before = '{';
    for (label, value) in labels {
        write!(out, "{before}{label}=\"")?;
        for c in value.chars() {
            match c {
                '\\' => out.write_str("\\\\")?,
                '"' => out.write_str("\\\"")?,
                '\n' => out.write_str("\\n")?,
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')?;
        before = ',';
    }
    if before == ',' {
        out.write_char('}')?;
    }
    Ok(())
}

/// As the format spells what is no number.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::daemon::{StartView, WorkloadView};
    use crate::profile::Called;

    fn view(workloads: usize) -> View {
        let mut view = View::default();
        for n in 0..workloads {
            let workload = WorkloadView {
                key: format!("unit:w{n}.service"),
                kind: "unit",
                called: Called {
                    name: format!("w{n}.service"),
                    ..Called::default()
                },
                starts: n as u64,
                profile_bytes: 10,
                last: Some(StartView {
                    used: 7,
                    ..StartView::default()
                }),
                ..WorkloadView::default()
            };
            view.add(workload);
        }
        view
    }

    /// Lines of a metric's series.
    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        text.lines().filter(of_name).collect()
    }

    #[test]
    fn counters_are_there_before_anything_was_counted() {
        let text = render(&View::default(), 10);
        assert_eq!(series(&text, "headstart_outcome_bytes_total").len(), 4);
        assert_eq!(
            series(&text, "headstart_starts_total"),
            [
                "headstart_starts_total{signal=\"bundle\"} 0",
                "headstart_starts_total{signal=\"cgroup\"} 0",
                "headstart_starts_total{signal=\"refill\"} 0",
                "headstart_starts_total{signal=\"runtime\"} 0",
            ]
        );
    }

    #[test]
    fn workloads_beyond_the_limit_are_added_up() {
        let text = render(&view(5), 2);
        assert_eq!(
            series(&text, "headstart_workload_starts"),
            [
                "headstart_workload_starts{kind=\"unit\",namespace=\"\",workload=\"w3.service\"} 3",
                "headstart_workload_starts{kind=\"unit\",namespace=\"\",workload=\"w4.service\"} 4",
                "headstart_workload_starts{kind=\"\",namespace=\"\",workload=\"other\"} 3",
            ]
        );
        assert_eq!(
            series(&text, "headstart_workload_last_start_bytes").len(),
            2 * 4
        );
    }

    #[test]
    fn series_go_with_their_workload() {
        let mut view = view(2);
        view.forget("unit:w1.service");
        let text = render(&view, 10);
        assert!(text.contains("w0.service") && !text.contains("w1.service"));
        assert!(!text.contains("workload=\"other\""), "{text}");
    }

    #[test]
    fn names_from_outside_stay_within_their_quotes() {
        let mut view = view(1);
        let mut odd = WorkloadView {
            key: "a\"} 1\n\x1b[2J".to_owned(),
            ..WorkloadView::default()
        };
        odd.called.name = odd.key.clone();
        view.add(odd);
        let text = render(&view, 10);
        let shown = series(&text, "headstart_workload_starts");
        assert_eq!(
            shown[0],
            "headstart_workload_starts{kind=\"\",namespace=\"\",workload=\"a\\\"} 1\\\\x0a\\\\x1b[2J\"} 0"
        );
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_histogram_ends_in_all_values() {
        let mut view = View::default();
        let leads = view.totals.lead.entry("cgroup").or_default();
        leads.observe(0.02);
        leads.observe(60.0);
        let text = render(&view, 10);
        assert!(
            text.contains("headstart_lead_seconds_bucket{signal=\"cgroup\",le=\"0.05\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("headstart_lead_seconds_bucket{signal=\"cgroup\",le=\"+Inf\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("headstart_lead_seconds_sum{signal=\"cgroup\"} 60.02\n"),
            "{text}"
        );
    }

    #[test]
    fn the_catalogue_follows_the_rules_of_names() {
        use super::super::catalogue::Kind;
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("headstart_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}: counters alone end in _total"
            );
            let base = name.trim_end_matches("_total");
            for unit in ["seconds", "bytes", "ratio"] {
                assert_eq!(
                    base.ends_with(&format!("_{unit}")),
                    metric.unit == unit,
                    "{name}"
                );
            }
            assert!(
                !metric.help.ends_with('.') && !metric.help.contains('\n'),
                "{name}"
            );
            for label in metric.labels {
                for never in ["path", "digest", "image", "uid", "container", "id"] {
                    assert_ne!(*label, never, "{name}");
                }
            }
        }
    }

    #[test]
    fn every_series_has_its_labels() {
        let mut view = view(3);
        view.totals.throttled.insert("memory", 1);
        view.totals.starts_not_learned.insert("short", 1);
        let input = Input {
            view: &view,
            groups: Groups::new(&view, 1),
        };
        for metric in CATALOGUE {
            if let Source::Samples(samples) = metric.source {
                for sample in samples(&input) {
                    assert_eq!(sample.labels.len(), metric.labels.len(), "{}", metric.name);
                }
            }
        }
    }
}
