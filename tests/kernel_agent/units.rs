//! Units: learned when they start, warmed when they start again.

use serde_json::Value;

use crate::node::{Node, Unit, evict, until};
use crate::residency::resident_pages;

const SLICE: &str = "headstart-test.slice";
const MIB: usize = 1 << 20;

fn key(name: &str) -> String {
    format!("unit:{name}")
}

/// Runs something in a unit's cgroup and has it learned.
fn learn(node: &Node, name: &str, runs: u64, program: &str, args: &[&str]) {
    node.learn(SLICE, name, runs, &[&[program], args].concat());
}

#[test]
fn a_unit_is_learned_and_its_next_start_is_warmed() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 8 * MIB);
    let unused = node.file("unused", MIB);
    node.start();
    let name = "learned.service";
    let cat = ["-c", "cat \"$0\" > /dev/null", &used.display().to_string()];
    let runs = node.learn_reading(SLICE, name, &used);
    evict(&used);
    assert!(resident_pages(&used).iter().all(|&there| !there));
    // Its cgroup alone tells that it will start: it is warm before anything runs.
    let unit = Unit::make(SLICE, name);
    node.warmed(&key(name), &used);
    assert!(resident_pages(&unused).iter().all(|&there| !there));
    unit.run("sh", &cat);
    drop(unit);
    let known = node.learned(&key(name), runs + 1);
    let last = &known["last"];
    assert_eq!(last["signal"], "cgroup", "{known}");
    let bytes = |name: &str| last[name].as_u64().expect("bytes");
    assert!(bytes("read") >= 8 * MIB as u64, "{known}");
    assert!(bytes("used") >= 8 * MIB as u64, "{known}");
    assert_eq!(
        bytes("planned"),
        bytes("used") + bytes("late") + bytes("wasted") + bytes("unknown"),
        "{known}"
    );
}

#[test]
fn a_unit_is_learned_in_a_cgroup_and_warmed_when_that_is_filled_again() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 8 * MIB);
    let fifo = node.path("go");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("a FIFO");
    let name = "refilled.service";
    let older = Unit::make(SLICE, name);
    // Long enough for looking at it, in the middle of a start.
    node.configure_settling(6, "");
    node.start();
    until("the older unit is known", || node.workload(&key(name)));
    // What was there before the agent, and then what it has seen starting: neither leaves.
    for n in 1..=2u64 {
        let noticed = || {
            let known = node.workload(&key(name))?;
            (known["starts"] == n && known["live"] == 1).then_some(())
        };
        let wait = "read -r go < \"$1\"; cat \"$0\" > /dev/null";
        let [file, go] = [&used, &fifo].map(|path| path.display().to_string());
        let mut child = older.spawn("sh", &["-c", wait, &file, &go]);
        until("its start is noticed", noticed);
        if n > 1 {
            node.warmed(&key(name), &used);
        }
        std::fs::write(&fifo, "go\n").expect("a reader");
        assert!(child.wait().expect("waited").success());
        let known = node.learned(&key(name), n);
        assert_eq!(known["last"]["signal"], "refill", "{known}");
        if n > 1 {
            let read = known["last"]["used"].as_u64();
            assert!(read >= Some(8 * MIB as u64), "{known}");
        }
        evict(&used);
    }
}

#[test]
fn a_notification_warms_ahead() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 4 * MIB);
    node.start();
    let name = "notified.service";
    let cat = ["-c", "cat \"$0\" > /dev/null", &used.display().to_string()];
    let runs = node.learn_reading(SLICE, name, &used);
    evict(&used);
    node.notify(&key(name));
    node.warmed(&key(name), &used);
    learn(&node, name, runs + 1, "sh", &cat);
    let known = node.workload(&key(name)).expect("known");
    assert_eq!(known["last"]["signal"], "notify", "{known}");
    // The profile counts with what a second run saw; all of it is in memory when it is said.
    evict(&used);
    let warmed = node.json(&["notify", "--wait", name]).expect("warmed");
    assert_eq!(warmed["done"], true, "{warmed}");
    assert!(warmed["read"].as_u64() >= Some(4 * MIB as u64), "{warmed}");
    assert!(resident_pages(&used).iter().all(|&there| there));
    let refused = node.run(&["notify", "unit:nobody.service"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("headstart workloads"), "{said}");
}

#[test]
fn two_that_notify_and_wait_are_told_of_one_plan() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 8 * MIB);
    node.start();
    let name = "twice.service";
    node.learn_reading(SLICE, name, &used);
    // So that it goes on for as long as it takes the second to ask.
    node.reconfigure("bytes_per_second = \"2MiB\"");
    evict(&used);
    let status = || node.json(&["status"]).expect("it answers");
    let read = || status()["totals"]["warmed_bytes"]["read"].as_u64();
    let before = read().unwrap_or(0);
    let ask = || {
        let mut command = node.headstart(&["--json", "notify", "--wait", name]);
        command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    let first = ask();
    until("it goes on", || (status()["warming"] == 1).then_some(()));
    let second = ask();
    let told = [first, second].map(|child| {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["done"], true, "{said}");
        said["read"].as_u64().expect("bytes")
    });
    assert_eq!(told[0], told[1]);
    assert!(told[0] >= 8 * MIB as u64, "{told:?}");
    // The sums are told a little later.
    let counted = until("it is counted", || read().filter(|&bytes| bytes > before));
    assert_eq!(counted - before, told[0], "read once");
}

