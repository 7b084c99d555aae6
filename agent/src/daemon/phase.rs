//! When a start is over: new touches fade, or there was enough time. Pure.

use std::time::Duration;

/// What of all touched pages may be new in the last [`Limits::settle`] of a start that is
/// over: 2 %.
const FADED: f64 = 0.02;

/// How long a start is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// It is over when hardly anything was new for so long.
    pub settle: Duration,
    /// It is over then, whatever it does.
    pub most: Duration,
}

/// Why a start is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Hardly anything was new.
    Faded,
    /// It went on for [`Limits::most`].
    Long,
    /// Its cgroup is gone.
    Gone,
}

/// The new touches of a start, over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Phase {
    /// (since the start, pages until then), one for each look.
    seen: Vec<(Duration, u64)>,
    pages: u64,
    first: Option<Duration>,
}

impl Phase {
    /// So many pages were new, `since_start`.
    pub(super) fn touched(&mut self, pages: u64, since_start: Duration) {
        self.pages += pages;
        self.first.get_or_insert(since_start);
    }

    /// When the first page was touched, since the start.
    pub(super) fn first(&self) -> Option<Duration> {
        self.first
    }

    /// Pages that were new so far.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Looks at it, every second or so. `None`: it goes on.
    pub(super) fn look(&mut self, since_start: Duration, limits: &Limits) -> Option<Over> {
        self.seen.push((since_start, self.pages));
        if since_start >= limits.most {
            return Some(Over::Long);
        }
        let first = self.first?;
        let from = since_start.checked_sub(limits.settle)?;
        if from < first {
            return None;
        }
        // What it was at the last look before the window.
        let before = self.seen.iter().rev().find(|(at, _)| *at <= from);
        let before = before.map_or(0, |(_, pages)| *pages);
        let is_new = (self.pages - before) as f64;
        (is_new <= self.pages as f64 * FADED).then_some(Over::Faded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        settle: Duration::from_secs(5),
        most: Duration::from_secs(60),
    };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_start_fades() {
        let mut phase = Phase::default();
        phase.touched(1000, seconds(1));
        for second in 1..6 {
            assert_eq!(phase.look(seconds(second), &LIMITS), None, "{second}");
        }
        assert_eq!(phase.look(seconds(6), &LIMITS), Some(Over::Faded));
    }

    #[test]
    fn what_goes_on_reading_is_not_over_before_its_time() {
        let mut phase = Phase::default();
        for second in 0..60 {
            phase.touched(100, seconds(second));
            assert_eq!(phase.look(seconds(second), &LIMITS), None, "{second}");
        }
        assert_eq!(phase.look(seconds(60), &LIMITS), Some(Over::Long));
    }

    #[test]
    fn what_has_not_begun_is_waited_for() {
        let mut phase = Phase::default();
        for second in 0..59 {
            assert_eq!(phase.look(seconds(second), &LIMITS), None);
        }
        assert_eq!(phase.first(), None);
    }

    proptest! {
        #[test]
        fn every_start_is_over_sometime(touches in proptest::collection::vec(0u64..1 << 30, 0..200)) {
            let mut phase = Phase::default();
            let mut over = None;
            for second in 0..=60 {
                if let Some(&pages) = touches.get(second as usize).filter(|&&pages| pages > 0) {
                    phase.touched(pages, seconds(second));
                }
                over = over.or(phase.look(seconds(second), &LIMITS));
            }
            prop_assert!(over.is_some());
        }
    }
}
