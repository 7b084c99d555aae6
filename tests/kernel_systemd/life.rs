//! What the service leaves, and what its successor goes on from.

use std::fs;
use std::path::Path;

use crate::machine::{
    INSTALLED, Machine, Reader, SERVICE, property, run, said, systemctl, unit, until,
};

const SOCKET: &str = "/run/headstart/agent.sock";

/// A service that reads when it is told to.
fn start_kept(reader: &Reader) {
    let script = reader.script();
    let text = format!("[Service]\nType=oneshot\nExecStart=/bin/sh -c '{script}'\n");
    unit("kept.service", &text);
    systemctl(&["start", "--no-block", "kept.service"]);
}

#[test]
fn killed_it_is_started_again_and_goes_on_from_the_store() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let reader = Reader::new("/srv/kept", 4 << 20);
    start_kept(&reader);
    reader.go_learned();
    machine.learned("unit:kept.service", 1);
    let (first, restarts) = (property("MainPID"), property("NRestarts"));
    systemctl(&["kill", "--signal", "KILL", SERVICE]);
    until("another one is ready", || {
        let again = property("NRestarts") != restarts && property("ActiveState") == "active";
        again.then_some(())
    });
    assert_ne!(property("MainPID"), first);
    reader.forget();
    start_kept(&reader);
    reader.is_warm();
    reader.go();
    reader.was_used(&machine.learned("unit:kept.service", 1));
}

#[test]
fn stopped_it_leaves_what_it_learned_and_nothing_else() {
    let Some(_machine) = Machine::new() else {
        return;
    };
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let group = format!("/sys/fs/cgroup{}", property("ControlGroup"));
    assert!(Path::new(SOCKET).exists() && Path::new(&group).exists());
    assert!(!programs().is_empty());
    let before = mounts();
    let main = property("MainPID");
    systemctl(&["stop", SERVICE]);
    assert_eq!(property("Result"), "success");
    until("its programs are gone", || {
        programs().is_empty().then_some(())
    });
    assert!(!Path::new(&format!("/proc/{main}")).exists());
    assert!(!Path::new("/run/headstart").exists());
    assert!(!Path::new(&group).exists());
    assert!(
        mounts().lines().all(|mount| before.contains(mount)),
        "{}",
        mounts()
    );
    systemctl(&["disable", "--now", SERVICE]);
    let output = run(INSTALLED, &["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    let left = said("find", &["/run", "/var", "/etc", "-name", "*headstart*"]);
    let mut left: Vec<&str> = left.lines().collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "/etc/headstart",
            "/etc/systemd/system/headstart.service",
            "/var/lib/headstart"
        ]
    );
}

/// The agent's programs in the kernel; systemd has its own.
fn programs() -> Vec<String> {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let names = loaded.filter_map(|program| program.name_as_str().map(str::to_owned));
    names.filter(|name| name.starts_with("signal_")).collect()
}
