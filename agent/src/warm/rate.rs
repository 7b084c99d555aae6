//! How many bytes a second may be read, by all executions that share it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be read at once after a pause, as a share of a second's worth.
const BURST: f64 = 0.1;

/// Longest that one waits before it looks whether it is to stop.
const PAUSE: Duration = Duration::from_millis(10);

/// A bound on bytes a second (a token bucket). Whoever finds the bucket empty waits; one
/// step may overdraw it, which the next pays for.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that may be read; negative: so many too many were.
    bytes: f64,
    at: Instant,
}

impl Rate {
    /// At most so many bytes a second; `None` for 0, which is no bound.
    pub fn new(per_second: u64) -> Option<Self> {
        let bucket = Bucket {
            bytes: per_second as f64 * BURST,
            at: Instant::now(),
        };
        (per_second > 0).then(|| Self {
            per_second: per_second as f64,
            bucket: Mutex::new(bucket),
        })
    }

    /// Takes `bytes` out once there are some, unless `stopped` says so before; whether it
    /// did.
    pub(super) fn take(&self, bytes: u64, stopped: impl Fn() -> bool) -> bool {
        loop {
            match self.try_take(bytes, Instant::now()) {
                None => return true,
                Some(_) if stopped() => return false,
                Some(wait) => std::thread::sleep(wait.min(PAUSE)),
            }
        }
    }

    /// Takes `bytes` out at a time; how long it is empty yet, where it is.
    fn try_take(&self, bytes: u64, now: Instant) -> Option<Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        let filled = bucket.bytes + passed * self.per_second;
        bucket.bytes = filled.min(self.per_second * BURST);
        bucket.at = now;
        if bucket.bytes < 0.0 {
            return Some(Duration::from_secs_f64(-bucket.bytes / self.per_second));
        }
        bucket.bytes -= bytes as f64;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_no_bound() {
        assert!(Rate::new(0).is_none());
        let rate = Rate::new(1).expect("a bound");
        assert!(rate.take(1 << 40, || false));
        assert!(!rate.take(1, || true));
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_flows_in(
            per_second in 1u64..1 << 30,
            steps in proptest::collection::vec((1u64..1 << 24, 0u64..1 << 20), 1..100),
        ) {
            let rate = Rate::new(per_second).expect("a bound");
            let began = rate.bucket.lock().expect("not poisoned").at;
            let (mut now, mut taken, mut largest) = (began, 0.0, 0.0f64);
            for (bytes, us) in steps {
                now += Duration::from_micros(us);
                if rate.try_take(bytes, now).is_none() {
                    taken += bytes as f64;
                    largest = largest.max(bytes as f64);
                }
            }
            let flowed = (now - began).as_secs_f64() * per_second as f64;
            let most = flowed + per_second as f64 * BURST + largest;
            prop_assert!(taken <= most * 1.000_001, "{} {}", taken, most);
        }
    }
}
