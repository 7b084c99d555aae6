//! Prediction → ordered actions under a budget. Pure: the same input gives the
//! same plan.

mod merge;

use std::collections::{BTreeMap, HashMap};

use crate::model::{Action, DeviceCost, PAGE_SIZE, Plan, PlanFile, PlanName, PlanTotals};
use crate::predict::{ExpectedName, Prediction, Sureness};
use merge::{
    Run, at_once, choose_gap, in_turn, leave_sequential, merge, near, near_ahead, read_ns, subtract,
};

/// When the workload starts, which decides the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Later: few, large reads.
    Ahead,
    /// Now: what is certain first, in the order in which it will be needed;
    /// what may be needed last.
    Beside,
}

/// What bounds a plan.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// File data to read at most, bytes.
    pub budget: u64,
    /// When the workload starts.
    pub timing: Timing,
    /// Beside a start: whether there is a while before the program runs.
    pub lead: bool,
    /// Whether to read pages that no run is known to have used.
    pub maybe: bool,
    /// What reads cost.
    pub cost: DeviceCost,
}

/// Something to do, and when its result is needed.
struct Step {
    /// 0 before 1 before 2.
    rank: u8,
    first_use_ns: u64,
    action: Action,
}

/// What is imported may hold any numbers: sums end at the greatest.
fn add(total: &mut u64, bytes: u64) {
    *total = total.saturating_add(bytes);
}

/// Builds the plan for a prediction.
pub fn build(prediction: &Prediction, options: &PlanOptions) -> Plan {
    if options.timing == Timing::Ahead {
        let least_gap = near_ahead(prediction.exact_runs, &options.cost);
        let plan = build_with(prediction, options, least_gap);
        if plan.totals.over_budget_bytes == 0 {
            return plan;
        }
    }
    build_with(prediction, options, 0)
}

/// Reads through gaps of at least `least_gap` pages.
fn build_with(prediction: &Prediction, options: &PlanOptions, least_gap: u64) -> Plan {
    let mut totals = PlanTotals {
        unlikely_bytes: prediction.unlikely_pages.saturating_mul(PAGE_SIZE),
        ..PlanTotals::default()
    };
    let mut steps = Vec::new();
    block_steps(prediction, &options.cost, &mut steps, &mut totals);
    let names = name_steps(prediction, options.timing, &mut steps, &mut totals);
    read_steps(
        prediction,
        options,
        least_gap,
        names.len(),
        &mut steps,
        &mut totals,
    );
    steps.sort_by_key(|step| (step.rank, step.first_use_ns));

    let mut actions = Vec::with_capacity(steps.len());
    for step in steps {
        if let Action::Read {
            pages,
            gap_pages,
            certain,
            ..
        } = step.action
        {
            let bytes = u64::from(pages) * PAGE_SIZE;
            if totals.bytes.saturating_add(bytes) > options.budget {
                add(&mut totals.over_budget_bytes, bytes);
                continue;
            }
            add(&mut totals.bytes, bytes);
            let gap_bytes = u64::from(gap_pages) * PAGE_SIZE;
            add(&mut totals.gap_bytes, gap_bytes);
            if certain {
                add(&mut totals.certain_bytes, bytes - gap_bytes);
            } else {
                add(&mut totals.maybe_bytes, bytes - gap_bytes);
            }
        }
        actions.push(step.action);
    }
    Plan {
        volumes: prediction.volumes.clone(),
        files: prediction
            .files
            .iter()
            .map(|file| PlanFile {
                volume: file.volume,
                path: file.path.clone(),
                version: file.version,
            })
            .collect(),
        names,
        actions,
        totals,
    }
}

/// Metadata blocks come before all else: everything waits for them, they are
/// few, and read together they need no waiting for one another. Those that lie
/// near one another are one read where that pays; when each is needed does not matter.
fn block_steps(
    prediction: &Prediction,
    cost: &DeviceCost,
    steps: &mut Vec<Step>,
    totals: &mut PlanTotals,
) {
    let mut volumes: BTreeMap<u32, Vec<Run>> = BTreeMap::new();
    for block in &prediction.blocks {
        volumes.entry(block.volume).or_default().push(Run {
            start: block.start_page,
            end: block.start_page.saturating_add(block.pages.into()),
            gap_pages: 0,
            first_use_ns: block.first_use_ns,
            certain: true,
        });
    }
    for runs in volumes.values_mut() {
        runs.sort_by_key(|run| run.start);
    }
    let (volumes, runs): (Vec<u32>, Vec<Vec<Run>>) = volumes.into_iter().unzip();
    let gap = choose_gap(&runs, &[], u64::MAX, cost, in_turn(cost));
    for (volume, runs) in volumes.into_iter().zip(&runs) {
        for run in merge(runs, gap, u64::MAX) {
            let pages = u32::try_from(run.end.saturating_sub(run.start)).unwrap_or(u32::MAX);
            totals.block_bytes += u64::from(pages) * PAGE_SIZE;
            steps.push(Step {
                rank: 0,
                first_use_ns: run.first_use_ns,
                action: Action::Blocks {
                    volume,
                    start_page: run.start,
                    pages,
                },
            });
        }
    }
}

