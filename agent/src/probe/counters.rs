//! What the probes counted, as stages.

use headstart_abi::{Counts, Note, Outcome, Stage};

use crate::model::StageCounts;

/// Sums over all CPUs of what the probes counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters(Counts);

/// A stage, its name, what it counts, and why something may not go on from it:
/// other outcomes it does not have.
type Described = (Stage, &'static str, &'static str, &'static [Outcome]);

const DESCRIBED: [Described; headstart_abi::STAGES] = {
    use Outcome::{Known, Nameless, Other, TooLong, Unreadable};
    [
        (
            Stage::Read,
            "read",
            "chunks",
            &[Known, Other, Unreadable, TooLong],
        ),
        (Stage::Window, "window", "windows", &[Known, Unreadable]),
        (Stage::Fault, "fault", "faults", &[Known, Unreadable]),
        (
            Stage::Insert,
            "insert",
            "folios",
            &[Known, Other, Unreadable],
        ),
        (
            Stage::Call,
            "call",
            "calls",
            &[Known, Other, Unreadable, Nameless, TooLong],
        ),
        (
            Stage::Exec,
            "exec",
            "programs",
            &[Unreadable, Nameless, TooLong],
        ),
        (Stage::Address, "address", "faults", &[]),
        (Stage::Cgroup, "cgroup", "cgroups", &[Unreadable]),
        (
            Stage::Inode,
            "inode",
            "inodes",
            &[Known, Unreadable, Nameless, TooLong],
        ),
        (Stage::Ring, "ring", "records", &[]),
        (Stage::Signal, "signal", "cgroups", &[Other, Unreadable]),
    ]
};

/// Maps whose slots are taken over by others, by the name that reports have.
const EVICTED: [(Note, &str); 4] = [
    (Note::EvictedPages, "pages"),
    (Note::EvictedPaths, "paths"),
    (Note::EvictedNames, "names"),
    (Note::EvictedAddresses, "addresses"),
];

/// What the programs of a hook have cost since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Ran {
    /// Time on processors, seconds.
    pub seconds: f64,
    /// How often they ran.
    pub runs: u64,
    /// How often the kernel did not run one because it, or another, ran on that processor
    /// already: what it would have told of is lost. Linux 5.12; counted always.
    pub missed: u64,
}

impl Ran {
    /// A value of what ran; none where the kernel does not count that.
    pub fn measured<T>(&self, value: T) -> Option<T> {
        (self.runs > 0).then_some(value)
    }

    /// Adds one program, by what `/proc/<pid>/fdinfo` says of it
    /// (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).
    pub(super) fn add(&mut self, fdinfo: &str) {
        let value = |name: &str| -> Option<u64> {
            let mut lines = fdinfo.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().parse().ok())
        };
        self.seconds += value("run_time_ns").unwrap_or(0) as f64 / 1e9;
        self.runs += value("run_cnt").unwrap_or(0);
        self.missed += value("recursion_misses").unwrap_or(0);
    }
}

fn reason(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::In => "in",
        Outcome::Out => "out",
        Outcome::Lost => "lost",
        Outcome::Known => "known",
        Outcome::Other => "other",
        Outcome::Unreadable => "unreadable",
        Outcome::Nameless => "nameless",
        Outcome::TooLong => "too_long",
    }
}

impl Counters {
    /// How much of what came into a stage became this.
    pub fn get(&self, stage: Stage, outcome: Outcome) -> u64 {
        self.0.stages[stage as usize][outcome as usize]
    }

    /// Of what watched cgroups do: records that found the ring full, and cgroups made in them
    /// that could not be followed, or of which nobody was told.
    pub fn not_seen(&self) -> u64 {
        let stages = [Stage::Ring, Stage::Cgroup, Stage::Signal];
        let lost = stages.map(|stage| self.get(stage, Outcome::Lost));
        lost.iter().sum()
    }

