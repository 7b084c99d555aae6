//! What systemd starts is learned by its name, and warmed when it starts again.

use std::process::{Child, Command, Stdio};

use crate::machine::{Machine, Reader, forget, run, systemctl, unit};

const MIB: usize = 1 << 20;

/// A service that goes on after it has read, as services do.
fn service(reader: &Reader) -> String {
    let script = reader.script();
    format!(
        "[Service]\nExecStart=/bin/sh -c '{script}; exec sleep infinity'\nRestart=on-failure\nRestartSec=0\n"
    )
}

#[test]
fn a_service_is_warm_before_its_restart_reads_anything() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let reader = Reader::new("/srv/restarted", 8 * MIB);
    unit("restarted.service", &service(&reader));
    systemctl(&["start", "restarted.service"]);
    reader.go_learned();
    machine.learned("unit:restarted.service", 1);
    forget();
    reader.is_cold();
    systemctl(&["restart", "restarted.service"]);
    reader.is_warm();
    reader.go();
    reader.was_used(&machine.learned("unit:restarted.service", 2));
    // So is one that systemd starts anew because it failed.
    forget();
    reader.is_cold();
    systemctl(&["kill", "--signal", "KILL", "restarted.service"]);
    reader.is_warm();
    reader.go();
    reader.was_used(&machine.learned("unit:restarted.service", 3));
    systemctl(&["stop", "restarted.service"]);
}

/// The agent's unit has home directories read only and system directories too: what it
/// warms there it only reads.
#[test]
fn a_oneshot_over_a_home_directory_is_warmed() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let reader = Reader::new("/home/oneshot", 4 * MIB);
    let script = reader.script();
    let text = format!("[Service]\nType=oneshot\nExecStart=/bin/sh -c '{script}'\n");
    unit("once.service", &text);
    let start = || systemctl(&["start", "--no-block", "once.service"]);
    start();
    reader.go_learned();
    machine.learned("unit:once.service", 1);
    reader.forget();
    start();
    reader.is_warm();
    reader.go();
    reader.was_used(&machine.learned("unit:once.service", 2));
}

#[test]
fn an_instance_is_warmed_by_what_another_of_its_template_read() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let reader = Reader::new("/srv/template", 4 * MIB);
    unit("served@.service", &service(&reader));
    systemctl(&["start", "served@1.service"]);
    reader.go_learned();
    machine.learned("unit:served@1.service", 1);
    forget();
    systemctl(&["start", "served@2.service"]);
    reader.is_warm();
    reader.go();
    reader.was_used(&machine.learned("unit:served@2.service", 1));
    systemctl(&["stop", "served@1.service", "served@2.service"]);
}

#[test]
fn a_scope_is_learned_by_its_name() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let reader = Reader::new("/srv/scope", 4 * MIB);
    let start = || -> Child {
        let mut scope = Command::new("systemd-run");
        scope.args(["--scope", "--unit=batch", "--collect", "sh", "-c"]);
        scope.arg(reader.script()).stdin(Stdio::null());
        scope.spawn().expect("it starts")
    };
    let mut first = start();
    reader.go_learned();
    assert!(first.wait().expect("it ends").success());
    machine.learned("unit:batch.scope", 1);
    forget();
    let mut second = start();
    reader.is_warm();
    reader.go();
    assert!(second.wait().expect("it ends").success());
    reader.was_used(&machine.learned("unit:batch.scope", 2));
    assert!(
        !run("systemctl", &["is-active", "batch.scope"])
            .status
            .success()
    );
}
