//! What the commands that ask the running agent share.

use std::collections::BTreeMap;

use super::args::Global;
use super::{context, format};
use crate::api::{Client, DEFAULT_SOCKET, v1};
use crate::model::escape;

/// Connects to the agent: at `--socket`, else where the configuration has it listen.
pub(super) fn agent(global: &Global) -> anyhow::Result<Client> {
    let socket = match global.socket() {
        Some(socket) => socket.to_owned(),
        // Whatever is wrong with the configuration, the agent goes on with its last good
        // one, and can say so.
        None => match context::config(global) {
            Ok(config) => config.socket,
            Err(error) => {
                tracing::warn!(
                    "{}; the agent is asked at {DEFAULT_SOCKET}",
                    format::told(&error)
                );
                DEFAULT_SOCKET.into()
            }
        },
    };
    Ok(Client::connect(&socket)?)
}

/// A name, a key, an image: safe to show.
pub(super) fn shown(text: &str) -> String {
    escape(text.as_bytes())
}

/// What a person calls a workload: `namespace/name`.
pub(super) fn title(workload: &v1::Workload) -> String {
    let name = if workload.name.is_empty() {
        &workload.key
    } else {
        &workload.name
    };
    if workload.namespace.is_empty() {
        shown(name)
    } else {
        format!("{}/{}", shown(&workload.namespace), shown(name))
    }
}

/// `12 cgroup, 2 notify`; those of which there are none are left out.
pub(super) fn counted(counts: &BTreeMap<String, u64>, number: impl Fn(u64) -> String) -> String {
    let counts = counts.iter().filter(|(_, n)| **n > 0);
    let parts: Vec<String> = counts
        .map(|(what, n)| format!("{} {}", number(*n), shown(what).replace('_', " ")))
        .collect();
    parts.join(", ")
}

/// Why a workload is not warmed, in words; `None` where it is.
pub(super) fn why_not(workload: &v1::Workload) -> Option<String> {
    let reason = match workload.not_warmed.as_str() {
        "" if workload.runs > 0 => return None,
        "observe_only" => "the agent is configured to observe only".to_owned(),
        "no_gain" => "its last starts gained nothing by it; it is observed further".to_owned(),
        "opted_out" => "a label or the configuration says so".to_owned(),
        "" | "no_profile" => "no start of it has been learned yet".to_owned(),
        "too_late" => "its last start was over before its turn came".to_owned(),
        "gone" => "its last start was gone before its turn came".to_owned(),
        other => shown(other).replace('_', " "),
    };
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_occur_is_left_out() {
        let counts = [("cgroup", 12), ("notify", 0), ("too_short", 2)];
        let counts = counts.map(|(what, n)| (what.to_owned(), n)).into();
        assert_eq!(
            counted(&counts, |n| n.to_string()),
            "12 cgroup, 2 too short"
        );
    }

    #[test]
    fn a_title_can_be_shown() {
        let workload = v1::Workload {
            name: "a\x1b[2J".to_owned(),
            namespace: "b\n".to_owned(),
            ..v1::Workload::default()
        };
        assert_eq!(title(&workload), "b\\x0a/a\\x1b[2J");
    }
}
