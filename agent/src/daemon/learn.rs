//! A start that is over → its trace, merged into the profile, and what became of what
//! was warmed. Runs on a worker.

use std::time::Duration;

use super::phase::Over;
use super::prepare::{Shared, size_of};
use super::start::{Start, Warming, judged};
use super::view::StartView;
use crate::attribute::mountinfo::Mount;
use crate::attribute::{Attributed, Origin, Surroundings, attribute_in, mountinfo};
use crate::model::{RunInfo, StageCounts, Volume};
use crate::profile::{Called, StoreError, from_trace};
use crate::run::{fill_blocks, main_volume_of, maybe_pages, run_id};
use crate::workload::{self, Workload};

/// Runs that touched less than this are no start worth keeping: a shell that failed.
const LEAST_PAGES: u64 = 1;

/// What came of a start.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The workload's key; empty where nobody knows what it was.
    pub(super) key: String,
    pub(super) view: StartView,
    /// Runs in the profile now; 0 where nothing was kept.
    pub(super) runs: u64,
    /// Bytes of file data in it.
    pub(super) profile_bytes: u64,
    /// Why nothing was kept; empty where it was.
    pub(super) not_kept: &'static str,
    /// What the store said to that; empty where it was not asked, or did it.
    pub(super) store_says: String,
    pub(super) stages: Vec<StageCounts>,
    /// Records that were kept of it.
    pub(super) records: u64,
    /// The volume that most of it came from, and the path of a file there.
    pub(super) main: Option<(Volume, Vec<u8>)>,
}

/// Learns from a start that is ripe, of a workload that is called so.
pub(super) fn learn(start: Start, called: &Called, shared: &Shared) -> Learned {
    let mut view = start.view();
    view.over = true;
    let nothing = |view, key: &str, why| Learned {
        key: key.to_owned(),
        view,
        not_kept: why,
        store_says: String::new(),
        ..Learned::default()
    };
    let Some(workload) = start.workload() else {
        return nothing(view, "", "unknown_workload");
    };
    let Some(key) = workload.keys.0.first().cloned() else {
        return nothing(view, "", "no_key");
    };
    if !start.not_learned.is_empty() {
        return nothing(view, &key, start.not_learned);
    }
    if start.phase.pages() < LEAST_PAGES {
        return nothing(view, &key, "touched_nothing");
    }
    let attributed = match attribute_start(&start, workload) {
        Ok(attributed) => attributed,
        Err(error) => {
            tracing::warn!(%error, key, "a start is not learned");
            return nothing(view, &key, "no_mount_table");
        }
    };
    let Attributed {
        mut trace, stages, ..
    } = attributed;
    let seconds = start
        .over
        .map_or_else(|| start.began.elapsed(), |(_, after)| after);
    trace.duration_ns = seconds.as_nanos() as u64;
    trace.blind_ns = if start.seen_whole { 0 } else { start.blind_ns };
    trace.lost = start.lost + start.collector.lost();
    let main = main_volume_of(&trace).map(|(volume, path)| (volume.clone(), path));
    let mut trace = workload::translate(&workload.volumes, trace);
    // Of its own files: what its runtime touched first is not what it waited for.
    let touches = trace.files.iter().flat_map(|file| &file.touches);
    let first = touches.map(|touch| touch.first_use_ns).min();
    view.lead_seconds = first.map(|ns| (start.notice + Duration::from_nanos(ns)).as_secs_f64());
    let known = shared.store.get(&key).ok().flatten();
    if let Some(known) = &known {
        fill_blocks(&mut trace, known);
    }
    if let Warming::Over(Some(carried)) = &start.warming {
        let (all, files) = carried.judge(start.began, &trace);
        judged(&mut view, &all, files);
    }
    // A page that was mapped around a fault all the same, or with a block, says that it was
    // not.
    let exact = start.narrow && start.seen_whole && trace.lost == 0 && maybe_pages(&trace) == 0;
    let run = RunInfo {
        started_ms: start.began_ms,
        id: run_id(),
        duration_ns: trace.duration_ns,
        exact,
        blind_ns: trace.blind_ns,
    };
    let profile = from_trace(&trace, run);
    let learned = shared
        .store
        .learn_into(&key, &profile, &view.outcome(), called);
    match learned {
        Ok(profile) => {
            let others = workload.keys.0.get(1..).unwrap_or_default();
            if let Err(error) = shared.store.alias(others, &key) {
                tracing::warn!(%error, key, "a profile is found by one name only");
            }
            let (runs, profile_bytes) = size_of(&profile);
            Learned {
                key,
                view,
                runs,
                profile_bytes,
                not_kept: "",
                store_says: String::new(),
                stages,
                records: 0,
                main,
            }
        }
        Err(error) => {
            tracing::warn!(%error, key, "a start is not kept");
            Learned {
                stages,
                store_says: match &error {
                    // That is this profile's own.
                    StoreError::Profile { .. }
                    | StoreError::TooLarge { .. }
                    | StoreError::Name(_) => String::new(),
                    _ => error.to_string(),
                },
                ..nothing(view, &key, "store")
            }
        }
    }
}

fn attribute_start(start: &Start, workload: &Workload) -> std::io::Result<Attributed> {
    let mut mounts = mountinfo::read()?;
    let root = workload.volumes.root.as_ref();
    let mut layers: &[Vec<u8>] = &[];
    if let Some(root) = root {
        // A runtime unmounts it about when it removes the cgroup: it is not looked at.
        let is_it = |mount: &Mount| mount.id == root.mount.id && mount.mount_point == root.path;
        let is_there = mounts.iter().any(is_it);
        if !is_there || matches!(start.over, Some((Over::Gone, _))) {
            layers = &root.lower;
        }
        if !is_there {
            mounts.push(root.mount.clone());
        }
    }
    let around_it = Surroundings {
        mounts: &mounts,
        binds: root.map_or(&[], |root| &root.binds),
        root: root.map_or(b"/", |root| &root.path),
        layers,
    };
    let origin = Origin {
        time_ns: start.began_ns,
        ours_before: false,
    };
    Ok(attribute_in(
        around_it,
        &start.collector,
        origin,
        start.fault_around_pages,
    ))
}
