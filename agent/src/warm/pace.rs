//! How much is in flight ahead of starts, over all executions of a process.
//!
//! What nobody waits for yet must not keep others' reads waiting, on devices whose speed
//! nobody has measured and whose other readers nobody knows. So it is controlled as
//! transfers in the background are (delay-based, as LEDBAT, RFC 6817): as long as reads
//! come about as quickly as they ever did, more is kept in flight; when they take longer
//! they wait in a queue, and so does everybody else's: then half as much.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::engine::lock;

/// Least and most bytes in flight.
const LEAST: u64 = 512 << 10;
const MOST: u64 = 64 << 20;

/// What it begins with.
const FIRST: u64 = 1 << 20;

/// Least that one thread may have in flight.
const LEAST_OF_THREAD: u64 = 32 << 10;

/// Reads that come within this are no burden to anybody.
const SHORT: Duration = Duration::from_millis(4);

/// What is in flight is right when reads take no longer than this many times the quickest.
const LONGER: u32 = 2;

/// For how long it is known how quick reads are. Then little is kept in flight for a moment,
/// to see how quick they are when they wait for nothing (as BBR does,
/// draft-cardwell-iccrg-bbr-congestion-control, 4.3.4).
const KNOWN: Duration = Duration::from_secs(10);

/// Bytes that all executions which share it may have in flight, by how long reads take.
#[derive(Debug, Default)]
pub struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    allowed: u64,
    /// Executions under way.
    executions: u64,
    quickest: Duration,
    /// Since when that is looked for.
    since: Option<Instant>,
    /// Nothing has taken too long since: it is doubled, not crept up to.
    is_first: bool,
    /// When less was allowed. Reads asked for before tell nothing of now.
    cut: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            allowed: FIRST,
            executions: 0,
            quickest: Duration::MAX,
            since: None,
            is_first: true,
            cut: None,
        }
    }
}

/// An execution that shares it, as long as this lives.
pub(super) struct Paced<'a>(&'a Pace);

impl Pace {
    /// One more shares it.
    pub(super) fn join(&self) -> Paced<'_> {
        lock(&self.0).executions += 1;
        Paced(self)
    }

    /// Bytes that one of the `threads` of an execution may have in flight.
    pub(super) fn share(&self, threads: usize) -> u64 {
        let state = lock(&self.0);
        let all = state.executions.max(1) * threads.max(1) as u64;
        (state.allowed / all).max(LEAST_OF_THREAD)
    }

    /// A read of `bytes` that was waited for has come: asked for at `asked`, there at
    /// `now`.
    pub(super) fn came(&self, bytes: u64, asked: Instant, now: Instant) {
        lock(&self.0).came(bytes, asked, now);
    }
}

impl State {
    fn came(&mut self, bytes: u64, asked: Instant, now: Instant) {
        let took = now.saturating_duration_since(asked);
        let since = *self.since.get_or_insert(asked);
        if now.saturating_duration_since(since) >= KNOWN {
            *self = Self {
                allowed: LEAST,
                executions: self.executions,
                since: Some(now),
                cut: Some(now),
                ..Self::default()
            };
        }
        if self.cut.is_some_and(|cut| asked < cut) {
            return;
        }
        self.quickest = self.quickest.min(took);
        if took <= SHORT.max(self.quickest.saturating_mul(LONGER)) {
            // Twice as much after all that is in flight has come; later a step more.
            let more = if self.is_first {
                bytes
            } else {
                bytes.saturating_mul(LEAST) / self.allowed
            };
            self.allowed = self.allowed.saturating_add(more).min(MOST);
        } else {
            self.allowed = (self.allowed / 2).max(LEAST);
            self.is_first = false;
            self.cut = Some(now);
        }
    }
}

impl Drop for Paced<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.executions = state.executions.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Has a device of so many bytes a second, and so long to answer, read for a while by
    /// one who keeps in flight what is allowed; what was allowed then, and all that was read.
    fn run(
        state: &mut State,
        began: Instant,
        per_second: u64,
        latency: Duration,
        reads: usize,
    ) -> Instant {
        let mut free = began;
        let mut now = began;
        let mut flying = std::collections::VecDeque::new();
        let mut bytes = 0;
        for _ in 0..reads {
            let step = (state.allowed / 4).max(4096);
            while bytes + step > state.allowed
                && let Some((size, asked, comes)) = flying.pop_front()
            {
                now = now.max(comes);
                bytes -= size;
                state.came(size, asked, now);
            }
            let takes = Duration::from_nanos(step * 1_000_000_000 / per_second);
            free = free.max(now + latency) + takes;
            flying.push_back((step, now, free));
            bytes += step;
        }
        now
    }

    fn wait(state: &State, per_second: u64) -> Duration {
        Duration::from_nanos(state.allowed * 1_000_000_000 / per_second)
    }

    #[test]
    fn a_slow_disk_is_given_little_and_a_fast_one_what_fills_it() {
        let latency = Duration::from_micros(200);
        for per_second in [100_000_000, 1_000_000_000, 3_000_000_000] {
            let mut state = State::default();
            run(&mut state, Instant::now(), per_second, latency, 10_000);
            let queue = wait(&state, per_second);
            assert!(queue >= latency, "{per_second}: {queue:?}");
            assert!(queue <= SHORT * 2, "{per_second}: {queue:?}");
        }
    }

    #[test]
    fn where_every_read_takes_long_enough_is_in_flight() {
        let (latency, per_second) = (Duration::from_millis(20), 500_000_000);
        let mut state = State::default();
        run(&mut state, Instant::now(), per_second, latency, 10_000);
        let queue = wait(&state, per_second);
        assert!(queue >= latency / 2, "{queue:?}");
        assert!(queue <= latency * 3, "{queue:?}");
    }

    #[test]
    fn a_disk_that_others_begin_to_use_is_left_to_them() {
        let latency = Duration::from_micros(200);
        let mut state = State::default();
        let began = Instant::now();
        let now = run(&mut state, began, 1_000_000_000, latency, 10_000);
        let before = state.allowed;
        run(&mut state, now, 50_000_000, latency, 200);
        assert!(state.allowed < before / 4, "{} {before}", state.allowed);
    }

    #[test]
    fn executions_share_it() {
        let pace = Pace::default();
        let one = pace.join();
        let alone = pace.share(2);
        let other = pace.join();
        assert_eq!(pace.share(2), alone / 2);
        drop(other);
        drop(one);
        assert_eq!(pace.share(2), alone);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            reads in prop::collection::vec((any::<u64>(), 0u64..1 << 40, 0u64..1 << 40), 0..100),
        ) {
            let began = Instant::now();
            let mut state = State::default();
            for (bytes, asked, took) in reads {
                let asked = began + Duration::from_nanos(asked);
                state.came(bytes, asked, asked + Duration::from_nanos(took));
                prop_assert!((LEAST..=MOST).contains(&state.allowed));
            }
        }
    }
}
