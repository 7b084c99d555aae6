//! The read-path hooks: attached only while something is learned.

use std::time::{Duration, Instant};

use super::view::Feature;
use crate::probe::{Group, HookState, Probes};
use crate::run::sees_pages;

/// What costs something on every read, fault or call of the machine.
const READ_PATH: [Group; 3] = [Group::Use, Group::Miss, Group::Names];

/// What costs something for each cgroup and program executed. Attached all the time: of
/// two programs on one tracepoint none is taken away while the other is needed, which
/// kernels before 5.15 did not get right.
const ALWAYS: [Group; 2] = [Group::Lifecycle, Group::Signal];

/// How far back the share of time is looked at.
const SHARE_OF: Duration = Duration::from_secs(600);

/// Hooks, and for how long they were attached.
pub(super) struct Hooks {
    states: Vec<HookState>,
    attached: Option<Instant>,
    /// (since, for how long), of the last [`SHARE_OF`].
    past: Vec<(Instant, Duration)>,
    before: Duration,
    began: Instant,
}

impl Hooks {
    /// Has every hook attached once, to know which this kernel takes, and detaches those
    /// on the read path again.
    pub(super) fn try_all(probes: &mut Probes) -> Self {
        let mut states = probes.attach(&READ_PATH);
        probes.detach(&READ_PATH);
        states.extend(probes.attach(&ALWAYS));
        Self {
            states,
            attached: None,
            past: Vec::new(),
            before: Duration::ZERO,
            began: Instant::now(),
        }
    }

    pub(super) fn states(&self) -> &[HookState] {
        &self.states
    }

    /// Whether starts can be learned: pages used can be seen.
    pub(super) fn can_learn(&self) -> bool {
        sees_pages(&self.states).is_ok()
    }

    /// What the machine lets the probes do.
    pub(super) fn features(&self) -> Vec<Feature> {
        let pages = sees_pages(&self.states).map_err(|error| error.to_string());
        let of = |is_of: fn(&HookState) -> bool| {
            let states = self.states.iter();
            let refused: Vec<&str> = states
                .filter(|state| is_of(state) && !state.live)
                .map(|state| state.reason.as_str())
                .collect();
            match refused[..] {
                [] => Ok(()),
                _ => Err(refused.join("; ")),
            }
        };
        let feature = |name, works: Result<(), String>| Feature {
            name,
            live: works.is_ok(),
            reason: works.err().unwrap_or_default(),
        };
        vec![
            feature("record_pages", pages),
            feature("record_names", of(|state| state.group == Group::Names)),
            feature(
                "signal_cgroup",
                of(|state| state.group == Group::Signal && !is_refill(state)),
            ),
            feature("signal_refill", of(is_refill)),
        ]
    }

    /// Attaches the read path's hooks, unless they are; whether they are now.
    pub(super) fn attach(&mut self, probes: &mut Probes) -> bool {
        if self.attached.is_none() {
            let states = probes.attach(&READ_PATH);
            if sees_pages(&states).is_err() {
                probes.detach(&READ_PATH);
                return false;
            }
            self.attached = Some(Instant::now());
        }
        true
    }

    /// Detaches them.
    pub(super) fn detach(&mut self, probes: &mut Probes) {
        if let Some(since) = self.attached.take() {
            probes.detach(&READ_PATH);
            self.before += since.elapsed();
            self.past.push((since, since.elapsed()));
        }
    }

    /// For how long they were attached, since the beginning.
    pub(super) fn attached_for(&self) -> Duration {
        self.before
            + self
                .attached
                .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The share of the last ten minutes, or of the time since the beginning if that is
    /// shorter (but of a minute at least), for which they were attached; 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        let from = Instant::now().checked_sub(SHARE_OF).unwrap_or(self.began);
        self.past.retain(|(since, long)| *since + *long > from);
        let past = self.past.iter().map(|(since, long)| {
            let end = *since + *long;
            end.saturating_duration_since((*since).max(from))
        });
        let now = self.attached.map_or(Duration::ZERO, |since| {
            Instant::now().saturating_duration_since(since.max(from))
        });
        let attached = past.sum::<Duration>() + now;
        let of = self
            .began
            .elapsed()
            .clamp(Duration::from_secs(60), SHARE_OF);
        attached.as_secs_f64() / of.as_secs_f64()
    }
}

/// Whether a hook tells of what starts again in the cgroup that it had.
fn is_refill(state: &HookState) -> bool {
    state.program == "signal_fill"
}
