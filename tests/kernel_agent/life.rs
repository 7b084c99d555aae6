//! The agent's own life: what it finds, what it leaves, what it says.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::node::{Node, Unit, evict, until};
use crate::residency::resident_pages;

const SLICE: &str = "headstart-life.slice";

#[test]
fn what_is_older_than_the_agent_is_known_by_name() {
    knows_what_is_older(Node::start);
}

#[test]
fn what_is_older_is_known_from_within_a_cgroup_namespace() {
    let group = Unit::make(SLICE, "namespace.service");
    let Some(procs) = group.mounted("cgroup.procs") else {
        return;
    };
    knows_what_is_older(|node| node.start_in_namespace(&procs));
}

fn knows_what_is_older(start: impl FnOnce(&mut Node)) {
    let Some(mut node) = Node::new() else { return };
    let unit = Unit::make(SLICE, "older.service");
    start(&mut node);
    let known = until("the older unit is known", || {
        node.workload("unit:older.service")
    });
    assert_eq!(known["live"], 1, "{known}");
    assert_eq!(known["starts"], 0, "{known}");
    drop(unit);
    until("it is known to be gone", || {
        node.workload("unit:older.service")
            .filter(|w| w["live"] == 0)
    });
}

#[test]
fn what_is_made_within_an_older_units_cgroups_is_no_start() {
    let Some(mut node) = Node::new() else { return };
    let unit = Unit::make(SLICE, "nested.service");
    unit.make_within("inner");
    node.start();
    until("the older unit is known", || {
        node.workload("unit:nested.service")
    });
    unit.make_within("inner/late");
    // Signals come in their order: that of this one comes after.
    let other = Unit::make(SLICE, "other.service");
    until("the other one starts", || {
        node.workload("unit:other.service")
            .filter(|other| other["starts"] == 1)
    });
    let nested = node.workload("unit:nested.service").expect("it is known");
    assert_eq!(nested["starts"], 0, "{nested}");
    drop(other);
    unit.remove_within("inner/late");
    unit.remove_within("inner");
}

#[test]
fn it_ends_and_the_next_one_goes_on_from_the_store() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 1 << 20);
    let script = [
        "sh",
        "-c",
        "cat \"$0\" > /dev/null",
        &used.display().to_string(),
    ];
    let before = programs();
    node.start();
    assert!(programs() > before);
    node.learn(SLICE, "kept.service", 1, &script);
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
    assert!(!node.socket().exists(), "the socket stays");
    node.start();
    node.learn(SLICE, "kept.service", 2, &script);
    // Killed, it leaves a socket that its successor replaces, and nothing else.
    node.stop(libc::SIGKILL);
    until("its programs are gone", || {
        (programs() <= before).then_some(())
    });
    assert!(node.socket().exists());
    let output = node.run(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!node.socket().exists());
    node.start();
    node.stop(libc::SIGKILL);
    // Its successor does not need that.
    node.start();
    node.learn(SLICE, "kept.service", 3, &script);
}

#[test]
fn what_gained_nothing_is_not_warmed_by_the_next_agent_either() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 4 << 20);
    let path = used.display().to_string();
    let reads = ["sh", "-c", "cat \"$0\" > /dev/null", &path];
    // It runs for longer than what was just read for it counts as read.
    let reads_not = ["sh", "-c", "sleep 2.2"];
    let key = "unit:useless.service";
    node.start();
    // So often that it is expected still when it was not read five times.
    let mut runs = 4;
    node.learn(SLICE, "useless.service", runs, &reads);
    let over = |known: &serde_json::Value| known["not_warmed"] == "no_gain";
    let last = until("it is warmed for in vain", || {
        evict(&used);
        runs += 1;
        assert!(runs < 20, "it is still warmed for");
        let known = node.learn(SLICE, "useless.service", runs, &reads_not);
        over(&known).then_some(known)
    });
    assert_eq!(last["last"]["read"], 0, "{last}");
    node.stop(libc::SIGTERM);

    node.start();
    // Before it is seen the store tells of it.
    let stored = node.workload(key).expect("stored");
    assert_eq!(stored["seen"], false, "{stored}");
    assert_eq!(stored["runs"], runs, "{stored}");
    assert!(over(&stored), "{stored}");
    assert_eq!(stored["last"]["over"], true, "{stored}");
    let explained = node.json(&["explain", key]).expect("stored");
    assert_eq!(explained["key"], key, "{explained}");
    evict(&used);
    let known = node.learn(SLICE, "useless.service", runs + 1, &reads_not);
    assert_eq!(known["seen"], true, "{known}");
    assert!(over(&known), "{known}");
    assert_eq!(known["last"]["read"], 0, "{known}");
    let resident = resident_pages(&used);
    assert!(resident.iter().all(|&there| !there));
}

