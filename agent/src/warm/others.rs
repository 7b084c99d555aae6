//! Whether somebody else uses the node's disks, and turns beside them.
//!
//! However little one keeps in flight: a disk that is never idle keeps everybody waiting,
//! who read alone before. So who is in no hurry looks whether it is alone, as on a shared
//! wire (carrier sense): now and then nothing is asked for, and once all that was in flight
//! has come, what the kernel counts as done on those disks in the next moment is others'. From
//! then on, for a while, one read after the other is made, with pauses between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::disks::Number;

/// How often it is listened, and for how long each time.
const EVERY: Duration = Duration::from_millis(250);
const QUIET: Duration = Duration::from_millis(10);

/// The kernel counts what is done a little after whoever waited for it knows.
const SETTLE: Duration = Duration::from_millis(1);

/// What is in flight for longer is not waited for: it is listened the next time.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is in flight for longer is stuck, and nothing will be heard of it.
const STUCK: Duration = Duration::from_secs(1);

/// For how long others are taken to go on who were heard.
const HOLD: Duration = Duration::from_secs(1);

/// Of the time beside others, reads of ours take one part in so many: no more of others'
/// reads meet one of ours than the slowest in a hundred.
const TURN: u32 = 100;

/// The longest that a turn is waited for: who has it may never give it back.
const CLAIM: Duration = Duration::from_secs(1);

/// What took no longer did not come from a disk.
const IN_MEMORY: Duration = Duration::from_micros(50);

/// What disks have done and are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Reads and writes that are done, of all disks.
    pub done: u64,
    /// Those under way.
    pub under_way: u64,
}

/// What is known of others. Pure: what the kernel has counted is given to it.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Operations of ours that are under way, and since when.
    flying: BTreeMap<u64, Instant>,
    /// Operations so far.
    begun: u64,
    phase: Phase,
    /// When it was listened last.
    listened: Option<Instant>,
    /// When they were heard last.
    heard: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Reads,
    /// Until nothing is in flight, since then.
    Drains(Instant),
    /// Nothing is, since then.
    Settles(Instant),
    /// Since then, when this was seen.
    Listens(Instant, Option<DiskUse>),
}

impl Others {
    /// How long to wait before anything may be asked for, if not now. `seen` is what the
    /// node's disks do now; `None` where nobody can tell, which is taken for others.
    pub(super) fn wait(
        &mut self,
        now: Instant,
        seen: impl FnOnce() -> Option<DiskUse>,
    ) -> Option<Duration> {
        let since = |at: Instant| now.saturating_duration_since(at);
        match self.phase {
            Phase::Reads if !self.is_due(now) => None,
            Phase::Reads if self.is_flying(now) => {
                self.phase = Phase::Drains(now);
                Some(SETTLE)
            }
            Phase::Reads => {
                self.phase = Phase::Settles(now);
                Some(SETTLE)
            }
            Phase::Drains(_) if !self.is_flying(now) => {
                self.phase = Phase::Settles(now);
                Some(SETTLE)
            }
            Phase::Drains(from) if since(from) < PATIENCE => Some(SETTLE),
            Phase::Drains(_) => {
                self.ends(now, false);
                None
            }
            Phase::Settles(from) if since(from) < SETTLE => Some(SETTLE - since(from)),
            Phase::Settles(_) => {
                self.phase = Phase::Listens(now, seen());
                Some(QUIET)
            }
            Phase::Listens(from, _) if since(from) < QUIET => Some(QUIET - since(from)),
            // Nobody came by meanwhile: that tells of another time.
            Phase::Listens(from, _) if since(from) > QUIET * 3 => {
                self.phase = Phase::Settles(now);
                Some(SETTLE)
            }
            Phase::Listens(_, before) => {
                let after = seen();
                let is_alone = before.zip(after).is_some_and(|(before, after)| {
                    before.done == after.done && after.under_way == 0
                });
                self.ends(now, !is_alone);
                None
            }
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let since = self.listened.map(|at| now.saturating_duration_since(at));
        since.is_none_or(|since| since >= EVERY)
    }

    fn is_flying(&self, now: Instant) -> bool {
        let mut flying = self.flying.values();
        flying.any(|asked| now.saturating_duration_since(*asked) < STUCK)
    }

    /// Whether whoever has something in flight should see that it comes, and ask for no more.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.phase != Phase::Reads || self.is_due(now)
    }

    /// What was heard was of other disks.
    pub(super) fn listen_anew(&mut self) {
        (self.phase, self.listened, self.heard) = (Phase::Reads, None, None);
    }