#[test]
fn what_goes_on_ahead_ends_when_the_start_comes() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 60 * MIB);
    node.start();
    let name = "awaited.service";
    node.learn_reading(SLICE, name, &used);
    let status = |node: &Node| node.json(&["status"]).expect("it answers");
    // So that it goes on for as long as it is looked at.
    node.reconfigure("bytes_per_second = \"1MiB\"");
    evict(&used);
    let left = |node: &Node| status(node)["totals"]["warmed_bytes"]["left"].as_u64();
    let before = left(&node);
    node.notify(&key(name));
    until("it goes on", || {
        (status(&node)["warming"] == 1).then_some(())
    });
    let unit = Unit::make(SLICE, name);
    until("it is left to the start", || {
        (left(&node) > before).then_some(())
    });
    drop(unit);
}

#[test]
fn who_only_observes_warms_nothing() {
    let Some(mut node) = Node::new() else { return };
    node.configure("observe_only = true");
    let used = node.file("used", MIB);
    node.start();
    let name = "observed.service";
    let cat = ["-c", "cat \"$0\" > /dev/null", &used.display().to_string()];
    learn(&node, name, 1, "sh", &cat);
    evict(&used);
    learn(&node, name, 2, "true", &[]);
    let known = node.workload(&key(name)).expect("known");
    assert_eq!(known["not_warmed"], "observe_only", "{known}");
    assert!(resident_pages(&used).iter().all(|&there| !there));
    // The configuration is read again when it changes.
    node.reconfigure("observe_only = false");
    let _unit = Unit::make(SLICE, name);
    node.warmed(&key(name), &used);
    until("that is told", || {
        node.workload(&key(name))
            .filter(|known| known["not_warmed"] == "")
    });
}

#[test]
fn what_is_never_wanted_is_not_warmed() {
    let Some(mut node) = Node::new() else { return };
    node.configure("never = [\"unit:private\"]");
    let used = node.file("used", MIB);
    node.start();
    let cat = ["-c", "cat \"$0\" > /dev/null", &used.display().to_string()];
    learn(&node, "public.service", 1, "sh", &cat);
    {
        let unit = Unit::make(SLICE, "private.service");
        unit.run("sh", &cat);
    }
    learn(&node, "public.service", 2, "true", &[]);
    let known = node.workload(&key("private.service"));
    assert!(known.is_none_or(|known| known["runs"] == 0));
}

#[test]
fn starts_of_one_workload_share_a_plan() {
    const SLICES: [&str; 4] = [
        "headstart-a.slice",
        "headstart-b.slice",
        "headstart-c.slice",
        "headstart-d.slice",
    ];
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 8 * MIB);
    node.start();
    let name = "shared.service";
    let cat = ["-c", "cat \"$0\" > /dev/null", &used.display().to_string()];
    learn(&node, name, 1, "sh", &cat);
    let totals = |node: &Node| node.json(&["status"]).expect("it answers")["totals"].clone();
    let warmed =
        |totals: &Value, what: &str| totals["warmed_bytes"][what].as_u64().unwrap_or_default();
    let plans = |totals: &Value| {
        let stages = totals["stages"].as_array().expect("stages");
        let plans = stages.iter().find(|stage| stage["name"] == "plans");
        plans.expect("it is told").clone()
    };
    let before = totals(&node);
    evict(&used);
    let units = SLICES.map(|slice| Unit::make(slice, name));
    let after = until("all starts are warmed for", || {
        let after = totals(&node);
        let seen = |totals| plans(totals)["seen"].as_u64();
        (seen(&after) >= seen(&before).map(|n| n + 4)).then_some(after)
    });
    // Read once, and told of once.
    let read = warmed(&after, "read") - warmed(&before, "read");
    let joined = warmed(&after, "joined") - warmed(&before, "joined");
    assert!(read >= 8 * MIB as u64, "{after}");
    assert_eq!(joined % 3, 0, "{after}");
    let planned: u64 = ["read", "resident", "failed", "gone", "evicted", "left"]
        .map(|what| warmed(&after, what) - warmed(&before, what))
        .iter()
        .sum();
    assert_eq!(joined, 3 * planned, "{after}");
    let used_before = before["outcome_bytes"]["used"].as_u64().unwrap_or_default();
    let (before, after) = (plans(&before), plans(&after));
    let number = |stage: &Value, what: &str| stage[what].as_u64().unwrap_or_default();
    assert_eq!(number(&after, "out") - number(&before, "out"), 1, "{after}");
    let joined = |stage: &Value| number(&stage["filtered"], "joined");
    assert_eq!(joined(&after) - joined(&before), 3, "{after}");
    // Each is held against what its own start used.
    for unit in &units {
        unit.run("sh", &cat);
    }
    drop(units);
    // Two of them: what is known already is not learned any number of times at once.
    let known = until("two are learned", || {
        let known = node.workload(&key(name))?;
        (known["runs"].as_u64() >= Some(3)).then_some(known)
    });
    let spared = until("it is told that the others aren't", || {
        let now = totals(&node);
        (now["starts_not_learned"]["enough_learned"] == 2).then_some(now)
    });
    assert_eq!(known["runs"], 3, "{known}");
    let used_after = spared["outcome_bytes"]["used"].as_u64();
    assert!(
        used_after >= Some(used_before + 16 * MIB as u64),
        "{spared}"
    );
}
