//! Starting a command and warming beside it: zero lead.

use std::ffi::OsString;
use std::sync::Arc;

use super::blocks::fill_blocks;
use super::cgroup::Cgroup;
use super::child::{Child, Ended, HeldSignals, LaunchError, Output};
use super::feedback::{Feedback, feedback};
use super::record::{RecordError, Recorder, Recording};
use super::warmup::Warmup;
use crate::model::{Plan, Profile};
use crate::plan::Timing;
use crate::warm::{Cancel, Progress, WarmReport};

/// What a run with warming beside it was like.
#[derive(Debug)]
pub struct Beside {
    /// How the command ended.
    pub ended: Ended,
    /// From the process' birth to its end.
    pub seconds: f64,
    /// The run as recorded; the reason, where it could not be.
    pub recording: Result<Recording, RecordError>,
    /// What was warmed; `None` where the mount table could not be read.
    pub warm: Option<WarmReport>,
    /// What the run made of it; `None` where it was not recorded.
    pub feedback: Option<Feedback>,
}

/// Starts `command` at once, warms `profile` beside it, and records the run
/// from as soon as the probes are there. Nothing that goes wrong with warming
/// or recording keeps the command from running.
///
/// # Errors
/// The command can't be run.
pub fn run_beside(
    command: &[OsString],
    profile: &Profile,
    warmup: &Warmup,
    ring_bytes: u32,
) -> Result<Beside, LaunchError> {
    let _held = HeldSignals::hold()?;
    let cgroup = Cgroup::create(0);
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let warming = scope.spawn(|| warm(profile, warmup, &cancel));
        let place = cgroup.as_ref().ok().map(Cgroup::as_fd);
        let mut child = Child::spawn(command, place, Output::Inherit).inspect_err(|_| {
            cancel.cancel();
        })?;
        let mut recording = match &cgroup {
            Ok(cgroup) => Recorder::new(ring_bytes)
                .and_then(|mut recorder| recorder.join(cgroup, &mut child, None)),
            Err(error) => Err(RecordError::Io {
                operation: "making a cgroup for the command",
                source: std::io::Error::other(error.to_string()),
            }),
        };
        let ended = child.wait(None)?.unwrap_or(Ended::Exited(0));
        let seconds = child.started.elapsed().as_secs_f64();
        // What the command no longer waits for is not worth reading.
        cancel.cancel();
        let warmed = warming
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (plan, warm) = warmed;
        if let Ok(recording) = &mut recording {
            fill_blocks(&mut recording.trace, profile);
        }
        let feedback = match (&recording, &warm) {
            (Ok(recording), Some(warm)) => {
                let began_ns = warm.began_since(child.started);
                let trace = &recording.trace;
                Some(feedback(&plan, &warm.arrivals, began_ns, trace))
            }
            _ => None,
        };
        Ok(Beside {
            ended,
            seconds,
            recording,
            warm,
            feedback,
        })
    })
}

fn warm(profile: &Profile, warmup: &Warmup, cancel: &Cancel) -> (Plan, Option<WarmReport>) {
    let plan = warmup.plan_beside(profile);
    let progress = Arc::new(Progress::default());
    match warmup.execute(plan.clone(), Timing::Beside, &progress, cancel) {
        Ok(report) => (plan, Some(report)),
        Err(error) => {
            tracing::warn!(%error, "nothing is warmed: the mount table can't be read");
            (plan, None)
        }
    }
}
