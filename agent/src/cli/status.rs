//! `headstart status`: how the agent of this node is.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::args::Global;
use super::ask::{self, counted, shown};
use super::format::{self, ago, bytes, count, seconds};
use crate::api::v1;
use crate::run::now_ms;

/// The event loop may rest so long.
const RESTS: Duration = Duration::from_secs(30);

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let status = ask::agent(global)?.status()?;
    if global.json {
        format::emit_json(&status)?;
    } else {
        format::emit(text(&status, now_ms()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &v1::StatusResponse, now: u64) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_text(&mut out, status, now);
    out
}

fn write_text(out: &mut String, status: &v1::StatusResponse, now: u64) -> std::fmt::Result {
    let totals = status.totals.clone().unwrap_or_default();
    let ready = if status.ready {
        "ready"
    } else {
        "not ready yet"
    };
    writeln!(
        out,
        "agent {}, pid {}, up {}, {ready}",
        shown(&status.version),
        status.pid,
        seconds(totals.uptime_seconds)
    )?;
    let rests = Duration::from_millis(now.saturating_sub(status.alive_ms));
    // Not yet begun, it has never turned.
    if status.alive_ms > 0 && rests > RESTS {
        writeln!(
            out,
            "  STUCK      its event loop has not turned for {}: what follows is as of then. Keep \
             a `headstart sysdump` for a report, then restart it",
            seconds(rests.as_secs_f64())
        )?;
    }
    let cgroups = count(status.cgroups, "cgroup");
    writeln!(out, "  workloads  {}, in {cgroups} now", status.workloads)?;
    let starts: u64 = totals.starts.values().sum();
    writeln!(
        out,
        "  starts     {starts} noticed{}; {} learned, {} being learned, {} being warmed",
        after_colon(&counted(&totals.starts, |n| n.to_string())),
        totals.runs_learned,
        status.learning,
        status.warming,
    )?;
    if totals.notifications > 0 {
        let told = count(totals.notifications, "notification");
        writeln!(out, "             {told} ahead of starts")?;
    }
    let not_learned = counted(&totals.starts_not_learned, |n| n.to_string());
    if !not_learned.is_empty() {
        writeln!(out, "             not learned: {not_learned}")?;
    }
    let lead = totals.lead.clone().unwrap_or_default();
    if lead.count > 0 {
        let mean = seconds(lead.sum_seconds / lead.count as f64);
        writeln!(
            out,
            "  lead       {mean} on average, of {}",
            count(lead.count, "start")
        )?;
    }
    let planned: u64 = totals.warmed_bytes.values().sum();
    let warmed = after_colon(&counted(&totals.warmed_bytes, bytes));
    writeln!(out, "  warmed     {} planned{warmed}", bytes(planned))?;
    let charged = counted(&totals.charged_bytes, bytes);
    if !charged.is_empty() {
        writeln!(out, "  charged    {charged}")?;
    }
    let outcome = counted(&totals.outcome_bytes, bytes);
    if !outcome.is_empty() || totals.missed_bytes > 0 {
        let outcome = if outcome.is_empty() {
            "none yet"
        } else {
            &outcome
        };
        writeln!(
            out,
            "  outcome    {outcome}; {} missed",
            bytes(totals.missed_bytes)
        )?;
    }
    let throttled = counted(&totals.throttled, |n| n.to_string());
    if !throttled.is_empty() {
        writeln!(out, "  throttled  {throttled}")?;
    }
    let duty = 100.0 * totals.hooks_attached_seconds / totals.uptime_seconds.max(1e-9);
    writeln!(
        out,
        "  hooks      attached {duty:.1} % of the time; {}, {} lost; {} lost",
        count(totals.records, "record"),
        totals.records_lost,
        count(totals.signals_lost, "signal"),
    )?;
    writeln!(out, "  config     read {}", ago(status.config_read_ms, now))?;
    if !status.config_error.is_empty() {
        writeln!(
            out,
            "             the last reload was refused: {}",
            shown(&status.config_error)
        )?;
    }
    for notice in &status.store_notices {
        writeln!(out, "  store      {}", shown(notice))?;
    }
    let missing: Vec<_> = status.features.iter().filter(|f| !f.live).collect();
    if !missing.is_empty() {
        writeln!(out, "\nWhat this machine does without:")?;
    }
    for feature in missing {
        writeln!(
            out,
            "  {}: {}",
            shown(&feature.name),
            shown(&feature.reason)
        )?;
    }
    for hook in status.hooks.iter().filter(|hook| !hook.live) {
        writeln!(
            out,
            "  hook {}: {}; {}",
            shown(&hook.place),
            shown(&hook.reason),
            shown(&hook.without)
        )?;
    }
    Ok(())
}

fn after_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_and_the_rest_left_out() {
        let mut status = v1::StatusResponse {
            version: "1.2.3".to_owned(),
            pid: 7,
            ready: true,
            workloads: 3,
            cgroups: 1,
            config_read_ms: 940_000,
            alive_ms: 999_000,
            ..v1::StatusResponse::default()
        };
        let quiet = text(&status, 1_000_000);
        assert!(
            quiet.starts_with("agent 1.2.3, pid 7, up 0.0 ms, ready\n"),
            "{quiet}"
        );
        for absent in [
            "lead",
            "outcome",
            "throttled",
            "charged",
            "refused",
            "without",
            "not learned",
            "STUCK",
        ] {
            assert!(!quiet.contains(absent), "{absent} in {quiet}");
        }
        status.config_error = "line 3: \x1b".to_owned();
        status.alive_ms = 900_000;
        status.features.push(v1::Feature {
            name: "containerd".to_owned(),
            live: false,
            reason: "no socket".to_owned(),
        });
        status.totals = Some(v1::Totals {
            uptime_seconds: 100.0,
            hooks_attached_seconds: 5.0,
            starts: [("cgroup".to_owned(), 4)].into(),
            outcome_bytes: [("used".to_owned(), 2048)].into(),
            charged_bytes: [("warm".to_owned(), 4096)].into(),
            ..v1::Totals::default()
        });
        let busy = text(&status, 1_000_000);
        for present in [
            "4 noticed: 4 cgroup; 0 learned",
            "STUCK",
            "not turned for 1 min 40 s",
            "charged    4.0 KiB warm",
            "outcome    2.0 KiB used; 0 B missed",
            "attached 5.0 % of the time",
            "config     read 1 min ago",
            "refused: line 3: \\x1b",
            "containerd: no socket",
        ] {
            assert!(busy.contains(present), "{present} is not in {busy}");
        }
    }
}
