//! The unit as it is shipped: it starts the agent, watches it, and confines it.

use std::fs;

use crate::machine::{INSTALLED, Machine, SERVICE, property, run, said, systemctl, unit, until};

/// Capabilities of the unit, and their numbers (capability.h).
const CAPABILITIES: [(&str, u32); 8] = [
    ("cap_dac_read_search", 2),
    ("cap_fowner", 3),
    ("cap_sys_chroot", 18),
    ("cap_sys_ptrace", 19),
    ("cap_sys_admin", 21),
    ("cap_sys_resource", 24),
    ("cap_perfmon", 38),
    ("cap_bpf", 39),
];

/// A field of the agent's status in /proc.
fn field(name: &str) -> String {
    let status = format!("/proc/{}/status", property("MainPID"));
    let status = fs::read_to_string(status).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a field").trim().to_owned()
}

#[test]
fn it_is_ready_confined_and_complete() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let verified = run("systemd-analyze", &["verify", "--man=no", SERVICE]);
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!complaints.contains("headstart"), "{complaints}");
    assert_eq!(systemctl(&["is-active", SERVICE]), "active");
    assert_eq!(systemctl(&["is-enabled", SERVICE]), "enabled");
    let mut named: Vec<String> = property("CapabilityBoundingSet")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    named.sort_unstable();
    let mut wanted = CAPABILITIES.map(|(name, _)| name);
    wanted.sort_unstable();
    assert_eq!(named, wanted);
    let mask = CAPABILITIES
        .iter()
        .fold(0u64, |mask, (_, bit)| mask | 1 << bit);
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        assert_eq!(field(set), format!("{mask:016x}"), "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    // With those rights it does all that it can do.
    let status = machine.json(&["status"]).expect("it answers");
    assert_eq!(status["ready"], true, "{status}");
    let features = status["features"].as_array().expect("features");
    assert!(!features.is_empty());
    for feature in features {
        // No container runtime runs here.
        let of_runtimes = feature["name"] == "signal_runtime" || feature["name"] == "signal_bundle";
        assert_eq!(feature["live"], !of_runtimes, "{feature}");
    }
    for command in ["doctor", "status"] {
        let output = run(INSTALLED, &[command]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    // What it has of the machine's controllers.
    let group = format!("/sys/fs/cgroup{}", property("ControlGroup"));
    let read = |name: &str| fs::read_to_string(format!("{group}/{name}")).expect("there");
    assert_eq!(read("memory.high").trim(), (5u64 << 30).to_string());
    // Who reads what is warmed has a cgroup of its own below, with `node_budget`.
    let main = property("MainPID");
    let warm = format!("headstart-{main}-warm");
    assert_eq!(
        read(&format!("{warm}/memory.high")).trim(),
        (4u64 << 30).to_string()
    );
    assert_eq!(
        read(&format!("headstart-{main}-agent/cgroup.procs")).trim(),
        main
    );
    assert!(!read(&format!("{warm}/cgroup.procs")).trim().is_empty());
    assert!(
        read("io.weight").contains("default 20"),
        "{}",
        read("io.weight")
    );
    assert_eq!(read("cpu.weight").trim(), "20");
    let anonymous = read("memory.stat");
    let anonymous = anonymous
        .lines()
        .find_map(|line| line.strip_prefix("anon "));
    let bytes: u64 = anonymous.and_then(|text| text.parse().ok()).expect("bytes");
    println!(
        "fact agent as a service, memory of its own: {} KiB",
        bytes >> 10
    );
    let security = said("systemd-analyze", &["security", "--offline=true", SERVICE]);
    if let Some(level) = security
        .lines()
        .find_map(|l| l.split_once("exposure level for"))
    {
        let words: Vec<&str> = level.1.split_whitespace().take(3).collect();
        println!("fact systemd-analyze security: {}", words[1..].join(" "));
    }
}

#[test]
fn its_watchdog_is_fed_and_one_that_hangs_is_replaced() {
    let Some(machine) = Machine::new() else {
        return;
    };
    assert_eq!(property("WatchdogUSec"), "1min");
    // As `systemctl edit` does it.
    let change = "headstart.service.d/override.conf";
    unit(change, "[Service]\nWatchdogSec=4s\n");
    systemctl(&["restart", SERVICE]);
    let first = property("MainPID");
    let mut fed = property("WatchdogTimestampMonotonic");
    for time in 1..=3 {
        fed = until(&format!("it is fed for time {time}"), || {
            Some(property("WatchdogTimestampMonotonic")).filter(|now| *now != fed)
        });
    }
    assert_eq!(property("MainPID"), first);
    assert_eq!(property("NRestarts"), "0");
    said("kill", &["-STOP", &first]);
    until("another one runs", || {
        let replaced = property("NRestarts") == "1" && property("ActiveState") == "active";
        replaced.then_some(())
    });
    assert_ne!(property("MainPID"), first);
    assert_eq!(
        machine.json(&["status"]).expect("it answers")["ready"],
        true
    );
    fs::remove_file(format!("/etc/systemd/system/{change}")).expect("removed");
    systemctl(&["daemon-reload"]);
    systemctl(&["restart", SERVICE]);
}

#[test]
fn a_reload_reads_its_configuration_again() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let read = || machine.json(&["status"])?["config_read_ms"].as_u64();
    let before = until("it answers", read);
    systemctl(&["reload", SERVICE]);
    until("it has read it", || read().filter(|now| *now > before));
    assert_eq!(systemctl(&["is-active", SERVICE]), "active");
}
