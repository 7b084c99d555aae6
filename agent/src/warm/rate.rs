//! How many bytes a second may be read, by all executions that share it, in whatever
//! process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::dues::Dues;

/// What may be read at once after a pause, as a share of a second's worth: 1 in so many.
const BURST: u64 = 10;

/// Longest that one waits before it looks whether it is to stop.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

const NS: u64 = 1_000_000_000;

/// A bound on bytes a second. Of what was read it is known until when it is paid for;
/// whoever comes before that waits. One step may be more than what flows in meanwhile,
/// which the next pays for.
#[derive(Debug)]
pub struct Rate {
    per_second: u64,
    dues: Arc<Dues>,
    slot: usize,
}

impl Rate {
    /// At most so many bytes a second, of all that have the same slot of the same dues;
    /// `None` for 0, which is no bound, and for a slot that there is not.
    pub fn new(per_second: u64, dues: Arc<Dues>, slot: usize) -> Option<Self> {
        (per_second > 0 && slot < Dues::SLOTS).then_some(Self {
            per_second,
            dues,
            slot,
        })
    }

    /// Bytes a second.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Its place among the dues.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Forgets what is due.
    pub fn reset(&self) {
        if let Some(due) = self.dues.slot(self.slot) {
            due.store(0, Ordering::Relaxed);
        }
    }

    /// Takes `bytes` once all before them are paid for, unless `stopped` says so before;
    /// whether it did.
    pub(super) fn take(&self, bytes: u64, stopped: impl Fn() -> bool) -> bool {
        let Some(due) = self.dues.slot(self.slot) else {
            return true;
        };
        while let Some(wait) = try_take(due, self.per_second, bytes, monotonic_ns()) {
            if stopped() {
                return false;
            }
            std::thread::sleep(wait.min(PAUSE));
        }
        true
    }
}

/// Takes `bytes` at a time; how long what came before is not paid for yet, where it is
/// not.
fn try_take(due: &AtomicU64, per_second: u64, bytes: u64, now_ns: u64) -> Option<Duration> {
    let cost = u128::from(bytes) * u128::from(NS) / u128::from(per_second.max(1));
    let cost = u64::try_from(cost).unwrap_or(u64::MAX);
    // A pause saves up so much.
    let earliest = now_ns.saturating_sub(NS / BURST);
    let mut paid = due.load(Ordering::Relaxed);
    loop {
        if paid > now_ns {
            return Some(Duration::from_nanos(paid - now_ns));
        }
        let next = paid.max(earliest).saturating_add(cost);
        match due.compare_exchange_weak(paid, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return None,
            Err(other) => paid = other,
        }
    }
}

/// `CLOCK_MONOTONIC`, ns: the same in all processes, and in the probes' records.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * NS + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_no_bound() {
        let dues = Arc::new(Dues::new().expect("memory"));
        assert!(Rate::new(0, dues.clone(), 0).is_none());
        assert!(Rate::new(1, dues.clone(), Dues::SLOTS).is_none());
        let rate = Rate::new(1, dues.clone(), 3).expect("a bound");
        assert!(rate.take(1 << 40, || false));
        assert!(!rate.take(1, || true));
        // Another has its own.
        let other = Rate::new(1, dues, 4).expect("a bound");
        assert!(other.take(1, || true));
        rate.reset();
        assert!(rate.take(1, || true));
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_flows_in(
            per_second in 1u64..1 << 30,
            steps in proptest::collection::vec((1u64..1 << 24, 0u64..1 << 20), 1..100),
        ) {
            let due = AtomicU64::new(0);
            let began = 1_000 * NS;
            let (mut now, mut taken, mut largest) = (began, 0.0, 0.0f64);
            for (bytes, us) in steps {
                now += us * 1000;
                if try_take(&due, per_second, bytes, now).is_none() {
                    taken += bytes as f64;
                    largest = largest.max(bytes as f64);
                }
            }
            let flowed = (now - began) as f64 / NS as f64 * per_second as f64;
            // Each step's cost is rounded to a nanosecond.
            let rounded = 100.0 * per_second as f64 / NS as f64;
            let most = flowed + per_second as f64 / BURST as f64 + largest + rounded;
            prop_assert!(taken <= most * 1.000_001, "{} {}", taken, most);
        }
    }
}
