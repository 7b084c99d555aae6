//! Cgroups that nobody told of: those that were there before the agent, and those whose
//! signals were lost.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::starts::CGROUPS;
use super::watch::{Member, Watch};
use crate::run::existing_paths;
use crate::workload;

/// For how long no signal is lost before it is looked at what there is: while many come,
/// what is seen is out of date at once.
const CALM: Duration = Duration::from_secs(2);

/// For how long it is put off at most.
const AT_MOST: Duration = Duration::from_secs(30);

/// Signals lost, and when it is looked at what they told of.
#[derive(Debug, Default)]
pub(super) struct Missed {
    lost: u64,
    /// When the first was lost that it was not looked at since.
    since: Option<Instant>,
    due: Option<Instant>,
}

impl Missed {
    /// So many were lost so far, it is said at `now`.
    pub(super) fn lost(&mut self, lost: u64, now: Instant) {
        if lost > self.lost {
            self.lost = lost;
            self.put_off(now);
        }
    }

    fn put_off(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.due = Some((now + CALM).min(since + AT_MOST));
    }

    /// Whether it is time to look; once.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.take_if(|due| *due <= now).is_some();
        if is_due {
            self.since = None;
        }
        is_due
    }
}

impl Watch {
    /// Takes up cgroups that are there: to name them, not to learn them.
    pub(super) fn take_up(&mut self, existing: Vec<(u64, Vec<u8>)>) {
        for (id, path) in existing {
            let is_known = self.cgroups.contains_key(&id);
            let is_anyones = workload::place(&path).is_some();
            if is_known || !is_anyones || self.cgroups.len() >= CGROUPS {
                continue;
            }
            // Those within a workload's own too: what is made there later is no start.
            self.cgroups.insert(id, Member::default());
            if let Some(place) = workload::topmost(&path) {
                self.older.push_back((id, place));
            }
        }
    }

    /// After signals were lost: takes up what was made, and lets go of what is gone.
    pub(super) fn catch_up(&mut self) {
        let now = Instant::now();
        if !self.missed.is_due(now) {
            return;
        }
        let existing = match existing_paths() {
            Ok(existing) => existing,
            Err(error) => {
                tracing::warn!(%error, "what the lost signals told of is not known yet");
                self.missed.put_off(now);
                return;
            }
        };
        let there: HashSet<u64> = existing.iter().map(|(id, _)| *id).collect();
        let known = self.cgroups.keys().copied();
        let gone: Vec<u64> = known.filter(|id| !there.contains(id)).collect();
        tracing::info!(
            gone = gone.len(),
            "signals were lost: looked at all cgroups"
        );
        gone.into_iter().for_each(|id| self.gone(id));
        // Of those that are waited for to be filled again a signal may have been lost.
        let kept: Vec<u64> = self.cgroups.keys().copied().collect();
        kept.into_iter().for_each(|id| self.await_refill(id));
        self.take_up(existing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_once_when_no_more_are_lost() {
        let (mut missed, now) = (Missed::default(), Instant::now());
        missed.lost(0, now);
        assert!(!missed.is_due(now + CALM));
        missed.lost(3, now);
        missed.lost(4, now + CALM / 2);
        missed.lost(4, now + CALM);
        assert!(!missed.is_due(now + CALM));
        assert!(missed.is_due(now + CALM + CALM / 2));
        assert!(!missed.is_due(now + CALM * 9));
    }

    #[test]
    fn while_more_are_lost_it_is_looked_now_and_then() {
        let (mut missed, mut now) = (Missed::default(), Instant::now());
        let mut looked = 0;
        for lost in 1..=600 {
            now += CALM / 4;
            missed.lost(lost, now);
            looked += u32::from(missed.is_due(now));
        }
        assert_eq!(looked, 300 / 30 - 1, "in five minutes");
    }
}
