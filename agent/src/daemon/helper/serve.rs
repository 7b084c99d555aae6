//! The helper's side: plans in, reports out, until nobody listens.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wire::{self, HEAD, Request, Terms, WireError};
use crate::daemon::lock;
use crate::model::Plan;
use crate::warm::{
    Cancel, Dues, Pace, Progress, Rate, VolumeRoots, WarmOptions, WarmReport, execute,
};

/// Plans that are carried out at a time; the agent sends fewer.
const AT_ONCE: usize = 1024;

/// Why a helper ends before its agent does.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The agent can't be understood.
    #[error("the agent is not understood: {0}")]
    Wire(#[from] WireError),
    /// The connection failed.
    #[error("talking to the agent: {0}")]
    Io(#[from] io::Error),
    /// More plans at a time than any agent sends.
    #[error("more than {AT_ONCE} plans at a time")]
    TooMany,
}

/// What the threads of plans share.
struct Shared {
    answers: Mutex<UnixStream>,
    running: Mutex<HashMap<u64, Cancel>>,
    dues: Arc<Dues>,
    pace: Arc<Pace>,
}

/// Carries out what `connection` asks for, until its other end is closed. The bounds are
/// those of `dues`.
///
/// # Errors
/// What is asked for is not understood.
pub fn serve(connection: OwnedFd, dues: OwnedFd) -> Result<(), ServeError> {
    let mut requests = UnixStream::from(connection);
    let dues = Arc::new(Dues::open(dues)?);
    let shared = Arc::new(Shared {
        answers: Mutex::new(requests.try_clone()?),
        running: Mutex::default(),
        pace: Arc::new(Pace::new(dues.clone())),
        dues,
    });
    while let Some((kind, message)) = next_frame(&mut requests)? {
        match wire::decode_request(kind, &message)? {
            Request::Cancel(id) => {
                if let Some(cancel) = lock(&shared.running).get(&id) {
                    cancel.cancel();
                }
            }
            Request::Carry { id, plan, terms } => {
                let cancel = Cancel::new();
                {
                    let mut running = lock(&shared.running);
                    if running.len() >= AT_ONCE {
                        return Err(ServeError::TooMany);
                    }
                    running.insert(id, cancel.clone());
                }
                let theirs = shared.clone();
                std::thread::Builder::new()
                    .name("plan".into())
                    .spawn(move || carry(&theirs, id, *plan, &terms, &cancel))?;
            }
        }
    }
    Ok(())
}

/// The next frame's kind and message; `None` at the end.
pub(super) fn next_frame(from: &mut impl Read) -> Result<Option<(u8, Vec<u8>)>, ServeError> {
    let mut head = [0; HEAD];
    match from.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (kind, length) = wire::head(head)?;
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some((kind, message)))
}

fn carry(shared: &Shared, id: u64, plan: Plan, terms: &Terms, cancel: &Cancel) {
    let plan = Arc::new(plan);
    let report = match VolumeRoots::read() {
        Ok(roots) => {
            let options = WarmOptions {
                pace: Some(shared.pace.clone()),
                ..options(terms, &shared.dues)
            };
            execute(
                &plan,
                &Arc::new(roots),
                &options,
                &Arc::new(Progress::default()),
                cancel,
            )
        }
        Err(error) => {
            let error = format!("the mount table can't be read: {error}");
            WarmReport::failed(&plan, terms.metadata, &error)
        }
    };
    lock(&shared.running).remove(&id);
    let answer = wire::answer(id, &report).or_else(|_| {
        let report = WarmReport::failed(&Plan::default(), false, "the report is too long");
        wire::answer(id, &report)
    });
    if let Ok(answer) = answer {
        // Nobody is left to tell.
        let _ = lock(&shared.answers).write_all(&answer);
    }
}

fn options(terms: &Terms, dues: &Arc<Dues>) -> WarmOptions {
    let rates = terms.bounds.iter().filter_map(|&(slot, per_second)| {
        Rate::new(per_second, dues.clone(), slot as usize).map(Arc::new)
    });
    WarmOptions {
        deadline: terms
            .within_ms
            .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
        io_class: terms.io_class,
        metadata: terms.metadata,
        lead: terms.lead,
        threads: terms.threads,
        verify: terms.verify,
        cost: terms.cost,
        rates: rates.collect(),
        ..WarmOptions::default()
    }
}