    fn ends(&mut self, now: Instant, heard: bool) {
        self.phase = Phase::Reads;
        self.listened = Some(now);
        if heard {
            self.heard = Some(now);
        }
    }

    /// Whether there are others, as far as is known.
    pub(super) fn are_there(&self, now: Instant) -> bool {
        let since = self.heard.map(|at| now.saturating_duration_since(at));
        since.is_some_and(|since| since < HOLD)
    }

    /// Something is asked for; its number.
    pub(super) fn begins(&mut self, now: Instant) -> u64 {
        self.begun += 1;
        self.flying.insert(self.begun, now);
        self.begun
    }

    /// It has come.
    pub(super) fn ended(&mut self, number: u64) {
        self.flying.remove(&number);
    }
}

/// Takes the turn of all processes that share it, at `now_ns` of `CLOCK_MONOTONIC`: what
/// stands for it.
///
/// # Errors
/// How long it is not to be had yet.
pub(super) fn take_turn(turn: &AtomicU64, now_ns: u64) -> Result<u64, Duration> {
    let until = turn.load(Ordering::Relaxed);
    let mine = now_ns.saturating_add(ns(CLAIM));
    // What a clock can't have said is not waited for.
    if until > now_ns && until - now_ns <= ns(CLAIM) * u64::from(TURN) {
        return Err(Duration::from_nanos(until - now_ns));
    }
    turn.compare_exchange(until, mine, Ordering::Relaxed, Ordering::Relaxed)
        .map(|_| mine)
        .map_err(|_| IN_MEMORY)
}

/// Gives it back at `now_ns`, after something that took so long.
pub(super) fn give_turn(turn: &AtomicU64, mine: u64, now_ns: u64, took: Duration) {
    let pause = match took > IN_MEMORY {
        true => ns(took.min(CLAIM)).saturating_mul(u64::from(TURN - 1)),
        false => 0,
    };
    let next = now_ns.saturating_add(pause);
    let given = turn.compare_exchange(mine, next, Ordering::Relaxed, Ordering::Relaxed);
    if given.is_err() {
        // It took so long that another has it.
        turn.fetch_max(next, Ordering::Relaxed);
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether what is read from a device of this name is read from another one, or from memory.
pub(super) fn ends_elsewhere(name: &str) -> bool {
    let kinds = ["loop", "ram", "zram"];
    kinds.iter().any(|kind| name.starts_with(kind))
}

/// What disks have done, of the text of `/proc/diskstats` (the kernel's
/// Documentation/admin-guide/iostats.rst). Not loop devices and memory, which end on other
/// disks or on none. Lines of another form count nothing.
pub fn disk_use(diskstats: &str) -> DiskUse {
    use_of(diskstats, None)
}

/// The same of some disks `only`.
fn use_of(diskstats: &str, only: Option<&BTreeSet<Number>>) -> DiskUse {
    let disks = diskstats.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let device = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let name = fields.next()?;
        let counts = match only {
            Some(disks) => disks.contains(&device),
            None => !ends_elsewhere(name),
        };
        if !counts {
            return None;
        }
        let mut number = |skip| -> Option<u64> { fields.nth(skip)?.parse().ok() };
        let (reads, writes, under_way) = (number(0)?, number(3)?, number(3)?);
        Some((reads.wrapping_add(writes), under_way))
    });
    disks.fold(DiskUse::default(), |all, (done, under_way)| DiskUse {
        done: all.done.wrapping_add(done),
        under_way: all.under_way.saturating_add(under_way),
    })
}

