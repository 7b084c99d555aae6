//! Which hooks this kernel takes, and what its verifier goes through for them.

use headstart::probe::Probes;
use headstart::run::RING_BYTES;

use crate::support::{GROUPS, takes};

#[test]
fn every_purpose_has_its_hook() {
    if !rustix::process::geteuid().is_root() || headstart::probe::object().is_none() {
        eprintln!("SKIPPED: recording needs root and probes built in");
        return;
    }
    // What the kernel has against a program is in its log.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(std::io::stderr)
        .try_init();
    let mut probes = Probes::load(RING_BYTES).expect("probes");
    println!("fact missing fields: {}", probes.missing_fields().join(" "));
    let states = probes.attach_where(&GROUPS, takes);
    for state in &states {
        let place = if state.live { &state.place } else { "—" };
        println!("fact hook {}: {place}", state.program);
        if let Some(verified) = state.verified {
            println!("fact verified {}: {verified}", state.program);
        }
    }
    let missing: Vec<_> = states.iter().filter(|state| !state.live).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
