//! How much is in flight ahead of starts, over all executions of a process.
//!
//! What nobody waits for yet must not keep others' reads waiting, on devices whose speed
//! nobody has measured and whose other readers nobody knows. So it is controlled as
//! transfers in the background are (delay-based, as LEDBAT, RFC 6817): as long as reads
//! come about as quickly as they ever did, more is kept in flight; when they take longer
//! they wait in a queue, and so does everybody else's: then half as much.
//!
//! That is not enough where a device takes what it is given at once and then nothing until
//! the rest of its share of a second is over, as throttled ones do (blkio, volumes of
//! clouds): however little is in flight, all of the share is gone by then. So what was read
//! in a tenth of a second most of which was spent waiting is more than the device gives,
//! and from then on less than that is asked for a second, evenly.
//!
//! And all of that is for who is alone with a device: see [`super::others`].

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::disks::{self, Disks, Number};
use super::dues::Dues;
use super::engine::lock;
use super::others::{Others, disk_use_now, give_turn, take_turn};
use super::rate::monotonic_ns;

/// Least and most bytes in flight.
const LEAST: u64 = 128 << 10;
const MOST: u64 = 64 << 20;

/// What it begins with.
const FIRST: u64 = 512 << 10;

/// Least that one thread may have in flight.
const LEAST_OF_THREAD: u64 = 64 << 10;

/// A read beside others.
const BESIDE_OTHERS: u64 = 128 << 10;

/// Reads that come within this are no burden to anybody.
const SHORT: Duration = Duration::from_millis(1);

/// Where reads wait so long, most of the time, less in flight is no help.
const STALLED: Duration = Duration::from_millis(8);

/// What is in flight is right when reads take no longer than this many times the quickest.
const LONGER: u32 = 2;

/// For how long it is known how quick reads are. Then little is kept in flight for a moment,
/// to see how quick they are when they wait for nothing (as BBR does,
/// draft-cardwell-iccrg-bbr-congestion-control, 4.3.4).
const KNOWN: Duration = Duration::from_secs(10);

/// In flight more than this is crept up to: what a device takes at once tells nothing of
/// what it takes for longer.
const STEEP: u64 = 2 << 20;

/// For how long reads are looked at before it is said how many a second are too many.
const LOOK: Duration = Duration::from_millis(100);

/// Of what was read in a second that was too many, so much is asked for, for [`KNOWN`], and
/// so much more after each second from then on.
const EASE: f64 = 0.8;
const GROWTH: f64 = 1.1;

/// Least bytes a second.
const LEAST_RATE: f64 = 4e6;

/// What a pause saves up for.
const SAVED: Duration = Duration::from_millis(5);

/// Bytes that all executions which share it may have in flight, and read in a second, by how
/// long reads take.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    dues: Arc<Dues>,
}

#[derive(Debug)]
struct State {
    others: Others,
    /// Of executions since there were none.
    disks: Disks,
    allowed: u64,
    look: Look,
    /// Bytes a second that were the most when it was seen that more are too many.
    rate: Option<(f64, Instant)>,
    /// When what was read is paid for, by that rate.
    due: Option<Instant>,
    /// Executions under way.
    executions: u64,
    quickest: Duration,
    /// Since when that is looked for.
    since: Option<Instant>,
    /// Below this it is doubled, not crept up to.
    steep: u64,
    /// When less was allowed. Reads asked for before tell nothing of now.
    cut: Option<Instant>,
}

/// What was seen of reads that were asked for since a moment.
#[derive(Debug, Default)]
struct Look {
    since: Option<Instant>,
    /// Bytes that came.
    bytes: u64,
    /// How long reads took, s: all of them together, and of the squares.
    took: f64,
    squares: f64,
}

impl Look {
    /// Whether reads waited, each moment counted by those that did then, so that many quick
    /// ones don't outweigh the one for which all was waiting; longer than `limit`.
    fn waited(&self, elapsed: Duration, limit: Duration) -> bool {
        self.took > elapsed.as_secs_f64() / 2.0 && self.squares / self.took > limit.as_secs_f64()
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            others: Others::default(),
            disks: Disks::default(),
            allowed: FIRST,
            look: Look::default(),
            rate: None,
            due: None,
            executions: 0,
            quickest: Duration::MAX,
            since: None,
            steep: STEEP,
            cut: None,
        }
    }
}

/// An execution that shares it, as long as this lives.
pub(super) struct Paced<'a>(&'a Pace);

/// Something that was asked for and is under way, as long as this lives.
#[derive(Debug)]
pub(super) struct Flight {
    pace: Arc<Pace>,
    asked: Instant,
    /// Among those of [`Others`].
    number: u64,
    /// The turn beside others that it was asked for in, if it was.
    turn: Option<u64>,
}

impl Pace {
    /// One for this process, which takes turns with those that share `dues`.
    pub fn new(dues: Arc<Dues>) -> Self {
        Self {
            state: Mutex::default(),
            dues,
        }
    }