/// Of the names in a directory of more than so many, one in so many is looked up
/// beside a start. What a look-up waits for is a block of inodes, which holds 16
/// (ext4) or 32 (xfs), and neighbours in a directory mostly are neighbours there.
const SAMPLE: usize = 16;

fn directory_of(name: &ExpectedName) -> (u32, &[u8]) {
    (name.volume, name.path.parent_bytes())
}

/// Beside a start a name in itself is nothing to take from the program: a
/// look-up costs us the processor time that it saves, under the directory's
/// lock. Only its waiting can be taken, and that is shared by neighbours.
fn name_steps(
    prediction: &Prediction,
    timing: Timing,
    steps: &mut Vec<Step>,
    totals: &mut PlanTotals,
) -> Vec<PlanName> {
    // Names in a directory, and how many of them were met.
    let mut directories: HashMap<(u32, &[u8]), (usize, usize)> = HashMap::new();
    if timing == Timing::Beside {
        for name in &prediction.names {
            directories.entry(directory_of(name)).or_default().0 += 1;
        }
    }
    let mut names = Vec::new();
    for name in &prediction.names {
        let directory = directories.get_mut(&directory_of(name));
        if let Some((_, met)) = directory.filter(|(all, _)| *all > SAMPLE && !name.listed) {
            *met += 1;
            if *met % SAMPLE != 1 {
                totals.names_left += 1;
                continue;
            }
        }
        totals.names += 1;
        steps.push(Step {
            rank: 1,
            first_use_ns: name.first_use_ns,
            action: Action::Name {
                name: names.len() as u32,
            },
        });
        names.push(PlanName {
            volume: name.volume,
            path: name.path.clone(),
            kind: name.kind,
            listed: name.listed,
        });
    }
    names
}

fn read_steps(
    prediction: &Prediction,
    options: &PlanOptions,
    least_gap: u64,
    names: usize,
    steps: &mut Vec<Step>,
    totals: &mut PlanTotals,
) {
    // Runs of wanted pages by file: certain ones, and (beside a start, apart)
    // maybe ones.
    let mut first: Vec<Vec<Run>> = Vec::with_capacity(prediction.files.len());
    let mut second: Vec<Vec<Run>> = Vec::with_capacity(prediction.files.len());
    for file in &prediction.files {
        let (mut sure, mut unsure) = (Vec::new(), Vec::new());
        for extent in &file.extents {
            let run = Run {
                start: extent.start_page,
                end: extent.start_page + u64::from(extent.pages),
                gap_pages: 0,
                first_use_ns: extent.first_use_ns,
                certain: extent.sureness == Sureness::Certain,
            };
            match (extent.sureness, options.timing) {
                (Sureness::Maybe, _) if !options.maybe => {}
                (Sureness::Maybe, Timing::Beside) => unsure.push(run),
                _ => sure.push(run),
            }
        }
        first.push(sure);
        second.push(unsure);
    }
    let near = near(prediction.exact_runs);
    let cost = &options.cost;
    let slack = match options.timing {
        Timing::Ahead => u64::MAX,
        // Order counts as long as the device keeps up with the program. Where it takes
        // longer, all that is read in half of its time is needed at about the same time.
        // (With an eighth of the run on a disk of 100 MB/s and 2,000 reads a second:
        // 1,300 reads for javac and a start in 0.72 s, 930 and 0.55 s so; clang's 1.05 s
        // became 0.76. On one of 1 GB/s and 16,000 reads, without regard to order at
        // all, clang's 0.17 s became 0.20.)
        Timing::Beside => (prediction.duration_ns / 8).max(read_ns(&first, near[0].0, cost) / 2),
    };
    let gap = match options.timing {
        Timing::Ahead => choose_gap(&first, near, slack, cost, in_turn(cost)),
        // Most of what lies around a page that is missed is there, or on its way.
        Timing::Beside => choose_gap(&first, &[], slack, cost, at_once(cost, names)),
    }
    .max(least_gap);
    // Beside a start a stretch that the program reads in order gains nothing by being
    // read by two. Its first window does where it is there before the program comes to it;
    // where both begin at once, they are in each other's way. (`wc` of 500 MB: 9 ms later
    // than cold without it; with it 33 as the median of twelve, and up to 210.)
    let window = match options.timing {
        Timing::Beside if cost.readahead_keeps_up() => cost.readahead_bytes / PAGE_SIZE,
        _ => 0,
    };
    let first_window = if options.lead { window } else { 0 };
    for (file, (sure, unsure)) in first.iter().zip(&second).enumerate() {
        let (sure, left) = leave_sequential(merge(sure, gap, slack), window, first_window);
        add(&mut totals.sequential_bytes, left.saturating_mul(PAGE_SIZE));
        // Maybe pages in a gap that is read through anyway come for nothing.
        let unsure = merge(&subtract(unsure, &sure), gap, slack);
        for (runs, rank) in [(sure, 1), (unsure, 2)] {
            steps.extend(runs.iter().map(|run| Step {
                rank,
                first_use_ns: run.first_use_ns,
                action: Action::Read {
                    file: file as u32,
                    start_page: run.start,
                    pages: (run.end - run.start) as u32,
                    gap_pages: run.gap_pages as u32,
                    certain: run.certain,
                },
            }));
        }
    }
}

#[cfg(test)]
mod tests;
