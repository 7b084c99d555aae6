//! The queue of plans: in which order they come, and that whoever wants one is told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Plans = Queue<u64, &'static str>;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn same(what: u8) -> Same {
    Same {
        keys: vec![format!("image:{what}")],
        places: Vec::new(),
    }
}

/// A start's wish for a plan of which there is one for each `what`.
fn wish(start: u64, what: u8, priority: Priority, due: Instant) -> Wish<u64> {
    let member = Member {
        start,
        key: format!("image:{what}"),
    };
    Wish {
        whose: Some((member, same(what))),
        priority,
        due,
        task: start,
    }
}

fn starts(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.start).collect()
}

fn is_taken(wanted: &Wanted<u64, &'static str>) -> bool {
    matches!(wanted, Wanted::Taken(None))
}

#[test]
fn what_is_urgent_comes_first_then_what_is_needed_first() {
    let now = Instant::now();
    let mut plans = Plans::new(9);
    for (start, priority, due) in [
        (1, Priority::Low, 0),
        (2, Priority::Normal, 30),
        (3, Priority::Normal, 20),
        (4, Priority::High, 90),
        (5, Priority::Normal, 20),
    ] {
        let wanted = plans.want(wish(start, start as u8, priority, now + ms(due)), now);
        assert!(is_taken(&wanted), "{wanted:?}");
    }
    let order: Vec<u64> = std::iter::from_fn(|| plans.next(|_| true))
        .map(|n| n.task)
        .collect();
    assert_eq!(order, [4, 3, 5, 2, 1]);
}

#[test]
fn ten_starts_of_one_image_are_one_plan() {
    let now = Instant::now();
    let mut plans = Plans::new(9);
    for start in 0..4 {
        assert!(is_taken(
            &plans.want(wish(start, 1, Priority::Normal, now), now)
        ));
    }
    assert_eq!(plans.depths(), (1, 0));
    let next = plans.next(|_| true).expect("one waits");
    // While it is carried out.
    for start in 4..8 {
        assert!(is_taken(
            &plans.want(wish(start, 1, Priority::Normal, now), now)
        ));
    }
    assert_eq!(plans.depths(), (0, 1));
    let done = plans.finish(next.number, Some("read"), now);
    assert_eq!(starts(&done), (0..8).collect::<Vec<_>>());
    // A moment after, and later.
    let soon = now + JUST - ms(1);
    let wanted = plans.want(wish(8, 1, Priority::Normal, soon), soon);
    assert!(matches!(&wanted, Wanted::Had(member, "read") if member.start == 8));
    let later = now + JUST;
    assert!(is_taken(
        &plans.want(wish(9, 1, Priority::Normal, later), later)
    ));
    assert_eq!(plans.depths(), (1, 0));
}

#[test]
fn an_urgent_start_takes_the_plan_that_it_shares_with_it() {
    let now = Instant::now();
    let mut plans = Plans::new(9);
    plans.want(wish(1, 1, Priority::Normal, now), now);
    plans.want(wish(2, 2, Priority::Low, now), now);
    plans.want(wish(3, 2, Priority::High, now + ms(5)), now);
    assert_eq!(plans.next(|_| true).map(|next| next.task), Some(2));
    assert_eq!(plans.next(|_| true).map(|next| next.task), Some(1));
}

#[test]
fn what_nobody_wants_is_not_done() {
    let now = Instant::now();
    let mut plans = Plans::new(9);
    plans.want(wish(1, 1, Priority::Normal, now), now);
    plans.want(wish(2, 1, Priority::Normal, now), now);
    plans.want(wish(3, 2, Priority::Normal, now), now);
    assert!(plans.leave(3, true), "it waited");
    assert!(plans.leave(1, false), "it waited");
    assert!(!plans.leave(1, true), "it is not there any more");
    let next = plans.next(|_| true).expect("another wants it");
    assert!(plans.next(|_| true).is_none());
    plans.want(wish(4, 1, Priority::Normal, now), now);
    assert!(!plans.leave(2, true), "it is under way");
    assert!(!next.cancel.is_cancelled(), "another wants it");
    assert!(!plans.leave(4, false), "it is over, and may need it yet");
    assert!(!next.cancel.is_cancelled());
    plans.leave(4, true);
    assert!(next.cancel.is_cancelled());
    // Whoever comes now has it done anew.
    assert!(is_taken(
        &plans.want(wish(5, 1, Priority::Normal, now), now)
    ));
    assert_eq!(plans.depths(), (1, 1));
    assert_eq!(starts(&plans.finish(next.number, None, now)), [2, 4]);
}

