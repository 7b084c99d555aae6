//! Made-up machines, judged.

use std::collections::BTreeSet;

use super::*;
use crate::cli::doctor::snapshot::{Cgroups, Limit, StateDir};
use crate::probe::{HOOKS, Hook, HookState};

/// A machine that has everything.
pub(in super::super) fn good() -> Snapshot {
    let unlimited = Limit {
        soft: None,
        hard: None,
    };
    Snapshot {
        release: "6.18.1-example".to_owned(),
        page_size: 4096,
        btf: Ok(6 << 20),
        lockdown: Some("none".to_owned()),
        capabilities: u64::MAX,
        cgroups: Cgroups {
            v2: Some("/sys/fs/cgroup".into()),
            reachable: true,
            v1_controllers: Vec::new(),
            v2_memory: Ok(()),
        },
        runtimes: vec![("/run/containerd".into(), Ok(()))],
        tracefs: Some("/sys/kernel/tracing".into()),
        bpffs: Some("/sys/fs/bpf".into()),
        hooks: Ok(HOOKS.iter().map(|hook| state(hook, "")).collect()),
        places: BTreeSet::new(),
        fault_around: Ok(()),
        tracing: Ok(()),
        cachestat: Ok(()),
        openat2: Ok(()),
        mincore: Ok(()),
        fuse: Ok(()),
        pressure: Ok(()),
        drop_caches: Ok(()),
        state_dir: StateDir {
            path: "/var/lib/headstart".into(),
            exists: true,
            writable: Ok(()),
            free_bytes: 64 << 30,
            read_ahead_kb: Some(128),
        },
        broken_config: None,
        memlock: unlimited,
        nofile: unlimited,
        probes: Some(40_000),
    }
}

/// A hook that is live, or is not for a reason.
fn state(hook: &Hook, reason: &str) -> HookState {
    HookState {
        program: hook.program,
        group: hook.group,
        sees_pages: hook.sees_pages,
        place: hook.places[0].to_string(),
        live: reason.is_empty(),
        reason: reason.to_owned(),
        verified: None,
        without: hook.without,
    }
}

fn status(seen: &Snapshot, name: &str) -> Status {
    let report = judge(seen);
    report
        .checks
        .iter()
        .find(|row| row.name == name)
        .expect("a row of that name")
        .status
}

#[test]
fn a_good_machine_records_and_warms_and_has_nothing_to_complain_of() {
    let report = judge(&good());
    let bad: Vec<_> = report
        .checks
        .iter()
        .filter(|r| r.status != Status::Ok)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(report.verdict.exit_code(), 0);
}

#[test]
fn without_probes_or_type_information_a_machine_only_warms() {
    for seen in [
        Snapshot {
            probes: None,
            ..good()
        },
        Snapshot {
            btf: Err("no such file".to_owned()),
            ..good()
        },
        Snapshot {
            capabilities: 0,
            ..good()
        },
        Snapshot {
            lockdown: Some("confidentiality".to_owned()),
            ..good()
        },
        Snapshot {
            release: "5.4.0".to_owned(),
            ..good()
        },
        Snapshot {
            page_size: 65536,
            ..good()
        },
    ] {
        assert_eq!(
            judge(&seen).verdict,
            Verdict {
                records: false,
                warms: true
            },
            "{seen:?}"
        );
        assert_eq!(judge(&seen).verdict.exit_code(), 1);
    }
}

#[test]
fn profiles_that_cannot_be_written_are_warmed_from() {
    let mut seen = good();
    seen.state_dir.writable = Err("read-only file system".to_owned());
    assert_eq!(judge(&seen).verdict.exit_code(), 1);
    seen.state_dir.exists = false;
    assert_eq!(judge(&seen).verdict.exit_code(), 2);
}

#[test]
fn residency_needs_one_of_two_calls() {
    let mut seen = Snapshot {
        cachestat: Err("no".to_owned()),
        ..good()
    };
    assert_eq!(status(&seen, "cachestat"), Status::Degraded);
    assert_eq!(judge(&seen).verdict.exit_code(), 0);
    seen.mincore = Err("no".to_owned());
    assert_eq!(judge(&seen).verdict.exit_code(), 2);
}

