//! Plans that wait, and those that are being carried out: which comes next, and for whom
//! at once. Pure: it is told what time it is.
//!
//! Starts that want the same plan share it: what one reads all find, so it is made, taken
//! out of the budget and carried out once. That holds while it waits, while it is carried
//! out, and for a moment after ([`JUST`]). Of different plans with files in common none
//! reads what another does: the page cache is looked at before each read, and pages on
//! their way are in it.
//!
//! Invariants: of the same plan one at most waits or is carried out; whoever wanted a plan
//! is given back exactly once, by [`Queue::want`], [`Queue::leave`], [`Queue::finish`] or
//! [`Queue::close`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::priority::Priority;
use crate::warm::Cancel;

/// For how long what was read counts as just read: not looked at again.
pub(super) const JUST: Duration = Duration::from_secs(2);

/// Plans that were just carried out and are remembered.
const REMEMBERED: usize = 64;

/// By what two plans are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Same {
    /// Keys of the workload, the surest first: they lead to the same profile.
    pub(super) keys: Vec<String>,
    /// Its volumes, and where each is.
    pub(super) places: Vec<(String, Vec<u8>)>,
}

/// A start that wants something to be warmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Which.
    pub(super) start: u64,
    /// Its workload's key.
    pub(super) key: String,
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wish<T> {
    /// By whom, and what it is shared by; `None`: by no start that there is yet.
    pub(super) whose: Option<(Member, Same)>,
    pub(super) priority: Priority,
    /// When the first of it will be needed.
    pub(super) due: Instant,
    /// What is to be done.
    pub(super) task: T,
}

/// What becomes of a wish.
#[derive(Debug)]
pub(super) enum Wanted<T, R> {
    /// It waits, or shares what waits or is carried out. Another may have had to give
    /// way: there was no more room, and it was less urgent.
    Taken(Option<Dropped<T>>),
    /// It was just done; this came of it.
    Had(Member, R),
    /// There is no room, and nothing less urgent.
    Full(Dropped<T>),
}

/// What will not be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dropped<T> {
    pub(super) members: Vec<Member>,
    pub(super) task: T,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) struct Next<T> {
    /// By this it is finished.
    pub(super) number: u64,
    pub(super) task: T,
    /// Pulled when nobody wants it any more.
    pub(super) cancel: Cancel,
}

/// The most urgent first; of those the one that is needed first; then in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: Priority,
    due: Instant,
    number: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    same: Option<Same>,
    members: Vec<Member>,
    task: T,
}

#[derive(Debug)]
struct Running {
    number: u64,
    same: Option<Same>,
    /// With whether it is gone.
    members: Vec<(Member, bool)>,
    cancel: Cancel,
}

/// Plans that wait, those that are carried out, and what came of the last ones.
#[derive(Debug)]
pub(super) struct Queue<T, R> {
    /// Most that wait.
    most: usize,
    next: u64,
    waiting: BTreeMap<Rank, Waiting<T>>,
    running: Vec<Running>,
    /// What came of it, and when it ended.
    past: VecDeque<(Same, R, Instant)>,
}