#[test]
fn where_there_is_no_room_the_least_urgent_gives_way() {
    let now = Instant::now();
    let mut plans = Plans::new(2);
    plans.want(wish(1, 1, Priority::Low, now), now);
    plans.want(wish(2, 2, Priority::Normal, now), now);
    let wanted = plans.want(wish(3, 3, Priority::High, now), now);
    assert!(
        matches!(&wanted, Wanted::Taken(Some(dropped)) if starts(&dropped.members) == [1]),
        "{wanted:?}"
    );
    let wanted = plans.want(wish(4, 4, Priority::Low, now), now);
    assert!(
        matches!(&wanted, Wanted::Full(dropped) if starts(&dropped.members) == [4]),
        "{wanted:?}"
    );
    // What is shared needs no room.
    assert!(is_taken(&plans.want(wish(5, 2, Priority::Low, now), now)));
    let dropped = plans.close();
    let left: Vec<_> = dropped.iter().map(|d| starts(&d.members)).collect();
    assert_eq!(left, [vec![3], vec![2, 5]]);
    assert_eq!(plans.depths(), (0, 0));
    let wanted = plans.want(wish(6, 6, Priority::High, now), now);
    assert!(matches!(wanted, Wanted::Full(_)), "{wanted:?}");
}

#[test]
fn what_is_shared_with_nobody_stays_apart() {
    let now = Instant::now();
    let mut plans = Plans::new(9);
    for task in 0..2 {
        let wanted = plans.want(
            Wish {
                whose: None,
                priority: Priority::Normal,
                due: now,
                task,
            },
            now,
        );
        assert!(is_taken(&wanted));
    }
    assert_eq!(plans.depths(), (2, 0));
    let next = plans.next(|_| true).expect("two wait");
    assert!(plans.finish(next.number, Some("read"), now).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8, Priority, u64),
    Next,
    Leave(usize, bool),
    Finish(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop_oneof![
        Just(Priority::High),
        Just(Priority::Normal),
        Just(Priority::Low)
    ];
    prop_oneof![
        4 => (0u8..6, priority, 0u64..50).prop_map(|(what, p, due)| Step::Want(what, p, due)),
        2 => Just(Step::Next),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(who, gone)| Step::Leave(who, gone)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, kept)| Step::Finish(which, kept)),
        1 => (0u64..1500).prop_map(Step::Pass),
    ]
}

/// What a test knows of a queue, by the simplest means.
#[derive(Default)]
struct Model {
    /// Start → its plan's kind, while it is neither told nor given back.
    pending: BTreeMap<u64, u8>,
    told: BTreeSet<u64>,
    /// Number and kind of what is carried out.
    running: Vec<(u64, u8, Cancel)>,
    gone: BTreeSet<u64>,
}

impl Model {
    /// Whoever is told was waiting for it, and is told once.
    fn tell(&mut self, members: &[Member]) -> Result<(), TestCaseError> {
        for member in members {
            prop_assert!(self.pending.remove(&member.start).is_some());
            prop_assert!(self.told.insert(member.start));
        }
        Ok(())
    }
}

const MOST: usize = 3;