/// Programs by which an agent notices starts, in the kernel.
fn programs() -> usize {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let names = loaded.filter_map(|program| program.name_as_str().map(str::to_owned));
    names.filter(|name| name.starts_with("signal_")).count()
}

#[test]
fn where_nothing_can_be_kept_what_is_known_is_warmed() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 1 << 20);
    let script = [
        "sh",
        "-c",
        "cat \"$0\" > /dev/null",
        &used.display().to_string(),
    ];
    node.start();
    node.learn(SLICE, "known.service", 1, &script);
    node.stop(libc::SIGTERM);
    evict(&used);
    node.start_apart("mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"");
    let store = node.feature("store").expect("the store is one");
    assert_eq!(store["live"], false, "{store}");
    assert!(
        store["reason"]
            .as_str()
            .is_some_and(|r| r.contains("--state-dir")),
        "{store}"
    );
    let unit = Unit::make(SLICE, "known.service");
    node.warmed("unit:known.service", &used);
    unit.run(script[0], &script[1..]);
    drop(unit);
    let status = until("the start is counted", || {
        node.json(&["status"])
            .filter(|status| status["totals"]["starts_not_learned"]["no_store"] == 1)
    });
    assert_eq!(status["totals"]["runs_learned"], 0, "{status}");
}

#[test]
fn a_disk_that_is_full_is_told_until_there_is_room() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 4 << 20);
    let script = [
        "sh",
        "-c",
        "cat \"$0\" > /dev/null",
        &used.display().to_string(),
    ];
    fs::create_dir(node.path("state")).expect("made");
    node.start_apart("mount -t tmpfs -o size=16m none \"$0\"");
    node.learn(SLICE, "first.service", 1, &script);
    let state = node.path("state");
    let within = state.strip_prefix("/").expect("absolute");
    let filler = Path::new("/proc").join(node.pid().to_string());
    let filler = filler.join("root").join(within).join("filler");
    let mut file = fs::File::create(&filler).expect("made");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    // What is there has room for a few more.
    let mut n = 0;
    let told = until("the store says so", || {
        n += 1;
        let unit = node.learning(|| Unit::make(SLICE, &format!("more{n}.service")));
        unit.run(script[0], &script[1..]);
        drop(unit);
        node.feature("store").filter(|store| store["live"] == false)
    });
    let reason = told["reason"].as_str().expect("text");
    assert!(reason.contains("No space left"), "{reason}");
    fs::remove_file(&filler).expect("removed");
    node.learn(SLICE, "last.service", 1, &script);
    let there = until("it is told no more", || {
        node.feature("store").filter(|store| store["live"] == true)
    });
    assert_eq!(there["reason"], "");
}

#[test]
fn without_capabilities_it_says_so_and_warms_when_told() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 1 << 20);
    let script = [
        "sh",
        "-c",
        "cat \"$0\" > /dev/null",
        &used.display().to_string(),
    ];
    node.start();
    node.learn(SLICE, "told.service", 1, &script);
    node.stop(libc::SIGTERM);
    evict(&used);
    node.start_apart("set -- setpriv --bounding-set=-all --inh-caps=-all \"$@\"");
    let status = node.json(&["status"]).expect("it answers");
    let features = status["features"].as_array().expect("features");
    let names = [
        "record_pages",
        "record_names",
        "signal_cgroup",
        "signal_refill",
    ];
    for name in names {
        let feature = features.iter().find(|feature| feature["name"] == name);
        let feature = feature.expect("it is told");
        assert_eq!(feature["live"], false, "{feature}");
        assert!(
            feature["reason"]
                .as_str()
                .is_some_and(|r| r.contains("CAP_BPF")),
            "{feature}"
        );
    }
    node.notify("unit:told.service");
    node.warmed("unit:told.service", &used);
}

#[test]
fn two_agents_on_one_socket_are_one_too_many() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    let second = node.run(&["agent"]);
    assert!(!second.status.success(), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another agent"), "{said}");
    assert_eq!(node.json(&["status"]).expect("answers")["ready"], true);
}

