//! Cold, zero-lead, warmed and hot starts of one command, interleaved.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::child::{Child, Ended, Output};
use super::warmup::Warmup;
use crate::model::Profile;
use crate::plan::Timing;
use crate::warm::{Cancel, Progress, WarmReport};

/// How a start was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Nothing cached.
    Cold,
    /// Nothing cached; warming begins together with the command. Not recorded:
    /// what recording costs is a figure of its own.
    ZeroLead,
    /// Nothing cached, then warmed, then started.
    Warmed,
    /// Right after a run.
    Hot,
}

/// All ways, in the order in which they are told of.
pub const WAYS: [Way; 4] = [Way::Cold, Way::Hot, Way::ZeroLead, Way::Warmed];

/// The ways in the order of a round: another in each of six, for what came just before
/// decides in which memory a start's pages come to lie. Hot always follows cold, which
/// leaves cached what the command uses.
pub fn in_order(round: u32) -> [Way; 4] {
    use Way::{Cold, Hot, Warmed, ZeroLead};
    match round % 6 {
        0 => [Cold, Hot, ZeroLead, Warmed],
        1 => [Warmed, ZeroLead, Cold, Hot],
        2 => [ZeroLead, Cold, Hot, Warmed],
        3 => [Cold, Hot, Warmed, ZeroLead],
        4 => [Warmed, Cold, Hot, ZeroLead],
        _ => [ZeroLead, Warmed, Cold, Hot],
    }
}

/// One start.
#[derive(Clone, Debug)]
pub struct Start {
    /// How it was prepared.
    pub way: Way,
    /// From the moment the start was asked for to the command's end.
    pub seconds: f64,
    /// How the command ended.
    pub ended: Ended,
    /// What warming did, where there was any.
    pub warm: Option<WarmReport>,
    /// Seconds from the request until warming was done, where there was any.
    pub warm_seconds: Option<f64>,
}

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The caches can't be dropped.
    #[error(
        "dropping the page cache through /proc/sys/vm/drop_caches: {0} (a cold start can't be made without it; it needs root)"
    )]
    DropCaches(io::Error),
    /// The command could not be run.
    #[error(transparent)]
    Launch(#[from] super::child::LaunchError),
    /// Somebody wants an end.
    #[error("interrupted")]
    Interrupted,
    /// Warming could not begin.
    #[error("while {operation}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
}

impl CompareError {
    /// The command could not be started.
    pub fn launch(&self) -> Option<&super::child::LaunchError> {
        match self {
            CompareError::Launch(error) => Some(error),
            _ => None,
        }
    }
}

/// Writes dirty pages back and drops page cache, dentries and inodes.
///
/// # Errors
/// `/proc/sys/vm/drop_caches` can't be written.
pub fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Keeps this process' own memory from being dropped with the rest: a page of
/// ours that has to be read back would be measured too.
fn stay_resident() {
    // SAFETY: plain system call; it changes no memory contents.
    let refused = unsafe { libc::mlockall(libc::MCL_CURRENT) } != 0;
    if refused {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "can't lock own memory: times may include reading it back");
    }
}

/// Starts `command` once in the given way.
///
/// # Errors
/// See [`CompareError`].
pub fn start(
    way: Way,
    command: &[OsString],
    profile: &Profile,
    warmup: &Warmup,
) -> Result<Start, CompareError> {
    stay_resident();
    if way != Way::Hot {
        drop_caches().map_err(CompareError::DropCaches)?;
    }
    match way {
        Way::Cold | Way::Hot => {
            let (seconds, ended) = bare(command)?;
            Ok(Start {
                way,
                seconds,
                ended,
                warm: None,
                warm_seconds: None,
            })
        }
        Way::Warmed => {
            let began = Instant::now();
            let plan = warmup.plan(profile, Timing::Ahead);
            let report = warm(warmup, plan, Timing::Ahead, &Cancel::new())?;
            let warm_seconds = Some(began.elapsed().as_secs_f64());
            let (seconds, ended) = bare(command)?;
            Ok(Start {
                way,
                seconds,
                ended,
                warm: Some(report),
                warm_seconds,
            })
        }
        Way::ZeroLead => zero_lead(command, profile, warmup),
    }
}

fn bare(command: &[OsString]) -> Result<(f64, Ended), CompareError> {
    let began = Instant::now();
    let mut child = Child::spawn(command, None, Output::Null)?;
    let ended = wait(&mut child)?;
    Ok((began.elapsed().as_secs_f64(), ended))
}

fn zero_lead(
    command: &[OsString],
    profile: &Profile,
    warmup: &Warmup,
) -> Result<Start, CompareError> {
    let began = Instant::now();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let warming = scope.spawn(|| {
            let plan = warmup.plan_beside(profile);
            let report = warm(warmup, plan, Timing::Beside, &cancel);
            (report, began.elapsed().as_secs_f64())
        });
        let spawned = Child::spawn(command, None, Output::Null).map_err(CompareError::from);
        let ended = spawned.and_then(|mut child| wait(&mut child));
        let seconds = began.elapsed().as_secs_f64();
        // Warmed to its end for the report, but not for nobody.
        let ended = ended.inspect_err(|_| cancel.cancel())?;
        let (report, warm_seconds) = warming
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Start {
            way: Way::ZeroLead,
            seconds,
            ended,
            warm: Some(report?),
            warm_seconds: Some(warm_seconds),
        })
    })
}

fn warm(
    warmup: &Warmup,
    plan: crate::model::Plan,
    timing: Timing,
    cancel: &Cancel,
) -> Result<WarmReport, CompareError> {
    warmup
        .execute(plan, timing, &Arc::new(Progress::default()), cancel)
        .map_err(|source| CompareError::Io {
            operation: "reading the mount table",
            source,
        })
}

fn wait(child: &mut Child) -> Result<Ended, CompareError> {
    let ended = child.wait(None).map_err(|source| CompareError::Io {
        operation: "waiting for the command",
        source,
    })?;
    // The command had the signal too: its time says nothing.
    if child.interrupted() {
        return Err(CompareError::Interrupted);
    }
    Ok(ended.unwrap_or(Ended::Exited(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_a_way_differs_from_round_to_round() {
        let rounds: Vec<[Way; 4]> = (0..6).map(in_order).collect();
        for round in &rounds {
            assert!(WAYS.iter().all(|way| round.contains(way)));
            let cold = round.iter().position(|&way| way == Way::Cold);
            let hot = round.iter().position(|&way| way == Way::Hot);
            assert_eq!(hot, cold.map(|at| at + 1));
        }
        let row = rounds.concat();
        for way in [Way::Cold, Way::ZeroLead, Way::Warmed] {
            let before: Vec<Way> = row
                .windows(2)
                .filter(|two| two[1] == way)
                .map(|two| two[0])
                .collect();
            assert!(before.iter().any(|&one| one != before[0]), "{way:?}");
        }
    }
}
