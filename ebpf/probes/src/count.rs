//! Counters: what came into each stage, and what became of it.
//!
//! A stage's counters are fetched once for an event, and added to by pointer:
//! the read path has time for no more. They are the CPU's own, and a program
//! that is interrupted by another (a fault while memory is read) never is
//! between loading and storing one of them.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use headstart_abi::{Counts, Note, OUTCOMES, Outcome, Stage, TrackEntry};

use crate::config::Follow;
use crate::track;

/// Of one processor; where programs may be preempted (see docs/kernels.md) an increment may
/// be lost.
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's counters of one stage.
#[derive(Clone, Copy)]
pub(crate) struct Tally(*mut [u64; OUTCOMES]);

impl Tally {
    /// `None` never happens, but the verifier does not know.
    #[inline(always)]
    pub(crate) fn of(stage: Stage) -> Option<Self> {
        let counts = COUNTS.get_ptr_mut(0)?;
        // SAFETY: a pointer into the map's value, and every `Stage` is within
        // the array.
        Some(Self(unsafe { &raw mut (*counts).stages[stage as usize] }))
    }

    /// Counts `n` more.
    #[inline(always)]
    pub(crate) fn add(self, outcome: Outcome, n: u64) {
        // SAFETY: this CPU's own value, and every `Outcome` is within the array.
        unsafe { (*self.0)[outcome as usize] += n };
    }

    /// Counts one more.
    #[inline(always)]
    pub(crate) fn one(self, outcome: Outcome) {
        self.add(outcome, 1);
    }
}

/// The beginning of programs of which an argument leads to a mapping: as [`enter`], with
/// the task's entry as [`track`] has it, but what came in is not counted yet. The mapping
/// comes with it, and as a number. It is looked for only where the cgroup is watched.
#[inline(always)]
pub(crate) fn enter_with<F: Follow>(
    entry: Option<TrackEntry>,
    mapping: impl FnOnce() -> F,
    stage: Stage,
) -> Option<(TrackEntry, Tally, F, u64)> {
    let entry = entry?;
    let mapping = mapping();
    let counts = COUNTS.get_ptr_mut(0)?;
    // The verifier does not let arithmetic be done with a pointer, and takes it for
    // a number once it has been in a map.
    // SAFETY: this CPU's own value, between two instructions.
    let (number, stage) = unsafe {
        (&raw mut (*counts).room).write_volatile(mapping.address());
        (
            (&raw const (*counts).room).read_volatile(),
            &raw mut (*counts).stages[stage as usize],
        )
    };
    Some((entry, Tally(stage), mapping, number))
}

/// The beginning of most programs: the current task's entry, if its cgroup is
/// watched; then one more came in.
#[inline(always)]
pub(crate) fn enter(stage: Stage) -> Option<(TrackEntry, Tally)> {
    let entry = track::current()?;
    let tally = Tally::of(stage)?;
    tally.one(Outcome::In);
    Some((entry, tally))
}

/// Counts one more of what is no outcome.
#[inline(always)]
pub(crate) fn note(note: Note) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: this CPU's own value, and every `Note` is within the array.
        unsafe { (*counts).notes[note as usize] += 1 };
    }
}
