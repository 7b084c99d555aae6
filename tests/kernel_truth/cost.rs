//! What a cached read costs while pages used are recorded, by the kind of hook. Nothing is
//! asserted of the time: it is printed for `docs/kernels.md`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use headstart::probe::{Group, Kind, Probes};
use headstart::run::{RING_BYTES, existing_paths};
use headstart_abi::{Outcome, Stage};

use crate::support::write;

const PAGE: usize = 4096;
const PAGES: usize = 256;
/// Reads of one slice; the fastest slice of a turn counts, which nothing interrupted.
const SLICE: usize = 1000;
const SLICES: usize = 8;
const ROUNDS: usize = 9;

/// Whether a place of this kind is a contestant's.
type IsOf = fn(Kind) -> bool;

/// Kinds of hooks, by the name that they have in the table.
const KINDS: [(&str, IsOf); 3] = [
    ("tracepoint", |kind| !kind.is_function()),
    ("fentry", |kind| matches!(kind, Kind::Fentry | Kind::Fexit)),
    ("kprobe", |kind| kind == Kind::Kprobe),
];

/// ns that one read takes, of the fastest slice.
fn read_ns(file: &File) -> f64 {
    let mut page = [0; PAGE];
    let slices = (0..SLICES).map(|_| {
        let began = Instant::now();
        for read in 0..SLICE {
            // In no order that readahead would take for one.
            let at = (read * 97 % PAGES * PAGE) as u64;
            file.read_exact_at(&mut page, at).expect("read");
        }
        began.elapsed().as_nanos() as f64 / SLICE as f64
    });
    slices.fold(f64::INFINITY, f64::min)
}

/// The id of the cgroup (v2) that this process is in.
fn own_cgroup() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let existing = existing_paths().ok()?;
    let found = existing.iter().find(|(_, path)| path == own.as_bytes());
    found.map(|(id, _)| *id)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn what_a_read_costs_by_kind_of_hook() {
    if !rustix::process::geteuid().is_root() || headstart::probe::object().is_none() {
        eprintln!("SKIPPED: recording needs root and probes built in");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let Some(cgroup) = own_cgroup() else {
        eprintln!("SKIPPED: this process' cgroup is not known");
        return;
    };
    let path = dir.path().join("cached");
    write(&path, (PAGES * PAGE) as u64);
    let file = File::open(&path).expect("open");
    let mut contestants: Vec<(&str, Probes, Vec<f64>)> = Vec::new();
    for (name, is_of) in KINDS {
        let mut probes = Probes::load(RING_BYTES).expect("probes");
        probes.watch(cgroup).expect("watched");
        let states = probes.attach_where(&[Group::Use], |place| is_of(place.kind));
        let reads = states
            .iter()
            .find(|state| state.program == "filemap_get_pages");
        if !reads.is_some_and(|state| state.live) {
            println!("fact read cost, {name}: not on this kernel");
            continue;
        }
        let seen = |probes: &Probes| {
            probes
                .counters()
                .expect("counts")
                .get(Stage::Read, Outcome::In)
        };
        let before = seen(&probes);
        read_ns(&file);
        // What is measured is a hook that sees these reads.
        assert!(seen(&probes) - before >= (SLICE * SLICES) as u64, "{name}");
        probes.detach(&[Group::Use]);
        contestants.push((name, probes, Vec::new()));
    }
    let mut bare = Vec::new();
    for round in 0..=ROUNDS {
        let nothing = read_ns(&file);
        bare.push(nothing);
        for (name, probes, differences) in &mut contestants {
            let is_of = KINDS
                .iter()
                .find(|(kind, _)| kind == name)
                .expect("of these")
                .1;
            probes.attach_where(&[Group::Use], |place| is_of(place.kind));
            let with = read_ns(&file);
            probes.detach(&[Group::Use]);
            if round > 0 {
                differences.push(with - nothing);
            }
        }
    }
    println!("fact read cost, none: {:.0} ns", median(bare));
    for (name, _, differences) in contestants {
        let sorted = |at: fn(&[f64]) -> f64| at(&differences);
        let least = sorted(|v| v.iter().copied().fold(f64::INFINITY, f64::min));
        let most = sorted(|v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let middle = median(differences.clone());
        println!("fact read cost, {name}: {middle:.0} ns more ({least:.0} to {most:.0})");
    }
}
