//! What a warmed run made of what was warmed for it. Pure.

use std::collections::HashMap;

use crate::model::ranges::{total, union};
use crate::model::{Action, Certainty, PAGE_SIZE, Plan, RelPath, Trace, escape};
use crate::warm::Arrival;

/// A plan held against the run it was for; bytes of file data. `planned` is
/// `used + late + wasted + not_read + unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Feedback {
    /// Asked for by the plan.
    pub planned_bytes: u64,
    /// There before the run first used it, and used (certainly or maybe).
    pub used_bytes: u64,
    /// Used, but not seen to be there before.
    pub late_bytes: u64,
    /// Of `late`: it was asked for before, so that the run waited for less of it.
    pub on_the_way_bytes: u64,
    /// Of `used` and `on_the_way`: brought in, and not there already.
    pub gained_bytes: u64,
    /// Not used.
    pub wasted_bytes: u64,
    /// Not got to, not readable, or gone from memory again while it was warmed.
    pub not_read_bytes: u64,
    /// There before the run could be seen ([`Trace::blind_ns`]), and not seen to be used since:
    /// it may have been used before.
    pub unknown_bytes: u64,
    /// Certainly used, and not in the plan.
    pub missed_bytes: u64,
}

/// The same for one file of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFeedback {
    /// Id of the volume.
    pub volume: String,
    /// Path in it, escaped.
    pub path: String,
    /// `missed_bytes` is 0.
    pub bytes: Feedback,
}

impl Feedback {
    /// Planned, and nobody knows whether it would have been or was of use.
    pub fn undecided_bytes(&self) -> u64 {
        self.not_read_bytes + self.unknown_bytes
    }

    fn add(&mut self, other: &Self) {
        self.planned_bytes += other.planned_bytes;
        self.used_bytes += other.used_bytes;
        self.late_bytes += other.late_bytes;
        self.on_the_way_bytes += other.on_the_way_bytes;
        self.gained_bytes += other.gained_bytes;
        self.wasted_bytes += other.wasted_bytes;
        self.not_read_bytes += other.not_read_bytes;
        self.unknown_bytes += other.unknown_bytes;
        self.missed_bytes += other.missed_bytes;
    }
}

/// Something of pages `start..end`.
struct Span<T> {
    start: u64,
    end: u64,
    what: T,
}

/// What there is of one file's pages, by start.
struct Spans<T> {
    spans: Vec<Span<T>>,
    longest: u64,
}

impl<T> Spans<T> {
    fn new(mut spans: Vec<Span<T>>) -> Self {
        spans.sort_by_key(|span| span.start);
        let longest = spans.iter().map(|span| span.end - span.start).max();
        Self {
            spans,
            longest: longest.unwrap_or(0),
        }
    }

    /// For each page of `start..end` what there is of it that `before` puts first.
    fn by_page(&self, start: u64, end: u64, before: fn(&T, &T) -> bool) -> Vec<Option<&T>> {
        let mut pages: Vec<Option<&T>> = vec![None; (end - start) as usize];
        let after = self.spans.partition_point(|span| span.start < end);
        let from = self
            .spans
            .partition_point(|span| span.start + self.longest <= start);
        for span in &self.spans[from..after] {
            for page in span.start.max(start)..span.end.min(end) {
                let slot = &mut pages[(page - start) as usize];
                if slot.is_none_or(|other| before(&span.what, other)) {
                    *slot = Some(&span.what);
                }
            }
        }
        pages
    }
}

/// When pages were asked for and there, ns since the run's start; before it, negative.
#[derive(Clone, Copy)]
struct Came {
    read: bool,
    asked_ns: i64,
    there_ns: i64,
}

/// Holds `plan` against `trace`. `arrivals` is what came of it, of an execution that began
/// `began_ns` after the run's start; negative: before it.
pub fn feedback(plan: &Plan, arrivals: &[Arrival], began_ns: i64, trace: &Trace) -> Feedback {
    feedback_by_file(plan, arrivals, began_ns, trace).0
}

