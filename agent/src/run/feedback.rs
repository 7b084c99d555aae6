//! What a warmed run made of what was warmed for it. Pure.

use std::collections::HashMap;

use crate::model::{Action, Certainty, PAGE_SIZE, Plan, RelPath, Trace, escape};

/// A plan held against the run it was for; bytes of file data. `planned` is
/// `used + late + wasted + not_begun`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Feedback {
    /// Asked for by the plan.
    pub planned_bytes: u64,
    /// Begun before the run first used it, and used (certainly or maybe).
    pub used_bytes: u64,
    /// Used, but the run was there first.
    pub late_bytes: u64,
    /// Not used.
    pub wasted_bytes: u64,
    /// Not got to.
    pub not_begun_bytes: u64,
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
    fn add(&mut self, other: &Self) {
        self.planned_bytes += other.planned_bytes;
        self.used_bytes += other.used_bytes;
        self.late_bytes += other.late_bytes;
        self.wasted_bytes += other.wasted_bytes;
        self.not_begun_bytes += other.not_begun_bytes;
        self.missed_bytes += other.missed_bytes;
    }
}

/// Pages `start..end`, first used at a time.
#[derive(Clone, Copy)]
struct Used {
    start: u64,
    end: u64,
    first_use_ns: u64,
}

/// Holds `plan` against `trace`. `began_ns[i]` is when action `i` was begun, ns
/// since the run's start; `None` where it was not.
pub fn feedback(plan: &Plan, began_ns: &[Option<u64>], trace: &Trace) -> Feedback {
    feedback_by_file(plan, began_ns, trace).0
}

/// As [`feedback`], and for each of the plan's files that it reads from.
pub fn feedback_by_file(
    plan: &Plan,
    began_ns: &[Option<u64>],
    trace: &Trace,
) -> (Feedback, Vec<FileFeedback>) {
    let mut by_file: HashMap<u32, Feedback> = HashMap::new();
    let mut used: HashMap<(&str, &RelPath), Vec<Used>> = HashMap::new();
    let mut certain: HashMap<(&str, &RelPath), Vec<(u64, u64)>> = HashMap::new();
    for file in &trace.files {
        let key = (volume(&trace.volumes, file.volume), &file.path);
        let pages = used.entry(key).or_default();
        for touch in &file.touches {
            let (start, end) = (touch.start_page, touch.start_page + u64::from(touch.pages));
            pages.push(Used {
                start,
                end,
                first_use_ns: touch.first_use_ns,
            });
            if touch.certainty == Certainty::Certain {
                certain.entry(key).or_default().push((start, end));
            }
        }
        pages.sort_by_key(|u| (u.start, u.first_use_ns));
    }
    let longest = used
        .values()
        .flatten()
        .map(|u| u.end - u.start)
        .max()
        .unwrap_or(0);
    let mut out = Feedback::default();
    let mut planned: HashMap<(&str, &RelPath), Vec<(u64, u64)>> = HashMap::new();
    for (index, action) in plan.actions.iter().enumerate() {
        let Action::Read {
            file,
            start_page,
            pages,
            ..
        } = *action
        else {
            continue;
        };
        let index_of_file = file;
        let Some(file) = plan.files.get(file as usize) else {
            continue;
        };
        let out = by_file.entry(index_of_file).or_default();
        let key = (volume(&plan.volumes, file.volume), &file.path);
        let end = start_page + u64::from(pages);
        let bytes = u64::from(pages) * PAGE_SIZE;
        out.planned_bytes += bytes;
        planned.entry(key).or_default().push((start_page, end));
        let Some(began) = began_ns.get(index).copied().flatten() else {
            out.not_begun_bytes += bytes;
            continue;
        };
        let touched = used.get(&key).map_or(&[][..], Vec::as_slice);
        let (in_time, late) = touched_pages(touched, longest, start_page, end, began);
        out.used_bytes += in_time * PAGE_SIZE;
        out.late_bytes += late * PAGE_SIZE;
        out.wasted_bytes += bytes - (in_time + late) * PAGE_SIZE;
    }
    by_file.values().for_each(|file| out.add(file));
    for (key, runs) in certain {
        let plans = union(planned.remove(&key).unwrap_or_default());
        let both = union(runs.iter().chain(&plans).copied().collect());
        out.missed_bytes += (total(&both) - total(&plans)) * PAGE_SIZE;
    }
    let files = by_file.into_iter().filter_map(|(index, bytes)| {
        let file = plan.files.get(index as usize)?;
        Some(FileFeedback {
            volume: volume(&plan.volumes, file.volume).to_owned(),
            path: escape(file.path.as_bytes()),
            bytes,
        })
    });
    (out, files.collect())
}

/// `touched` is sorted by start, none longer than `longest`.
/// Of the pages `start..end`: how many were used first at or after `began`, and
/// how many before.
fn touched_pages(touched: &[Used], longest: u64, start: u64, end: u64, began: u64) -> (u64, u64) {
    // At most a few thousand pages a read: one entry each.
    let mut first_use = vec![u64::MAX; (end - start) as usize];
    let after = touched.partition_point(|u| u.start < end);
    let before = touched.partition_point(|u| u.start + longest <= start);
    for used in touched[before..after].iter().filter(|u| u.end > start) {
        for page in used.start.max(start)..used.end.min(end) {
            let slot = &mut first_use[(page - start) as usize];
            *slot = (*slot).min(used.first_use_ns);
        }
    }
    let in_time = first_use
        .iter()
        .filter(|&&t| t != u64::MAX && t >= began)
        .count() as u64;
    let late = first_use.iter().filter(|&&t| t < began).count() as u64;
    (in_time, late)
}

fn volume(volumes: &[crate::model::Volume], index: u32) -> &str {
    volumes.get(index as usize).map_or("", |v| v.id.0.as_str())
}

fn union(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
    for (start, end) in runs {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

fn total(runs: &[(u64, u64)]) -> u64 {
    runs.iter().map(|(start, end)| end - start).sum()
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
    fn every_planned_byte_is_used_late_wasted_or_not_begun() {
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
            actions: vec![read(0, 4), read(10, 4), read(20, 2)],
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
                    touch(0, 2, 100, Certainty::Certain),
                    touch(1, 2, 200, Certainty::Maybe),
                    touch(10, 1, 50, Certainty::Certain),
                    touch(30, 3, 50, Certainty::Certain),
                ],
            }],
            ..Trace::default()
        };
        let seen = feedback(&plan, &[Some(60), Some(60), None], &trace);
        let pages = |n: u64| n * PAGE_SIZE;
        assert_eq!(
            seen,
            Feedback {
                planned_bytes: pages(10),
                used_bytes: pages(3),
                late_bytes: pages(1),
                wasted_bytes: pages(4),
                not_begun_bytes: pages(2),
                missed_bytes: pages(3),
            }
        );
    }
}