#[test]
fn sys_admin_stands_in_for_the_two_bpf_capabilities() {
    let seen = Snapshot {
        capabilities: 1 << 21,
        ..good()
    };
    assert_eq!(status(&seen, "CAP_BPF"), Status::Ok);
    assert_eq!(status(&seen, "CAP_PERFMON"), Status::Ok);
    assert!(judge(&seen).verdict.records);
}

/// A machine that refuses some hooks.
fn refusing(refused: impl Fn(&Hook) -> bool) -> Snapshot {
    let reason = |hook| {
        if refused(hook) {
            "no such trace point"
        } else {
            ""
        }
    };
    Snapshot {
        hooks: Ok(HOOKS.iter().map(|hook| state(hook, reason(hook))).collect()),
        ..good()
    }
}

#[test]
fn a_hook_that_is_not_live_costs_what_it_records() {
    let one = refusing(|hook| hook.program == "sys_exit");
    assert_eq!(status(&one, "sys_exit"), Status::Degraded);
    assert_eq!(judge(&one).verdict.exit_code(), 0);
    // The hooks on page faults are live, and tell of no page.
    let blind = refusing(|hook| hook.sees_pages);
    assert_eq!(status(&blind, "filemap_fault"), Status::Missing);
    assert_eq!(judge(&blind).verdict.exit_code(), 1);
    assert_eq!(judge_hooks(&blind).verdict.exit_code(), 1);
}

#[test]
fn hooks_that_can_not_be_tried_are_looked_for() {
    let seen = Snapshot {
        hooks: Err("not permitted".to_owned()),
        places: BTreeSet::from(["tp_btf sys_exit".to_owned()]),
        ..good()
    };
    assert_eq!(status(&seen, "loading"), Status::Missing);
    assert_eq!(status(&seen, "sys_exit"), Status::Ok);
    assert_eq!(status(&seen, "filemap_fault"), Status::Degraded);
    assert_eq!(judge_hooks(&seen).verdict.exit_code(), 1);
}

#[test]
fn a_configuration_that_can_not_be_read_stops_commands() {
    let seen = Snapshot {
        broken_config: Some("config.toml, line 1".to_owned()),
        ..good()
    };
    assert_eq!(judge(&seen).verdict.exit_code(), 2);
}

#[test]
fn whatever_is_not_well_says_what_it_costs_and_what_to_do() {
    let mut seen = Snapshot {
        release: "5.4.0".to_owned(),
        btf: Err("none".to_owned()),
        lockdown: Some("integrity".to_owned()),
        capabilities: 0,
        cgroups: Cgroups {
            v2: None,
            reachable: false,
            v1_controllers: Vec::new(),
            v2_memory: Err("none".to_owned()),
        },
        tracefs: None,
        bpffs: None,
        hooks: Err("none".to_owned()),
        broken_config: Some("none".to_owned()),
        fault_around: Err("none".to_owned()),
        tracing: Err("none".to_owned()),
        cachestat: Err("none".to_owned()),
        openat2: Err("none".to_owned()),
        mincore: Err("none".to_owned()),
        fuse: Err("none".to_owned()),
        pressure: Err("none".to_owned()),
        drop_caches: Err("none".to_owned()),
        memlock: Limit {
            soft: Some(65_536),
            hard: Some(65_536),
        },
        nofile: Limit {
            soft: Some(256),
            hard: Some(256),
        },
        probes: None,
        ..good()
    };
    seen.state_dir.writable = Err("none".to_owned());
    for row in judge(&seen)
        .checks
        .iter()
        .filter(|row| row.status != Status::Ok)
    {
        assert!(!row.cost.is_empty(), "{} has no cost", row.name);
        assert!(!row.fix.is_empty(), "{} has no remedy", row.name);
    }
}