    /// One more shares it.
    pub(super) fn join(&self) -> Paced<'_> {
        let mut state = lock(&self.state);
        if state.executions == 0 {
            // Nothing was asked for.
            state.look = Look::default();
            state.disks = Disks::default();
        }
        state.executions += 1;
        drop(state);
        Paced(self)
    }

    /// Something is to be read from a device. Until that is said of the first, who uses any
    /// disk is taken for somebody else.
    pub(super) fn reads_from(&self, device: Number) {
        if lock(&self.state).disks.has(device) {
            return;
        }
        let below = disks::below(Path::new("/sys"), device);
        let mut state = lock(&self.state);
        if state.disks.add(device, below) {
            state.others.listen_anew();
        }
    }

    /// Bytes that one of the `threads` of an execution may have in flight, in two steps.
    pub(super) fn share(&self, threads: usize) -> u64 {
        let state = lock(&self.state);
        if state.others.are_there(Instant::now()) {
            return 2 * BESIDE_OTHERS;
        }
        let all = state.executions.max(1) * threads.max(1) as u64;
        (state.allowed / all).max(LEAST_OF_THREAD)
    }

    /// Whether who has something in flight is to see first that it comes.
    pub(super) fn is_quiet(&self) -> bool {
        lock(&self.state).others.is_quiet(Instant::now())
    }

    /// Asks for `bytes`.
    ///
    /// # Errors
    /// How long to wait before it may be time for them.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<Flight, Duration> {
        let (mut state, now) = (lock(&self.state), Instant::now());
        let State { others, disks, .. } = &mut *state;
        if let Some(wait) = others.wait(now, || disk_use_now(disks.known())) {
            return Err(wait);
        }
        let turn = match state.others.are_there(now) {
            true => {
                state.begins_anew();
                Some(take_turn(self.dues.turn(), monotonic_ns())?)
            }
            false => match state.take(bytes, now) {
                Some(wait) => return Err(wait),
                None => None,
            },
        };
        Ok(Flight {
            pace: self.clone(),
            asked: now,
            number: state.others.begins(now),
            turn,
        })
    }

    /// `bytes` have come without anybody having waited.
    pub(super) fn came_by_itself(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.look.bytes = state.look.bytes.saturating_add(bytes);
    }

    /// A read of `bytes` that was waited for has come: asked for at `asked`, there at
    /// `now`.
    pub(super) fn came(&self, bytes: u64, asked: Instant, now: Instant) {
        let mut state = lock(&self.state);
        // What is read alone and with pauses tells nothing of how much can be.
        if !state.others.are_there(now) {
            state.came(bytes, asked, now);
        }
    }
}

impl Flight {
    /// In a turn beside others the most bytes that may be asked for; the next is not to be
    /// before they have come.
    pub(super) fn in_turn(&self) -> Option<u64> {
        self.turn.map(|_| BESIDE_OTHERS)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            let took = self.asked.elapsed();
            give_turn(self.pace.dues.turn(), turn, monotonic_ns(), took);
        }
        lock(&self.pace.state).others.ended(self.number);
    }
}

impl State {
    /// Bytes a second that may be asked for.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (rate, since) = self.rate?;
        let later = now.saturating_duration_since(since).saturating_sub(KNOWN);
        Some(rate * GROWTH.powf(later.as_secs_f64()))
    }

    /// Others came, and nothing is known of how much can be in flight after them.
    fn begins_anew(&mut self) {
        (self.allowed, self.steep) = (FIRST, STEEP);
        self.look = Look::default();
    }

    /// Asks for `bytes`; how long not yet, if not.
    fn take(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        if let Some(rate) = self.rate(now) {
            let earliest = now.checked_sub(SAVED).unwrap_or(now);
            let due = self.due.map_or(now, |due| due.max(earliest));
            if due > now {
                return Some(due - now);
            }
            let costs = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(KNOWN);
            self.due = due.checked_add(costs.min(KNOWN));
        }
        self.look.since.get_or_insert(now);
        None
    }

    fn came(&mut self, bytes: u64, asked: Instant, now: Instant) {
        let took = now.saturating_duration_since(asked);
        let since = *self.since.get_or_insert(asked);
        if now.saturating_duration_since(since) >= KNOWN {
            self.steep = self.allowed / 2;
            self.allowed = LEAST;
            self.quickest = Duration::MAX;
            self.since = Some(now);
            self.cut = Some(now);
        }
        self.look(bytes, asked, now);
        if self.cut.is_some_and(|cut| asked < cut) {
            return;
        }
        self.quickest = self.quickest.min(took);
        if took <= self.burden() {
            // Twice as much after all that is in flight has come; later a step more.
            let more = if self.allowed < self.steep {
                bytes
            } else {
                bytes.saturating_mul(LEAST) / self.allowed
            };
            self.allowed = self.allowed.saturating_add(more).min(MOST);
        } else {
            self.allowed = (self.allowed / 2).max(LEAST);
            self.steep = self.allowed;
            self.cut = Some(now);
        }
    }

    /// A read that takes longer than this has waited for others.
    fn burden(&self) -> Duration {
        SHORT.max(self.quickest.saturating_mul(LONGER))
    }

    /// Sees whether more is asked for in a second than the device gives.
    fn look(&mut self, bytes: u64, asked: Instant, now: Instant) {
        let since = *self.look.since.get_or_insert(asked);
        if asked < since {
            return;
        }
        let took = now.saturating_duration_since(asked).as_secs_f64();
        self.look.bytes = self.look.bytes.saturating_add(bytes);
        self.look.took += took;
        self.look.squares += took.powi(2);
        let elapsed = now.saturating_duration_since(since);
        if elapsed < LOOK {
            return;
        }
        let look = std::mem::take(&mut self.look);
        let stalled = STALLED.max(self.burden().saturating_mul(2));
        if look.waited(elapsed, stalled) {
            let read = look.bytes as f64 / elapsed.as_secs_f64();
            // Soon after it was lowered, less is read because of what was too many before.
            let asked = match self.rate {
                Some((rate, since)) if now.saturating_duration_since(since) < KNOWN => rate,
                _ => read,
            };
            self.rate = Some(((asked * EASE).max(LEAST_RATE), now));
            // What was too many has to come before anything else does.
            self.look.since = now.checked_add(LOOK);
        }
    }
}