impl<T, R: Clone> Queue<T, R> {
    /// At most so many wait.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            next: 0,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            past: VecDeque::new(),
        }
    }

    /// Plans that wait, and that are being carried out.
    pub(super) fn depths(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// Takes a wish.
    pub(super) fn want(&mut self, wish: Wish<T>, now: Instant) -> Wanted<T, R> {
        self.forget(now);
        let (mut members, mut of) = (Vec::new(), None);
        if let Some((member, same)) = wish.whose {
            let had = self.past.iter().find(|(past, ..)| *past == same);
            if let Some((_, result, _)) = had {
                return Wanted::Had(member, result.clone());
            }
            let is_it = |other: &Option<Same>| other.as_ref() == Some(&same);
            // One that was cancelled leaves things undone.
            let going_on = |plan: &Running| !plan.cancel.is_cancelled();
            let mut running = self.running.iter_mut();
            if let Some(plan) = running.find(|plan| is_it(&plan.same) && going_on(plan)) {
                plan.members.push((member, false));
                return Wanted::Taken(None);
            }
            let rank = self.waiting.iter().find(|(_, plan)| is_it(&plan.same));
            let rank = rank.map(|(rank, _)| *rank);
            if let Some((rank, mut plan)) = rank.and_then(|r| self.waiting.remove_entry(&r)) {
                plan.members.push(member);
                let sooner = Rank {
                    priority: rank.priority.min(wish.priority),
                    due: rank.due.min(wish.due),
                    ..rank
                };
                self.waiting.insert(sooner, plan);
                return Wanted::Taken(None);
            }
            members.push(member);
            of = Some(same);
        }
        self.next += 1;
        let rank = Rank {
            priority: wish.priority,
            due: wish.due,
            number: self.next,
        };
        let plan = Waiting {
            same: of,
            members,
            task: wish.task,
        };
        self.waiting.insert(rank, plan);
        if self.waiting.len() <= self.most {
            return Wanted::Taken(None);
        }
        // The least urgent gives way, which may be the new one.
        match self.waiting.pop_last() {
            Some((last, plan)) if last == rank => Wanted::Full(plan.dropped()),
            last => Wanted::Taken(last.map(|(_, plan)| plan.dropped())),
        }
    }

    /// What is to be done next, of what may be done now.
    pub(super) fn next(&mut self, may: impl Fn(&T) -> bool) -> Option<Next<T>> {
        let mut waiting = self.waiting.iter();
        let rank = *waiting.find(|(_, plan)| may(&plan.task))?.0;
        let plan = self.waiting.remove(&rank)?;
        let cancel = Cancel::new();
        self.running.push(Running {
            number: rank.number,
            same: plan.same,
            members: plan.members.into_iter().map(|m| (m, false)).collect(),
            cancel: cancel.clone(),
        });
        Some(Next {
            number: rank.number,
            task: plan.task,
            cancel,
        })
    }

    /// A start is over. Where what it wanted still waits it is given back (`true`), and
    /// what nobody else wants is never done. What is being carried out goes on, unless all
    /// who want it are `gone`.
    pub(super) fn leave(&mut self, start: u64, gone: bool) -> bool {
        for plan in &mut self.running {
            if let Some(member) = plan.members.iter_mut().find(|(m, _)| m.start == start) {
                member.1 |= gone;
                if plan.members.iter().all(|(_, gone)| *gone) {
                    plan.cancel.cancel();
                }
                return false;
            }
        }
        let is_there = |plan: &Waiting<T>| plan.members.iter().any(|m| m.start == start);
        let rank = self.waiting.iter().find(|(_, plan)| is_there(plan));
        let Some(rank) = rank.map(|(rank, _)| *rank) else {
            return false;
        };
        if let Some(plan) = self.waiting.get_mut(&rank) {
            plan.members.retain(|member| member.start != start);
            if plan.members.is_empty() {
                self.waiting.remove(&rank);
            }
        }
        true
    }

    /// Something was done: for whom, the one first that it was begun for. What came of it,
    /// if all of it was done, is `kept` for who wants the same in a moment.
    pub(super) fn finish(&mut self, number: u64, kept: Option<R>, now: Instant) -> Vec<Member> {
        self.forget(now);
        let Some(at) = self.running.iter().position(|plan| plan.number == number) else {
            return Vec::new();
        };
        let plan = self.running.remove(at);
        if let (Some(same), Some(result)) = (plan.same, kept) {
            if self.past.len() >= REMEMBERED {
                self.past.pop_front();
            }
            self.past.push_back((same, result, now));
        }
        plan.members.into_iter().map(|(member, _)| member).collect()
    }

    /// Gives back all that waits, cancels what is being carried out, and takes no more.
    pub(super) fn close(&mut self) -> Vec<Dropped<T>> {
        self.most = 0;
        for plan in &self.running {
            plan.cancel.cancel();
        }
        self.past.clear();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        waiting.map(Waiting::dropped).collect()
    }

    /// Forgets what was done longer ago than [`JUST`].
    pub(super) fn forget(&mut self, now: Instant) {
        self.past
            .retain(|(_, _, ended)| now.saturating_duration_since(*ended) < JUST);
    }
}

impl<T> Waiting<T> {
    fn dropped(self) -> Dropped<T> {
        Dropped {
            members: self.members,
            task: self.task,
        }
    }
}

#[cfg(test)]
mod tests;
