//! Many at once: nothing is lost unseen, and nothing piles up.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::node::{Node, Unit, until};

const SLICE: &str = "headstart-load.slice";

fn status(node: &Node) -> Value {
    node.json(&["status"]).expect("the agent answers")
}

/// In each stage that the agent tells of, what came in is what became of it, once nothing
/// is under way.
fn stages_add_up(node: &Node) {
    let adds_up = |stage: &Value| {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let filtered = stage["filtered"].as_object();
        let filtered: u64 = filtered.map_or(0, |reasons| reasons.values().map(number).sum());
        number(&stage["seen"]) == number(&stage["out"]) + number(&stage["lost"]) + filtered
    };
    until("what came in is what became of it", || {
        let status = status(node);
        let stages = status["totals"]["stages"].as_array().expect("stages");
        assert!(stages.len() > 10, "{status}");
        let off: Vec<_> = stages.iter().filter(|stage| !adds_up(stage)).collect();
        if !off.is_empty() {
            eprintln!("not yet: {off:?}");
        }
        off.is_empty().then_some(())
    });
}

/// Resident memory that is the agent's own, KiB.
fn resident_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    kib.expect("a number").trim().parse().expect("a number")
}

/// Makes and removes cgroups, of few names: what is remembered is workloads, not cgroups.
fn come_and_go(name: &str, cgroups: usize) {
    for at in 0..cgroups {
        drop(Unit::make(SLICE, &format!("{name}{}.service", at % 20)));
    }
}

#[test]
fn cgroups_that_come_and_go_are_all_noticed_and_leave_nothing() {
    const CGROUPS: usize = 3000;
    let Some(mut node) = Node::new() else { return };
    node.start();
    let pid = status(&node)["pid"].as_u64().expect("a process");
    // Others may live on this machine.
    let churned = || {
        let known = node.json(&["workloads"]).expect("it answers");
        let all = known["workloads"].as_array().cloned().expect("a list");
        let is_ours = |one: &Value| one["name"].as_str().is_some_and(|n| n.starts_with("churn"));
        all.into_iter().filter(is_ours).collect::<Vec<_>>()
    };
    let all_noticed = |n: usize| {
        until("all are noticed, and gone", || {
            let status = status(&node);
            let noticed = status["totals"]["starts"]["cgroup"].as_u64();
            let is_over = status["learning"] == 0 && churned().iter().all(|one| one["live"] == 0);
            (noticed >= Some(n as u64) && is_over).then_some(status)
        })
    };
    come_and_go("churn", CGROUPS / 3);
    all_noticed(CGROUPS / 3);
    let before = resident_kib(pid);
    come_and_go("churn", CGROUPS - CGROUPS / 3);
    let status = all_noticed(CGROUPS);
    assert_eq!(status["totals"]["signals_lost"], 0, "{status}");
    assert_eq!(churned().len(), 20, "{status}");
    stages_add_up(&node);
    let after = resident_kib(pid);
    assert!(after < before + 16 * 1024, "{before} KiB became {after}");
}

/// A process that does nothing, as long as this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Self {
        kill_process(process, Signal::STOP).expect("it runs");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).expect("it is there");
    }
}

/// More signals than there is room for, while nobody takes them.
#[test]
fn what_lost_signals_told_of_is_found_out_later() {
    const TOO_MANY: usize = 6000;
    let Some(mut node) = Node::new() else { return };
    node.start();
    let pid = status(&node)["pid"].as_u64().expect("a process");
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.expect("a process");
    let cgroups = |live: u64| {
        let known = node.workload("unit:missed.service")?;
        (known["live"] == live).then_some(())
    };
    let stopped = Stopped::new(process);
    come_and_go("crowd", TOO_MANY / 2);
    let missed = Unit::make(SLICE, "missed.service");
    drop(stopped);
    until("it is found though nothing told of it", || cgroups(1));
    let lost = status(&node)["totals"]["signals_lost"].as_u64();
    assert!(lost > Some(0), "{lost:?}");
    let stopped = Stopped::new(process);
    come_and_go("crowd", TOO_MANY / 2);
    drop(missed);
    drop(stopped);
    until("it is known to be gone", || cgroups(0));
}

#[test]
fn under_full_load_what_came_in_is_what_became_of_it() {
    const FILES: usize = 20_000;
    let Some(mut node) = Node::new() else { return };
    let tree = node.path("tree");
    for n in 0..FILES {
        if n % 500 == 0 {
            fs::create_dir_all(tree.join(format!("{}", n / 500))).expect("made");
        }
        let path = tree.join(format!("{}/{n}", n / 500));
        fs::write(path, n.to_string()).expect("written");
    }
    node.start();
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for processor in 0..processors {
            let (node, tree) = (&node, &tree);
            scope.spawn(move || {
                let name = format!("load{processor}.service");
                let unit = Unit::make(SLICE, &name);
                let script = "find \"$0\" -type f -exec cat {} + > /dev/null";
                let output = unit.run("sh", &["-c", script, &tree.display().to_string()]);
                assert!(output.status.success(), "{output:?}");
                drop(unit);
                node.learned(&format!("unit:{name}"), 1);
            });
        }
    });
    let status = status(&node);
    stages_add_up(&node);
    assert_eq!(status["totals"]["records_lost"], 0, "{status}");
    let known = node.workload("unit:load0.service").expect("known");
    assert!(
        known["profile_bytes"].as_u64() >= Some(FILES as u64 * 4096),
        "{known}"
    );
}
