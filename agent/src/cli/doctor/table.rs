//! The report as text for people.

use std::io::{self, Write};

use super::judge::{Report, Row, Status, Verdict};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Room for the longest status word.
const STATUS_WIDTH: usize = "degraded".len();

/// Writes the rows in columns, group by group; below those that are not well,
/// what that costs and what to do.
pub(super) fn write(out: &mut impl Write, report: &Report, colour: bool) -> io::Result<()> {
    let paint = Paint(colour);
    let name_width = report
        .checks
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0);
    let mut group = None;
    for row in &report.checks {
        if group != Some(row.group) {
            let gap = if group.is_some() { "\n" } else { "" };
            writeln!(out, "{gap}{}", paint.with(BOLD, row.group.title()))?;
            group = Some(row.group);
        }
        write_row(out, row, name_width, &paint)?;
    }
    let (colour, text) = summary(report.verdict);
    writeln!(out, "\n{}", paint.with(colour, text))
}

fn write_row(out: &mut impl Write, row: &Row, name_width: usize, paint: &Paint) -> io::Result<()> {
    let (colour, word) = match row.status {
        Status::Ok => (GREEN, "ok"),
        Status::Degraded => (YELLOW, "degraded"),
        Status::Missing => (RED, "missing"),
    };
    // Padded before it is painted: the escape codes have no width.
    let word = paint.with(colour, &format!("{word:STATUS_WIDTH$}"));
    writeln!(out, "  {:name_width$}  {word}  {}", row.name, row.found)?;
    if row.status != Status::Ok {
        let indent = " ".repeat(2 + name_width + 2 + STATUS_WIDTH + 2);
        writeln!(out, "{indent}costs: {}", row.cost)?;
        writeln!(out, "{indent}do:    {}", row.fix)?;
    }
    Ok(())
}

fn summary(verdict: Verdict) -> (&'static str, &'static str) {
    match (verdict.records, verdict.warms) {
        (true, true) => (GREEN, "This machine records and warms."),
        (false, true) => (
            YELLOW,
            "This machine warms from profiles, but can't record any.",
        ),
        (_, false) => (RED, "This machine can neither record nor warm."),
    }
}

/// Whether to write escape codes.
struct Paint(bool);

impl Paint {
    fn with(&self, colour: &str, text: &str) -> String {
        if self.0 {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::{judge, tests::good};
    use super::*;

    fn text(report: &Report, colour: bool) -> String {
        let mut out = Vec::new();
        write(&mut out, report, colour).expect("writing to memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_line_up_and_only_bad_rows_explain_themselves() {
        let mut seen = good();
        seen.probes = None;
        let text = text(&judge(&seen), false);
        let column = |name: &str, word: &str| {
            let line = text.lines().find(|l| l.starts_with(&format!("  {name} ")));
            line.and_then(|l| l.find(word))
        };
        let status = column("probes", "missing");
        assert!(
            status.is_some() && status == column("version", "ok"),
            "{text}"
        );
        let found = column("probes", "not in this binary");
        assert!(
            found.is_some() && found == column("version", "6.18"),
            "{text}"
        );
        assert_eq!(text.matches("costs:").count(), 1);
        assert!(text.contains("do:    build with `cargo xtask build`"));
        assert!(text.ends_with("\nThis machine warms from profiles, but can't record any.\n"));
    }

    #[test]
    fn colour_is_all_or_nothing() {
        let report = judge(&good());
        assert!(!text(&report, false).contains('\x1b'));
        assert!(text(&report, true).contains("\x1b[32mok      \x1b[0m"));
    }
}
