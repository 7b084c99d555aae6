//! Scenarios in and out as text: a reviewer reads a story.

use super::*;
use crate::model::{FileVersion, NameKind, RelPath, Volume, VolumeId};
use crate::predict::{Expected, ExpectedBlocks, ExpectedFile, ExpectedName};

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes().to_vec()).expect("valid path")
}

/// A program, its library (certain pages 0-1 and 4, maybe 2-3 and 40-55), a
/// directory and one metadata block.
fn prediction() -> Prediction {
    let extent = |start_page, pages, first_use_ns, sureness| Expected {
        start_page,
        pages,
        first_use_ns,
        sureness,
    };
    let file = |name: &str, extents| ExpectedFile {
        volume: 0,
        path: path(name),
        version: FileVersion {
            size: 1 << 20,
            mtime_ns: 1,
        },
        extents,
    };
    Prediction {
        volumes: vec![Volume {
            id: VolumeId("uuid:1".into()),
            fs_type: "ext4".into(),
            mount_point: b"/".to_vec(),
        }],
        files: vec![
            file(
                "lib",
                vec![
                    extent(0, 2, 300, Sureness::Certain),
                    extent(2, 2, 300, Sureness::Maybe),
                    extent(4, 1, 310, Sureness::Certain),
                    extent(40, 16, 320, Sureness::Maybe),
                ],
            ),
            file("program", vec![extent(0, 8, 100, Sureness::Certain)]),
        ],
        names: vec![ExpectedName {
            volume: 0,
            path: path("etc"),
            kind: NameKind::Directory,
            listed: false,
            first_use_ns: 200,
        }],
        blocks: vec![ExpectedBlocks {
            volume: 0,
            start_page: 77,
            pages: 1,
            first_use_ns: 250,
        }],
        duration_ns: 8_000,
        unlikely_pages: 3,
        exact_runs: 1,
    }
}

fn options(timing: Timing) -> PlanOptions {
    PlanOptions {
        budget: 1 << 30,
        timing,
        lead: true,
        maybe: true,
        cost: DeviceCost::UNMEASURED,
    }
}

fn story(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(|action| match *action {
            Action::Blocks {
                start_page, pages, ..
            } => format!("blocks {start_page}+{pages}"),
            Action::Name { name } => format!("name {}", plan.names[name as usize].path),
            Action::Read {
                file,
                start_page,
                pages,
                gap_pages,
                certain,
            } => format!(
                "read {} {start_page}+{pages} gap {gap_pages}{}",
                plan.files[file as usize].path,
                if certain { "" } else { " maybe" }
            ),
        })
        .collect()
}

#[test]
fn beside_a_start_certain_pages_come_first_in_order_of_use() {
    let plan = build(&prediction(), &options(Timing::Beside));
    assert_eq!(
        story(&plan),
        [
            "blocks 77+1",
            "read program 0+8 gap 0",
            "name etc",
            "read lib 0+5 gap 2",
            "read lib 40+16 gap 0 maybe",
        ]
    );
    assert_eq!(plan.totals.unlikely_bytes, 3 * PAGE_SIZE);
}

#[test]
fn crowded_directories_are_sampled_beside_a_start_only() {
    let mut prediction = prediction();
    let name = |path: String| ExpectedName {
        volume: 0,
        path: RelPath::new(path.into_bytes()).expect("path"),
        kind: NameKind::File,
        listed: false,
        first_use_ns: 0,
    };
    prediction.names = (0..160).map(|i| name(format!("crowd/{i}"))).collect();
    prediction
        .names
        .extend((0..16).map(|i| name(format!("few/{i}"))));
    let beside = build(&prediction, &options(Timing::Beside)).totals;
    assert_eq!((beside.names, beside.names_left), (10 + 16, 150));
    let ahead = build(&prediction, &options(Timing::Ahead)).totals;
    assert_eq!((ahead.names, ahead.names_left), (160 + 16, 0));
}

#[test]
fn ahead_of_a_start_neighbours_are_read_together() {
    let plan = build(&prediction(), &options(Timing::Ahead));
    assert_eq!(
        story(&plan),
        [
            "blocks 77+1",
            "read program 0+8 gap 0",
            "name etc",
            "read lib 0+5 gap 0",
            "read lib 40+16 gap 0 maybe"
        ]
    );
}

#[test]
fn a_budget_cuts_from_the_end_and_says_so() {
    let mut options = options(Timing::Beside);
    options.budget = 9 * PAGE_SIZE;
    let plan = build(&prediction(), &options);
    assert_eq!(plan.totals.bytes, 8 * PAGE_SIZE);
    assert_eq!(plan.totals.over_budget_bytes, (5 + 16) * PAGE_SIZE);
}

#[test]
fn without_maybe_only_certain_pages_are_read() {
    let mut options = options(Timing::Ahead);
    options.maybe = false;
    let plan = build(&prediction(), &options);
    assert_eq!(plan.totals.maybe_bytes, 0);
    assert!(story(&plan).iter().all(|line| !line.contains("maybe")));
}

#[test]
fn where_the_device_lags_behind_the_program_more_is_read_at_once() {
    // Pages side by side, the second half of them needed a quarter of the run later.
    let mut prediction = prediction();
    prediction.duration_ns = 4_000_000;
    prediction.files[1].extents = [(0, 0), (8, 1_000_000)]
        .map(|(start_page, first_use_ns)| Expected {
            start_page,
            pages: 8,
            first_use_ns,
            sureness: Sureness::Certain,
        })
        .to_vec();
    let reads = |bytes_per_s: f64| {
        let mut options = options(Timing::Beside);
        options.cost.bytes_per_s = bytes_per_s;
        let plan = build(&prediction, &options);
        story(&plan)
            .iter()
            .filter(|s| s.contains("program"))
            .count()
    };
    assert_eq!((reads(1e9), reads(1e7)), (2, 1));
}