    /// What is counted beside.
    pub fn note(&self, note: Note) -> u64 {
        self.0.notes[note as usize]
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        let mut before = *before;
        for (value, before) in since.values().zip(before.values()) {
            *value = value.saturating_sub(*before);
        }
        since
    }

    /// Adds what one CPU counted.
    pub(super) fn add(&mut self, cpu: &Counts) {
        for (sum, value) in self.values().zip(Self(*cpu).values()) {
            *sum += *value;
        }
    }

    fn values(&mut self) -> impl Iterator<Item = &mut u64> {
        let Counts { stages, notes, .. } = &mut self.0;
        stages.iter_mut().flatten().chain(notes)
    }

    /// Each stage of the probes, in the order of the flow.
    pub fn stages(&self) -> Vec<StageCounts> {
        let counts = |&(stage, name, unit, reasons): &Described| {
            let mut counts = StageCounts::new(name, unit);
            counts.seen = self.get(stage, Outcome::In);
            counts.out = self.get(stage, Outcome::Out);
            counts.lost = self.get(stage, Outcome::Lost);
            for &outcome in reasons {
                counts.filter(reason(outcome), self.get(stage, outcome));
            }
            counts
        };
        DESCRIBED.iter().map(counts).collect()
    }

    /// Slots of each map that were taken over by something else: what was in
    /// them is sent again at its next use.
    pub fn evicted(&self) -> [(&'static str, u64); 4] {
        EVICTED.map(|(note, name)| (name, self.note(note)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each stage with something of each outcome that it has.
    fn filled(n: u64) -> Counters {
        let mut counters = Counters::default();
        for (number, (stage, _, _, reasons)) in DESCRIBED.iter().enumerate() {
            let row = &mut counters.0.stages[*stage as usize];
            let outcomes = [Outcome::Out, Outcome::Lost];
            for &outcome in outcomes.iter().chain(*reasons) {
                row[outcome as usize] = n + number as u64 + outcome as u64;
                row[Outcome::In as usize] += row[outcome as usize];
            }
        }
        counters
    }

    #[test]
    fn what_programs_cost_and_missed_is_read_where_the_kernel_says_it() {
        let mut ran = Ran::default();
        ran.add("prog_type:\t26\nrun_time_ns:\t1500000000\nrun_cnt:\t7\nrecursion_misses:\t2\n");
        ran.add("prog_type:\t26\nrun_cnt:\tmany\nxrun_cnt:\t3\n");
        let wanted = Ran {
            seconds: 1.5,
            runs: 7,
            missed: 2,
        };
        assert_eq!(ran, wanted);
    }

    #[test]
    fn each_stage_is_there_once_and_balanced() {
        let counters = filled(1);
        let stages = counters.stages();
        assert!(stages.iter().all(StageCounts::is_balanced), "{stages:?}");
        for (number, (stage, ..)) in DESCRIBED.iter().enumerate() {
            assert_eq!(*stage as usize, number);
        }
        let mut names: Vec<_> = stages.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), headstart_abi::STAGES);
    }

    #[test]
    fn an_outcome_that_a_stage_does_not_have_is_an_imbalance() {
        let mut counters = filled(1);
        let row = &mut counters.0.stages[Stage::Ring as usize];
        row[Outcome::In as usize] += 1;
        row[Outcome::Known as usize] += 1;
        let unbalanced: Vec<_> = counters
            .stages()
            .into_iter()
            .filter(|stage| !stage.is_balanced())
            .map(|stage| stage.name)
            .collect();
        assert_eq!(unbalanced, ["ring"]);
    }

    proptest! {
        #[test]
        fn sums_and_differences_stay_balanced(cpus in proptest::collection::vec(0..1u64 << 40, 1..8), more in 0..1u64 << 40) {
            let mut before = Counters::default();
            for &n in &cpus {
                before.add(&filled(n).0);
            }
            let mut after = before;
            after.add(&filled(more).0);
            prop_assert_eq!(after.since(&before), filled(more));
            prop_assert!(after.stages().iter().all(StageCounts::is_balanced));
        }
    }
}