/// As [`feedback`], and for each of the plan's files that it reads from.
pub fn feedback_by_file(
    plan: &Plan,
    arrivals: &[Arrival],
    began_ns: i64,
    trace: &Trace,
) -> (Feedback, Vec<FileFeedback>) {
    let (used, mut certain) = touches(trace);
    let came = by_file(arrivals, began_ns);
    let seen_ns = i64::try_from(trace.blind_ns).unwrap_or(i64::MAX);
    let mut of_files: HashMap<u32, Feedback> = HashMap::new();
    let mut planned: ByName<'_, Vec<Pages>> = HashMap::new();
    for action in &plan.actions {
        let Action::Read {
            file: index,
            start_page,
            pages,
            ..
        } = *action
        else {
            continue;
        };
        let Some(file) = plan.files.get(index as usize) else {
            continue;
        };
        let name = (volume(&plan.volumes, file.volume), &file.path);
        let (start, end) = (start_page, start_page + u64::from(pages));
        planned.entry(name).or_default().push((start, end));
        let out = of_files.entry(index).or_default();
        let (used, came) = (used.get(&name), came.get(&index));
        out.add(&judge(used, came, seen_ns, (start, end)));
    }
    let mut out = Feedback::default();
    of_files.values().for_each(|file| out.add(file));
    for (name, runs) in certain.drain() {
        let plans = union(planned.remove(&name).unwrap_or_default());
        let both = union(runs.iter().chain(&plans).copied().collect());
        out.missed_bytes += (total(&both) - total(&plans)) * PAGE_SIZE;
    }
    let files = of_files.into_iter().filter_map(|(index, bytes)| {
        let file = plan.files.get(index as usize)?;
        Some(FileFeedback {
            volume: volume(&plan.volumes, file.volume).to_owned(),
            path: escape(file.path.as_bytes()),
            bytes,
        })
    });
    (out, files.collect())
}

/// Volume and path.
type Name<'a> = (&'a str, &'a RelPath);

type ByName<'a, T> = HashMap<Name<'a>, T>;

/// From the first page to before the second.
type Pages = (u64, u64);

/// When each page of the run's files was first used, ns; and those that certainly were.
fn touches(trace: &Trace) -> (ByName<'_, Spans<u64>>, ByName<'_, Vec<Pages>>) {
    let mut used: ByName<'_, Vec<Span<u64>>> = HashMap::new();
    let mut certain: ByName<'_, Vec<Pages>> = HashMap::new();
    for file in &trace.files {
        let name = (volume(&trace.volumes, file.volume), &file.path);
        let spans = used.entry(name).or_default();
        for touch in &file.touches {
            let (start, end) = (touch.start_page, touch.start_page + u64::from(touch.pages));
            spans.push(Span {
                start,
                end,
                what: touch.first_use_ns,
            });
            if touch.certainty == Certainty::Certain {
                certain.entry(name).or_default().push((start, end));
            }
        }
    }
    let used = used.into_iter();
    let used = used.map(|(name, spans)| (name, Spans::new(spans)));
    (used.collect(), certain)
}

fn by_file(arrivals: &[Arrival], began_ns: i64) -> HashMap<u32, Spans<Came>> {
    let mut files: HashMap<u32, Vec<Span<Came>>> = HashMap::new();
    let since_start = |us: u32| i64::from(us) * 1000 + began_ns;
    for arrival in arrivals {
        files.entry(arrival.file).or_default().push(Span {
            start: arrival.start_page,
            end: arrival.start_page + u64::from(arrival.pages),
            what: Came {
                read: arrival.read,
                asked_ns: since_start(arrival.asked_us),
                there_ns: since_start(arrival.there_us),
            },
        });
    }
    let files = files.into_iter();
    files
        .map(|(file, spans)| (file, Spans::new(spans)))
        .collect()
}

