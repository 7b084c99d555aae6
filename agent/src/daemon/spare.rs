//! What is known already need not be learned now. The hooks cost every program of the node
//! something, and so does what comes of them: where programs wait for a processor, or many
//! starts of one workload come at once, that is more than another run in its profile is
//! worth.

use std::time::{Duration, Instant};

use super::start::Start;
use super::watch::Watch;
use crate::run::{now_ms, procfs};

/// A profile that was written less long ago is not out of date, ms.
const LATELY_MS: u64 = 24 * 60 * 60 * 1000;

/// Starts of a known workload that are learned at a time.
const TOGETHER: usize = 2;

/// For how long the processors are looked at before it is said how much they are wanted.
const LOOK: Duration = Duration::from_secs(1);

/// How much programs wait for a processor.
#[derive(Debug, Default)]
pub(super) struct Processors {
    last: Option<(Instant, u64)>,
    percent: f64,
}

impl Processors {
    /// Share of the last second or so in which some task waited for one, percent; 0 where
    /// the kernel does not say.
    pub(super) fn waited_for(&self) -> f64 {
        self.percent
    }

    fn look(&mut self) {
        let text = std::fs::read_to_string("/proc/pressure/cpu").ok();
        if let Some(total_us) = text.as_deref().and_then(procfs::stall_us) {
            self.saw(total_us, Instant::now());
        }
    }

    fn saw(&mut self, total_us: u64, now: Instant) {
        let (since, before) = *self.last.get_or_insert((now, total_us));
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= LOOK {
            let waited = Duration::from_micros(total_us.saturating_sub(before));
            self.percent = (waited.as_secs_f64() / elapsed.as_secs_f64() * 100.0).min(100.0);
            self.last = Some((now, total_us));
        }
    }
}

/// Whether a profile was written so lately that it is not out of date.
pub(super) fn is_lately(updated_ms: u64) -> bool {
    now_ms().saturating_sub(updated_ms) < LATELY_MS
}

impl Watch {
    /// Why a start need not be learned; `None`: it is to be.
    pub(super) fn spared(&self, id: u64, key: &str) -> Option<&'static str> {
        if !self.starts.get(&id)?.known_lately {
            return None;
        }
        let is_other = |start: &&Start| {
            start.cgroup != id && start.is_learned() && start.key().is_some_and(|k| k == key)
        };
        if self.starts.values().filter(is_other).count() >= TOGETHER {
            return Some("enough_learned");
        }
        self.are_wanted().then_some("cpu_pressure")
    }

    /// Whether programs wait for the processors.
    pub(super) fn are_wanted(&self) -> bool {
        self.processors.waited_for() > self.shared.settings().cpu_pressure
    }

    /// Looks at the processors, and gives up what need not be learned now.
    pub(super) fn spare(&mut self) {
        self.processors.look();
        if !self.are_wanted() {
            return;
        }
        let starts = self.starts.values();
        let known = starts.filter(|start| start.known_lately && start.is_learned());
        let known: Vec<u64> = known.map(|start| start.cgroup).collect();
        for id in known {
            self.give_up(id, "cpu_pressure");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_wanted_as_much_as_somebody_waited_in_a_second() {
        let mut processors = Processors::default();
        let began = Instant::now();
        processors.saw(5_000_000, began);
        assert_eq!(processors.waited_for(), 0.0);
        processors.saw(5_400_000, began + LOOK / 2);
        assert_eq!(processors.waited_for(), 0.0, "too short to tell");
        processors.saw(5_600_000, began + LOOK);
        assert!((processors.waited_for() - 60.0).abs() < 0.1);
        processors.saw(5_600_000, began + LOOK * 3);
        assert_eq!(processors.waited_for(), 0.0);
        processors.saw(u64::MAX, began + LOOK * 4);
        assert_eq!(processors.waited_for(), 100.0);
        processors.saw(0, began + LOOK * 5);
        assert_eq!(processors.waited_for(), 0.0);
    }

    #[test]
    fn a_profile_gets_out_of_date() {
        assert!(is_lately(now_ms()));
        assert!(is_lately(u64::MAX));
        assert!(!is_lately(now_ms() - LATELY_MS));
    }
}