#[test]
fn a_store_that_is_locked_at_the_start_is_kept_in_once_it_is_free() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.stop(libc::SIGTERM);
    let store = node.path("state").join("profiles.redb");
    let store = std::fs::File::options().write(true).open(store);
    let store = store.expect("the first agent made it");
    store.lock().expect("locked");
    node.start();
    let feature = node.feature("store").expect("told");
    assert_eq!(feature["live"], false, "{feature}");
    drop(store);
    until("it is kept again", || {
        (node.feature("store")?["live"] == true).then_some(())
    });
}

#[test]
fn two_agents_on_one_state_directory_are_one_too_many() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_headstart"))
        .arg("--config")
        .arg(node.path("config.toml"))
        .arg("--state-dir")
        .arg(node.path("state"))
        .arg("--socket")
        .arg(node.path("other.sock"))
        .arg("agent")
        .output()
        .expect("it starts");
    assert!(!second.status.success(), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another agent works with"), "{said}");
    assert_eq!(node.json(&["status"]).expect("answers")["ready"], true);
    // Of one that was killed nothing is held.
    node.stop(libc::SIGKILL);
    node.start();
}

#[test]
fn a_broken_configuration_is_told_and_the_last_good_one_stays() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    node.configure("observe_onyl = true");
    let status = until("the agent has seen it", || {
        node.json(&["status"]).filter(|status| {
            status["config_error"]
                .as_str()
                .is_some_and(|e| !e.is_empty())
        })
    });
    let error = status["config_error"].as_str().expect("text");
    assert!(error.contains("observe_onyl"), "{error}");
    node.configure("");
    until("it is taken again", || {
        node.json(&["status"])
            .filter(|status| status["config_error"] == "")
    });
    // What is only heeded at the start is named.
    node.configure("plans_at_once = 3");
    let status = until("the agent has seen that, too", || {
        node.feature("configuration").filter(|f| f["live"] == false)
    });
    let reason = status["reason"].as_str().expect("text");
    assert!(reason.contains("agent.plans_at_once"), "{reason}");
}

#[test]
fn a_hangup_has_the_configuration_read_again_whether_it_changed_or_not() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    let read = |node: &Node| node.json(&["status"])?["config_read_ms"].as_u64();
    let mut last = read(&node).expect("it answers");
    for _ in 0..3 {
        node.signal(libc::SIGHUP);
        last = until("it is read again", || read(&node).filter(|now| *now > last));
    }
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
}

#[test]
fn without_an_agent_its_commands_say_how_to_start_one() {
    let node = Node::without_probes();
    for command in [
        &["status"][..],
        &["workloads"],
        &["explain", "x"],
        &["notify", "x"],
    ] {
        let output = node.run(command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("headstart agent"), "{said}");
    }
}

#[test]
fn an_idle_disk_that_starts_read_from_is_measured_once() {
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", 4 << 20);
    let command = ["cat", &used.display().to_string()];
    let results = |node: &Node| {
        let status = node.json(&["status"])?;
        Some(status["totals"]["disk_measurements"].clone())
    };
    node.configure("");
    let text = fs::read_to_string(node.path("config.toml")).expect("configuration");
    let measuring = text.replace("measure_disks = false", "measure_disks = true");
    fs::write(node.path("config.toml"), measuring).expect("written");
    node.start();
    let mut runs = 0;
    let measured = until("the disk is measured, or can't be", || {
        // Somebody may use it each time that it is looked at.
        runs += 1;
        node.learn(SLICE, "reads.service", runs, &command);
        let looked = || results(&node).filter(|r| r.as_object().is_some_and(|r| !r.is_empty()));
        until("it is looked at", looked)
            .as_object()
            .cloned()
            .filter(|results| results.contains_key("measured") || results.contains_key("failed"))
    });
    if measured.contains_key("failed") {
        eprintln!("SKIPPED: what is below the state directory is no disk of its own");
        return;
    }
    node.stop(libc::SIGTERM);
    node.start();
    node.learn(SLICE, "reads.service", runs + 1, &command);
    let again = results(&node).expect("a status");
    assert_eq!(again, serde_json::json!({}), "it is known");
}

#[test]
fn a_signal_that_comes_twice_at_once_ends_it_in_order_too() {
    let Some(mut node) = Node::new() else { return };
    node.start();
    // Two of one kind may come as one.
    node.signal(libc::SIGINT);
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
    assert!(!node.socket().exists(), "its socket is left");
}
