//! The catalogue as a page for people: `docs/metrics.md`.

use std::fmt::Write;

use super::catalogue::CATALOGUE;

const HEAD: &str = "\
# Metrics

Made from `agent/src/api/metrics/catalogue.rs` by `cargo xtask codegen`: change it there.

`headstart agent` serves them at `/metrics`, by default on `127.0.0.1:9469`, in Prometheus'
text format; `headstart sysdump` has them too. `/livez` says whether the event loop turned
in the last 30 seconds, `/readyz` whether hooks were tried and what exists has been listed.

Labels are few. Workloads have series of their own by kind, namespace and name; those
beyond the limit (200 by default), of fewest starts, are added up as `workload=\"other\"`.
A series goes with its workload. Identifiers of containers, pods and images, and paths, are
never labels. In names, what looks like an identifier is shown as `*`.

*Stable*: name, labels and meaning stay within a major version. *Experimental*: any version
may change it.

| metric | type | unit | labels | stability | meaning |
| --- | --- | --- | --- | --- | --- |
";

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for metric in CATALOGUE {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            metric.unit,
            labels.join(", "),
            metric.stability.name(),
            metric.help,
        );
    }
    out
}