/// What became of planned pages of a file, of a run that was seen from `seen_ns` on.
fn judge(
    used: Option<&Spans<u64>>,
    came: Option<&Spans<Came>>,
    seen_ns: i64,
    (start, end): Pages,
) -> Feedback {
    let mut out = Feedback {
        planned_bytes: (end - start) * PAGE_SIZE,
        ..Feedback::default()
    };
    let Some(came) = came else {
        out.not_read_bytes = out.planned_bytes;
        return out;
    };
    let came = came.by_page(start, end, |a, b| a.there_ns < b.there_ns);
    let used = match used {
        Some(used) => used.by_page(start, end, |a, b| a < b),
        None => vec![None; came.len()],
    };
    for (came, used) in came.into_iter().zip(used) {
        let (Some(came), Some(&first_use)) = (came, used) else {
            let nothing = match came {
                Some(came) if came.there_ns < seen_ns => &mut out.unknown_bytes,
                Some(_) => &mut out.wasted_bytes,
                None => &mut out.not_read_bytes,
            };
            *nothing += PAGE_SIZE;
            continue;
        };
        let first_use = i64::try_from(first_use).unwrap_or(i64::MAX);
        if came.read && first_use >= came.asked_ns {
            out.gained_bytes += PAGE_SIZE;
        }
        if first_use >= came.there_ns {
            out.used_bytes += PAGE_SIZE;
        } else {
            out.late_bytes += PAGE_SIZE;
            if first_use >= came.asked_ns {
                out.on_the_way_bytes += PAGE_SIZE;
            }
        }
    }
    out
}

fn volume(volumes: &[crate::model::Volume], index: u32) -> &str {
    volumes.get(index as usize).map_or("", |v| v.id.0.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileTouches, FileVersion, PageTouch, PlanFile, Volume, VolumeId};

    fn path() -> RelPath {
        RelPath::new(b"lib".to_vec()).expect("valid")
    }

    fn volumes() -> Vec<Volume> {
        let id = VolumeId("uuid:1".into());
        vec![Volume {
            id,
            fs_type: "ext4".into(),
            mount_point: b"/".to_vec(),
        }]
    }

    #[test]
    fn every_planned_byte_is_used_late_wasted_or_not_read() {
        let version = FileVersion {
            size: 1 << 20,
            mtime_ns: 0,
        };
        let read = |start_page, pages| Action::Read {
            file: 0,
            start_page,
            pages,
            gap_pages: 0,
            certain: true,
        };
        let plan = Plan {
            volumes: volumes(),
            files: vec![PlanFile {
                volume: 0,
                path: path(),
                version,
            }],
            actions: vec![read(0, 4), read(10, 5), read(20, 2)],
            ..Plan::default()
        };
        let touch = |start_page, pages, first_use_ns, certainty| PageTouch {
            start_page,
            pages,
            certainty,
            first_use_ns,
        };
        let trace = Trace {
            volumes: volumes(),
            files: vec![FileTouches {
                volume: 0,
                path: path(),
                version,
                touches: vec![
                    touch(0, 1, 99_000, Certainty::Certain),
                    touch(1, 1, 100_000, Certainty::Certain),
                    touch(1, 2, 200_000, Certainty::Maybe),
                    touch(10, 1, 50_000, Certainty::Certain),
                    touch(20, 1, 50_000, Certainty::Certain),
                    touch(30, 3, 50_000, Certainty::Certain),
                ],
            }],
            ..Trace::default()
        };
        let arrival = |start_page, pages, asked_us, there_us| Arrival {
            file: 0,
            start_page,
            pages,
            read: start_page != 2,
            asked_us,
            there_us,
        };
        // The execution began 10 µs before the run; of the last read nothing came.
        // Pages 2 and 3 were there already.
        let arrivals = [
            arrival(0, 2, 60, 110),
            arrival(2, 2, 60, 60),
            arrival(10, 4, 70, 75),
        ];
        let seen = feedback(&plan, &arrivals, -10_000, &trace);
        let pages = |n: u64| n * PAGE_SIZE;
        assert_eq!(
            seen,
            Feedback {
                planned_bytes: pages(11),
                // Pages 1 and 2: there at 100 µs, used at 100 and at 200.
                used_bytes: pages(2),
                // Page 0, used while it was on the way; page 10, used before it was asked for.
                late_bytes: pages(2),
                on_the_way_bytes: pages(1),
                // Pages 0 and 1.
                gained_bytes: pages(2),
                wasted_bytes: pages(4),
                // Page 14 of the second read, and the third.
                not_read_bytes: pages(3),
                unknown_bytes: 0,
                missed_bytes: pages(3),
            }
        );
        // Page 3 was there before anything was seen; of pages 11 to 13 it is known.
        let blind = Trace {
            blind_ns: 55_000,
            ..trace
        };
        assert_eq!(
            feedback(&plan, &arrivals, -10_000, &blind),
            Feedback {
                wasted_bytes: pages(3),
                unknown_bytes: pages(1),
                ..seen
            }
        );
    }
}