/// The same of this node, now.
pub(super) fn disk_use_now(only: Option<&BTreeSet<Number>>) -> Option<DiskUse> {
    let text = std::fs::read_to_string("/proc/diskstats").ok()?;
    Some(use_of(&text, only))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Listens until something may be asked for; whether it was alone.
    fn listen(others: &mut Others, now: &mut Instant, seen: impl Fn() -> Option<DiskUse>) -> bool {
        for _ in 0..1000 {
            match others.wait(*now, &seen) {
                Some(wait) => *now += wait,
                None => return !others.are_there(*now),
            }
        }
        panic!("it waits for ever");
    }

    fn done(done: u64) -> Option<DiskUse> {
        Some(DiskUse { done, under_way: 0 })
    }

    #[test]
    fn it_listens_before_the_first_read_and_now_and_then() {
        let (mut others, mut now) = (Others::default(), Instant::now());
        let began = now;
        assert!(listen(&mut others, &mut now, || done(7)));
        assert_eq!(now - began, SETTLE + QUIET);
        assert!(!others.is_quiet(now));
        assert_eq!(others.wait(now + EVERY - MS, || None), None);
        assert!(others.is_quiet(now + EVERY));
        assert!(others.wait(now + EVERY, || done(9)).is_some());
    }

    #[test]
    fn who_is_heard_is_taken_to_go_on_for_a_while() {
        let (mut others, mut now) = (Others::default(), Instant::now());
        let count = std::cell::Cell::new(0);
        let counts = || {
            count.set(count.get() + 1);
            done(count.get())
        };
        assert!(!listen(&mut others, &mut now, counts));
        assert!(others.are_there(now + HOLD - MS));
        assert!(!others.are_there(now + HOLD));
        now += HOLD;
        assert!(listen(&mut others, &mut now, || done(7)));
        now += HOLD;
        assert!(!listen(&mut others, &mut now, || None), "nobody can tell");
        now += HOLD;
        let slow = DiskUse {
            done: 7,
            under_way: 1,
        };
        assert!(!listen(&mut others, &mut now, || Some(slow)));
    }

    #[test]
    fn what_was_seen_long_ago_tells_nothing() {
        let (mut others, mut now) = (Others::default(), Instant::now());
        while !matches!(others.phase, Phase::Listens(..)) {
            now += others.wait(now, || done(1)).expect("it listens");
        }
        now += QUIET * 10;
        assert!(listen(&mut others, &mut now, || done(2)));
    }

    #[test]
    fn what_is_in_flight_is_waited_for_but_not_for_ever() {
        let (mut others, mut now) = (Others::default(), Instant::now());
        let read = others.begins(now);
        assert!(
            others
                .wait(now, || panic!("ours are not counted"))
                .is_some()
        );
        others.ended(read);
        assert!(listen(&mut others, &mut now, || done(1)));
        now += EVERY;
        others.begins(now);
        assert!(listen(&mut others, &mut now, || panic!("nor later")));
        // It never comes.
        now += STUCK;
        let heard = std::cell::Cell::new(false);
        let seen = || {
            heard.set(true);
            done(1)
        };
        assert!(listen(&mut others, &mut now, seen) && heard.get());
    }

    #[test]
    fn turns_leave_most_of_the_time_to_others() {
        let turn = AtomicU64::new(0);
        let (took, mut now, mut read) = (MS, 1 << 40, 0);
        let began = now;
        while now < began + 1_000_000_000 {
            match take_turn(&turn, now) {
                Err(wait) => now += ns(wait),
                Ok(mine) => {
                    assert!(take_turn(&turn, now).is_err(), "one at a time");
                    now += ns(took);
                    give_turn(&turn, mine, now, took);
                    read += 1;
                }
            }
        }
        assert_eq!(read, 1000 / TURN);
        // What was in memory costs nobody anything.
        now += 1 << 30;
        let mine = take_turn(&turn, now).expect("it is free");
        give_turn(&turn, mine, now, IN_MEMORY);
        assert!(take_turn(&turn, now).is_ok());
        // Who took it has died, or takes very long.
        now += ns(CLAIM);
        let other = take_turn(&turn, now).expect("it is free");
        give_turn(&turn, mine, now, Duration::ZERO);
        assert_eq!(turn.load(Ordering::Relaxed), other);
        turn.store(u64::MAX, Ordering::Relaxed);
        assert!(take_turn(&turn, now).is_ok(), "no clock says that");
    }

    #[test]
    fn what_disks_do_is_added_up() {
        let text = " 254 0 vda 10 1 2 3 20 5 6 7 4 1 2\n 254 1 vda1 1 0 0 0 2 0 0 0 0 0 0\n\
                    7 0 loop0 100 0 0 0 100 0 0 0 9 0 0\n253 0 zram0 9 0 0 0 9 0 0 0 9\n\
                    8 0 sda x 0 0 0 1\n8 16\n\n";
        let expected = DiskUse {
            done: 33,
            under_way: 4,
        };
        assert_eq!(disk_use(text), expected);
        let only = |disks: &[Number]| use_of(text, Some(&disks.iter().copied().collect())).done;
        assert_eq!(only(&[(254, 1)]), 3);
        assert_eq!(only(&[(254, 0), (8, 0), (9, 9)]), 30);
        assert_eq!(disk_use(""), DiskUse::default());
    }
}
