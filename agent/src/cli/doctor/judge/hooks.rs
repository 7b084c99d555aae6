//! Which hooks are live. Each was attached for this, where that is allowed.

use std::path::Path;

use super::super::snapshot::Snapshot;
use super::{Group, Need, Row, Status, ok_or};
use crate::probe::{HOOKS, Hook, HookState, Place};

pub(super) fn rows(seen: &Snapshot) -> Vec<Row> {
    let mut rows = vec![
        mount(
            "tracefs",
            seen.tracefs.as_deref(),
            "hooks attach without it",
        ),
        mount("bpffs", seen.bpffs.as_deref(), "nothing is pinned"),
    ];
    match &seen.hooks {
        Ok(states) => rows.extend(tried(seen, states)),
        Err(reason) => {
            rows.push(not_loaded(reason));
            rows.extend(HOOKS.iter().map(|hook| not_tried(seen, hook)));
        }
    }
    rows
}

/// A mount that is shown because people look for it, and that nothing waits for.
fn mount(name: &'static str, place: Option<&Path>, without: &str) -> Row {
    let found = match place {
        Some(place) => place.display().to_string(),
        None => format!("not mounted, not needed: {without}"),
    };
    Row::ok(Group::Hooks, name, found)
}

/// Recording goes on with whatever is live, as long as some use of pages is seen.
fn tried(seen: &Snapshot, states: &[HookState]) -> impl Iterator<Item = Row> {
    let confidential = seen.lockdown.as_deref() == Some("confidentiality");
    let blind = !states.iter().any(|state| state.live && state.sees_pages);
    states.iter().map(move |state| {
        let needed = blind && state.sees_pages;
        let found = match state.live {
            true => format!("live: {}", state.place),
            false => format!("{}: {}", state.place, state.reason),
        };
        let row = Row::ok(Group::Hooks, state.program, found)
            .is(match (state.live, needed) {
                (true, _) => Status::Ok,
                (false, true) => Status::Missing,
                (false, false) => Status::Degraded,
            })
            .costs(state.without)
            .fix(match confidential {
                true => "boot with lockdown=integrity or without lockdown",
                false => remedy(&state.reason),
            });
        if needed {
            row.needed_for(Need::Record)
        } else {
            row
        }
    })
}

fn remedy(reason: &str) -> &'static str {
    if reason.contains("os error 1)") || reason.contains("os error 13)") {
        "run as root, or give the agent CAP_BPF and CAP_PERFMON"
    } else {
        "run Linux 5.10 or later, with CONFIG_TRACEPOINTS=y and CONFIG_FUNCTION_TRACER=y; `-v` says what the kernel answered"
    }
}

fn not_loaded(reason: &str) -> Row {
    Row::ok(Group::Hooks, "loading", reason)
        .is(Status::Missing)
        .costs("no hook can be attached: nothing is recorded")
        .fix("run as root, and see the rows under Kernel and Privileges")
        .needed_for(Need::Record)
}

fn not_tried(seen: &Snapshot, hook: &Hook) -> Row {
    let mut places = hook.places.iter();
    let place = places.find(|place| seen.places.contains(&place.to_string()));
    let all: Vec<String> = hook.places.iter().map(Place::to_string).collect();
    let there = place.is_some();
    let found = match (place, &seen.btf) {
        (Some(place), _) => format!("not tried; {place} is in this kernel"),
        (None, Ok(_)) => format!("not in this kernel: {}", all.join(", ")),
        (None, Err(_)) => format!("not tried: {}", all.join(", ")),
    };
    Row::ok(Group::Hooks, hook.program, found)
        .is(ok_or(there, Status::Degraded))
        .costs(hook.without)
        .fix("run Linux 5.10 or later, with CONFIG_TRACEPOINTS=y and type information")
}
