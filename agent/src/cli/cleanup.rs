//! `headstart cleanup`: put back what a killed headstart left behind.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::args::Global;
use super::format::count;
use super::{context, format};
use crate::api::remove_left;
use crate::model::escape;
use crate::run::{Left, Swept, put_back_left, remove_left_cgroups};

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let state_dir = context::state_dir(global)?;
    let left = put_back_left(&state_dir).context("not put back")?;
    let socket = match global.socket() {
        Some(socket) => socket.to_owned(),
        None => context::config(global)?.socket,
    };
    let removed = remove_left(&socket)?;
    let cgroups = remove_left_cgroups().unwrap_or_else(|error| {
        tracing::debug!(%error, "no cgroups of version 2: none was left");
        Swept::default()
    });
    if global.json {
        format::emit_json(&json!({
            "fault_around_bytes": left,
            "socket_removed": removed,
            "cgroups_removed": cgroups.removed,
            "cgroups_in_use": cgroups.in_use,
        }))?;
    } else {
        let socket = escape(socket.as_os_str().as_encoded_bytes());
        let mut said = text(left);
        if removed {
            said += &format!("{socket}: removed, its agent is dead\n");
        }
        if cgroups.removed > 0 {
            let removed = count(cgroups.removed as u64, "cgroup");
            said += &format!("{removed} of dead agents and commands: removed\n");
        }
        if cgroups.in_use > 0 {
            let in_use = count(cgroups.in_use as u64, "cgroup");
            said += &format!(
                "{in_use} of dead agents and commands: left, for processes run there still; once \
                 these have ended, `headstart cleanup` removes them\n"
            );
        }
        if said.is_empty() {
            said += "nothing was left behind\n";
        }
        format::emit(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(left: Left) -> String {
    match left {
        Left::Nothing => String::new(),
        Left::PutBack { from, to } => format!("fault_around_bytes: put back from {from} to {to}\n"),
        Left::Changed { now } => {
            format!("fault_around_bytes: left as it is, somebody else has set it to {now}\n")
        }
        Left::InUse => "fault_around_bytes: left as it is, a recording needs it now\n".to_owned(),
    }
}
