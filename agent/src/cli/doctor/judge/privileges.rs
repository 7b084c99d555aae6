//! Effective capabilities, and what each is for.

use super::super::snapshot::Snapshot;
use super::{Group, Need, Row, Status, ok_or};

const SYS_ADMIN: u32 = 21;

/// A capability: its bit, and what is lost without it.
struct Capability {
    name: &'static str,
    bit: u32,
    /// CAP_SYS_ADMIN includes it, as it did before 5.8 split it off.
    part_of_sys_admin: bool,
    needed_for: Option<Need>,
    cost: &'static str,
}

const CAPABILITIES: [Capability; 6] = [
    Capability {
        name: "CAP_BPF",
        bit: 39,
        part_of_sys_admin: true,
        needed_for: Some(Need::Record),
        cost: "kernel programs can't be loaded: nothing is recorded",
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        part_of_sys_admin: true,
        needed_for: Some(Need::Record),
        cost: "kernel programs can't be attached to trace points: nothing is recorded",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: SYS_ADMIN,
        part_of_sys_admin: false,
        needed_for: None,
        cost: "where no cgroup2 is mounted, nothing is recorded",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        bit: 2,
        part_of_sys_admin: false,
        needed_for: None,
        cost: "files that the agent's user may not read are not warmed",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        bit: 19,
        part_of_sys_admin: false,
        needed_for: None,
        cost: "commands can't be traced, unless vm.unprivileged_userfaultfd is 1: profiles keep maybe pages",
    },
    Capability {
        name: "CAP_FOWNER",
        bit: 3,
        part_of_sys_admin: false,
        needed_for: None,
        cost: "warming other users' files updates their access times",
    },
];

pub(super) fn rows(seen: &Snapshot) -> Vec<Row> {
    let has = |bit: u32| seen.capabilities & (1 << bit) != 0;
    CAPABILITIES
        .iter()
        .map(|capability| {
            let (there, found) = match capability {
                c if has(c.bit) => (true, "effective"),
                c if c.part_of_sys_admin && has(SYS_ADMIN) => (true, "by way of CAP_SYS_ADMIN"),
                _ => (false, "not effective"),
            };
            let otherwise = match capability.needed_for {
                Some(_) => Status::Missing,
                None => Status::Degraded,
            };
            let mut row = Row::ok(Group::Privileges, capability.name, found)
                .is(ok_or(there, otherwise))
                .costs(capability.cost)
                .fix(format!(
                    "run as root, or give the agent {}",
                    capability.name
                ));
            row.needed_for = capability.needed_for;
            row
        })
        .collect()
}