fn is_sound(plans: &Plans, model: &Model) -> Result<(), TestCaseError> {
    let waiting = plans.waiting.values();
    let members = waiting.clone().flat_map(|plan| &plan.members);
    let running = plans.running.iter().flat_map(|plan| &plan.members);
    let mut held: Vec<u64> = members.map(|m| m.start).collect();
    held.extend(running.map(|(m, _)| m.start));
    held.sort_unstable();
    let pending: Vec<u64> = model.pending.keys().copied().collect();
    prop_assert_eq!(held, pending, "each is held once, and nobody else");
    prop_assert!(plans.waiting.len() <= MOST);
    prop_assert!(waiting.clone().all(|plan| !plan.members.is_empty()));
    let live = plans.running.iter().filter(|p| !p.cancel.is_cancelled());
    let mut kinds: Vec<&Same> = waiting.filter_map(|plan| plan.same.as_ref()).collect();
    kinds.extend(live.filter_map(|plan| plan.same.as_ref()));
    let all = kinds.len();
    kinds.sort_by(|a, b| a.keys.cmp(&b.keys));
    kinds.dedup();
    prop_assert_eq!(kinds.len(), all, "the same plan once");
    for plan in &plans.running {
        let gone = plan
            .members
            .iter()
            .all(|(m, _)| model.gone.contains(&m.start));
        prop_assert_eq!(plan.cancel.is_cancelled(), gone);
    }
    Ok(())
}

proptest! {
    #[test]
    fn whoever_wants_a_plan_is_told_once(steps in proptest::collection::vec(step(), 0..120)) {
        let mut now = Instant::now();
        let mut plans = Plans::new(MOST);
        let mut model = Model::default();
        let mut wanted = 0u64;
        for step in steps {
            match step {
                Step::Want(what, priority, due) => {
                    let start = wanted;
                    wanted += 1;
                    model.pending.insert(start, what);
                    match plans.want(wish(start, what, priority, now + ms(due)), now) {
                        Wanted::Taken(None) => {}
                        Wanted::Taken(Some(dropped)) => {
                            prop_assert!(!starts(&dropped.members).contains(&start));
                            model.tell(&dropped.members)?;
                        }
                        Wanted::Full(dropped) => {
                            prop_assert_eq!(starts(&dropped.members), vec![start]);
                            model.tell(&dropped.members)?;
                        }
                        Wanted::Had(member, _) => model.tell(&[member])?,
                    }
                }
                Step::Next => {
                    let first = plans.waiting.keys().next().copied();
                    let Some(next) = plans.next(|_| true) else {
                        prop_assert!(first.is_none());
                        continue;
                    };
                    // None that waits should have been before it.
                    let rank = first.expect("it waited");
                    let before = |other: &Rank| {
                        (other.priority, other.due) < (rank.priority, rank.due)
                    };
                    prop_assert!(!plans.waiting.keys().any(before));
                    let running = plans.running.last().expect("it was taken");
                    let what = model.pending[&running.members[0].0.start];
                    model.running.push((next.number, what, next.cancel));
                }
                Step::Leave(who, gone) => {
                    let starts: Vec<u64> = model.pending.keys().copied().collect();
                    if starts.is_empty() {
                        continue;
                    }
                    let start = starts[who % starts.len()];
                    if plans.leave(start, gone) {
                        model.pending.remove(&start);
                        prop_assert!(model.told.insert(start));
                    } else if gone {
                        model.gone.insert(start);
                    }
                }
                Step::Finish(which, kept) => {
                    if model.running.is_empty() {
                        continue;
                    }
                    let at = which % model.running.len();
                    let (number, what, cancel) = model.running.remove(at);
                    let kept = (kept && !cancel.is_cancelled()).then_some("read");
                    let members = plans.finish(number, kept, now);
                    prop_assert!(!members.is_empty());
                    prop_assert!(members.iter().all(|m| model.pending[&m.start] == what));
                    model.tell(&members)?;
                }
                Step::Pass(time) => now += ms(time),
            }
            is_sound(&plans, &model)?;
        }
        for dropped in plans.close() {
            model.tell(&dropped.members)?;
        }
        for (number, ..) in std::mem::take(&mut model.running) {
            let members = plans.finish(number, None, now);
            model.tell(&members)?;
        }
        prop_assert!(model.pending.is_empty());
        prop_assert_eq!(model.told.len() as u64, wanted);
    }
}
