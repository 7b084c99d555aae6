//! `headstart workloads`: what the agent knows of what starts here.

use std::process::ExitCode;

use serde_json::json;

use super::args::Global;
use super::ask::{self, shown, title};
use super::format::{self, Align, Table, bytes, seconds};
use crate::api::v1;

/// Characters of a workload's title that are shown: names may have hundreds.
const WIDEST: usize = 60;

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let workloads = ask::agent(global)?.workloads(false)?;
    if global.json {
        format::emit_json(&json!({ "workloads": workloads }))?;
    } else if workloads.is_empty() {
        format::emit("the agent knows no workload yet\n")?;
    } else {
        format::emit(table(&workloads).to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(workloads: &[v1::Workload]) -> Table {
    let mut table = Table::new(&[
        ("WORKLOAD", Align::Left),
        ("KIND", Align::Left),
        ("LIVE", Align::Right),
        ("STARTS", Align::Right),
        ("RUNS", Align::Right),
        ("PROFILE", Align::Right),
        ("LEAD", Align::Right),
        ("USED", Align::Right),
        ("LATE", Align::Right),
        ("WASTED", Align::Right),
        ("WARMED", Align::Left),
        ("KEY", Align::Left),
    ]);
    for workload in workloads {
        let last = workload.last.as_ref();
        let of_last = |value: fn(&v1::Start) -> u64| {
            last.map_or_else(|| "-".to_owned(), |start| bytes(value(start)))
        };
        // Of what was not seen since the agent started only the store tells.
        let of_agent = |n: u64| match workload.seen {
            true => n.to_string(),
            false => "-".to_owned(),
        };
        let lead = last.and_then(|start| start.lead_seconds);
        table.row([
            shortened(title(workload)),
            shown(&workload.kind),
            of_agent(workload.live),
            of_agent(workload.starts),
            workload.runs.to_string(),
            bytes(workload.profile_bytes),
            lead.map_or_else(|| "-".to_owned(), seconds),
            of_last(|start| start.used),
            of_last(|start| start.late),
            of_last(|start| start.wasted),
            warmed(workload),
            shown(&workload.key),
        ]);
    }
    table
}

/// In so far as a column has room for it; the key is shown whole.
fn shortened(title: String) -> String {
    match title.char_indices().nth(WIDEST) {
        None => title,
        Some((end, _)) => format!("{}…", &title[..end]),
    }
}

/// `yes`, or why not in two words.
pub(super) fn warmed(workload: &v1::Workload) -> String {
    if workload.not_warmed.is_empty() {
        "yes".to_owned()
    } else {
        shown(&workload.not_warmed).replace('_', " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_and_dashes_before_the_first_start() {
        let mut started = v1::Workload {
            key: "container:redis".to_owned(),
            kind: "container".to_owned(),
            name: "redis\n".to_owned(),
            namespace: "shop".to_owned(),
            seen: true,
            ..v1::Workload::default()
        };
        let new = v1::Workload {
            not_warmed: "no_profile".to_owned(),
            ..started.clone()
        };
        let stored = v1::Workload {
            seen: false,
            ..started.clone()
        };
        started.last = Some(v1::Start {
            lead_seconds: Some(0.25),
            used: 4096,
            ..v1::Start::default()
        });
        let text = table(&[started, new, stored]).to_string();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|l| {
                l.split("  ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect();
        let expect = [
            "shop/redis\\x0a",
            "container",
            "0",
            "0",
            "0",
            "0 B",
            "250 ms",
            "4.0 KiB",
            "0 B",
            "0 B",
            "yes",
            "container:redis",
        ];
        assert_eq!(rows[1], expect);
        assert_eq!(rows[2][6..11], ["-", "-", "-", "-", "no profile"]);
        assert_eq!(rows[3][2..4], ["-", "-"]);
    }

    #[test]
    fn a_name_of_hundreds_of_characters_leaves_the_table_readable() {
        let long = v1::Workload {
            key: "unit:long".to_owned(),
            name: "é".repeat(240),
            ..v1::Workload::default()
        };
        let text = table(&[long]).to_string();
        assert!(text.contains(&format!("{}…", "é".repeat(WIDEST))), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() < 200),
            "{text}"
        );
    }
}
