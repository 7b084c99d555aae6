//! Which of all places a hook may have this kernel takes, one by one: in use, the first
//! that it takes hides the others.

use std::collections::BTreeSet;

use headstart::probe::{HOOKS, Place, Probes};
use headstart::run::RING_BYTES;

use crate::support::GROUPS;

/// Programs attached where only the place of this number of each hook is tried.
fn attached(number: usize, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let places: Vec<&Place> = HOOKS
        .iter()
        .filter_map(|hook| hook.places.get(number))
        .collect();
    let mut probes = Probes::load(RING_BYTES).expect("probes");
    let states = probes.attach_where(&GROUPS, |place| places.contains(&place));
    let live = states.iter().filter(|state| state.live);
    let live: BTreeSet<_> = live
        .map(|state| (state.program, state.place.clone()))
        .collect();
    let hooks = HOOKS.iter().filter_map(|hook| {
        let place = hook.places.get(number)?;
        live.contains(&(hook.program, place.to_string()))
            .then_some(place)
    });
    hooks
        .flat_map(|place| {
            let beside = place.beside.filter(|(_, function)| has(function));
            [Some(place.program), beside.map(|(program, _)| program)]
        })
        .flatten()
        .collect()
}

/// `cargo xtask vm` holds what this prints against the docs of the probes.
#[test]
fn each_is_tried_alone() {
    if !rustix::process::geteuid().is_root() || headstart::probe::object().is_none() {
        eprintln!("SKIPPED: attaching needs root and probes built in");
        return;
    }
    let symbols = std::fs::read_to_string("/proc/kallsyms").expect("symbols");
    let functions: BTreeSet<&str> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let most = HOOKS
        .iter()
        .map(|hook| hook.places.len())
        .max()
        .expect("hooks");
    let all: BTreeSet<_> = (0..most)
        .flat_map(|number| attached(number, |function| functions.contains(function)))
        .collect();
    let list: Vec<_> = all.iter().copied().collect();
    println!("fact probes that attach: {}", list.join(" "));
    // Every hook has a place, whichever it is.
    for hook in HOOKS {
        let taken = hook.places.iter().any(|place| all.contains(place.program));
        let elsewhere = cfg!(target_arch = "aarch64") && hook.program == "page_fault_kernel";
        assert!(taken || elsewhere, "{} of {all:?}", hook.program);
    }
}
