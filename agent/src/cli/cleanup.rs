//! `headstart cleanup`: put back what a killed headstart left behind.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::args::Global;
use super::{context, format};
use crate::api::remove_left;
use crate::model::escape;
use crate::run::{Left, put_back_left};

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let state_dir = context::state_dir(global)?;
    let left = put_back_left(&state_dir).context("not put back")?;
    let socket = match &global.socket {
        Some(socket) => socket.clone(),
        None => context::config(global)?.socket,
    };
    let removed = remove_left(&socket)?;
    if global.json {
        format::emit_json(&json!({"fault_around_bytes": left, "socket_removed": removed}))?;
    } else {
        let socket = escape(socket.as_os_str().as_encoded_bytes());
        let said = match (left, removed) {
            (Left::Nothing, true) => format!("{socket}: removed, its agent is dead\n"),
            (left, true) => format!("{}{socket}: removed, its agent is dead\n", text(left)),
            (left, false) => text(left),
        };
        format::emit(said)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(left: Left) -> String {
    match left {
        Left::Nothing => "nothing was left behind\n".to_owned(),
        Left::PutBack { from, to } => format!("fault_around_bytes: put back from {from} to {to}\n"),
        Left::Changed { now } => {
            format!("fault_around_bytes: left as it is, somebody else has set it to {now}\n")
        }
        Left::InUse => "fault_around_bytes: left as it is, a recording needs it now\n".to_owned(),
    }
}