impl Drop for Paced<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
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
            assert!(queue <= SHORT * 4, "{per_second}: {queue:?}");
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

    /// Has a device that gives so many bytes each tenth of a second, at once, and then
    /// nothing until the next, read for so many of them; what was read in each, and whether
    /// somebody else would have waited in it.
    fn run_gated(
        state: &mut State,
        began: Instant,
        budget: u64,
        slices: usize,
    ) -> Vec<(u64, bool)> {
        const SLICE: Duration = Duration::from_millis(100);
        const STEP: u64 = 64 << 10;
        let latency = Duration::from_micros(300);
        let mut seen = vec![(0, false); slices + 100];
        let mut now = began;
        let mut flying = std::collections::VecDeque::<(Instant, Instant)>::new();
        while now < began + SLICE * slices as u32 {
            while let Some(&(asked, comes)) = flying.front()
                && comes <= now
            {
                flying.pop_front();
                state.came(STEP, asked, comes);
            }
            let next = flying.front().map(|(_, comes)| *comes);
            let is_full = (flying.len() as u64 + 1) * STEP > state.allowed;
            if let Some(next) = next.filter(|_| is_full) {
                now = next;
                continue;
            }
            if let Some(wait) = state.take(STEP, now) {
                now = next.map_or(now + wait, |next| next.min(now + wait));
                continue;
            }
            let slice = ((now - began).as_nanos() / SLICE.as_nanos()) as usize;
            let gives = (slice..seen.len()).find(|at| seen[*at].0 + STEP <= budget);
            let gives = gives.expect("a slice that has room");
            seen[gives].0 += STEP;
            seen[slice].1 |= gives > slice;
            flying.push_back((now, now.max(began + SLICE * gives as u32) + latency));
        }
        seen.truncate(slices);
        seen
    }

    #[test]
    fn a_throttled_disk_is_soon_asked_for_less_than_it_gives() {
        for budget in [2_000_000, 10_000_000, 50_000_000] {
            let mut state = State::default();
            let seen = run_gated(&mut state, Instant::now(), budget, 100);
            let later = &seen[20..];
            let waited = later.iter().filter(|(_, waited)| *waited).count();
            assert!(waited <= 2, "{budget}: {waited} of {}", later.len());
            let read: u64 = later.iter().map(|(read, _)| read).sum();
            let all = budget * later.len() as u64;
            assert!(read * 2 > all, "{budget}: {read} of {all}");
        }
    }

    #[test]
    fn one_read_that_takes_long_is_not_too_many_reads() {
        let mut state = State::default();
        let began = Instant::now();
        let quick = Duration::from_micros(300);
        for read in 0..2000 {
            let asked = began + quick * read;
            let took = if read == 1000 { quick * 20 } else { quick };
            assert_eq!(state.take(64 << 10, asked), None);
            state.came(64 << 10, asked, asked + took);
        }
        assert_eq!(state.rate(began + quick * 2000), None);
    }

    #[test]
    fn what_was_too_many_is_asked_for_again_later() {
        let mut state = State::default();
        let now = Instant::now();
        state.rate = Some((50e6, now));
        assert_eq!(state.rate(now + KNOWN), Some(50e6));
        let later = state.rate(now + KNOWN * 2).expect("a rate");
        assert!(later > 100e6, "{later}");
        let forgotten = state
            .rate(now + Duration::from_secs(1 << 40))
            .expect("a rate");
        assert!(forgotten > 1e12);
        assert_eq!(
            state.take(u64::MAX, now + Duration::from_secs(1 << 30)),
            None
        );
    }

    #[test]
    fn executions_share_it() {
        let pace = Pace::new(Arc::new(Dues::new().expect("memory")));
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
                state.take(bytes, asked);
                state.came(bytes, asked, asked + Duration::from_nanos(took));
                prop_assert!((LEAST..=MOST).contains(&state.allowed));
            }
        }
    }
}
