//! The machine's clock is set while the agent runs, where it is nobody else's.

use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use xtask::vm::job::JOB;

use crate::node::{Node, Unit};

const SLICE: &str = "headstart-test.slice";
const HOUR: i64 = 3600;

/// Sets it so many seconds later, or earlier.
fn turn(seconds: i64) {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec {
        tv_sec: now.tv_sec + seconds,
        ..now
    };
    clock_settime(ClockId::Realtime, then).expect("root sets the clock");
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    if !Path::new(JOB).exists() {
        eprintln!("SKIPPED: the clock is set only in a guest of `cargo xtask vm`");
        return;
    }
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 1 << 20);
    let cat = format!("cat {} > /dev/null", used.display());
    node.start();
    let (name, key) = ("timed.service", "unit:timed.service");
    let runs = node.learn_reading(SLICE, name, &used);
    // Back, in the middle of a start, and on, in the middle of another.
    for (runs, jump) in [(runs + 1, -HOUR), (runs + 2, 2 * HOUR)] {
        node.evict_again(&used);
        let unit = Unit::make(SLICE, name);
        node.warmed(key, &used);
        turn(jump);
        assert!(unit.run("sh", &["-c", &cat]).status.success());
        drop(unit);
        let known = node.learned(key, runs);
        let last = &known["last"];
        assert!(last["used"].as_u64() >= Some(1 << 20), "{known}");
        let seconds = last["seconds"].as_f64().expect("a number");
        assert!((0.0..60.0).contains(&seconds), "{known}");
    }
    turn(-HOUR);
    let status = node.json(&["status"]).expect("it answers");
    let uptime = status["totals"]["uptime_seconds"].as_f64();
    assert!(uptime.is_some_and(|s| s < HOUR as f64), "{status}");
}
