//! Numbers and tables for people.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;

use anyhow::Context;

use crate::model::{escape, with_causes};

/// Whether colours may go to a stream: it is a terminal, and who sits there has not said that
/// they want none (`NO_COLOR`, <https://no-color.org>).
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|says| says.is_empty())
}

/// Columns of the terminal on standard output; where there is none, as `COLUMNS` says, or 100.
pub(super) fn columns() -> usize {
    let stdout = io::stdout();
    let size = stdout
        .is_terminal()
        .then(ratatui::crossterm::terminal::size);
    let columns = size.and_then(Result::ok).map(|(columns, _)| columns.into());
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    columns
        .filter(|&columns| columns > 0)
        .or_else(said)
        .unwrap_or(100)
}

/// A path, escaped.
pub(in crate::cli) fn path(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// `17 B`, `4.0 KiB`, `1.5 GiB`.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.3 ms`, `12 ms`, `1.25 s`, `3 min 5 s`.
pub(super) fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return "unknown".to_owned();
    }
    if s < 0.00995 {
        format!("{:.1} ms", s * 1e3)
    } else if s < 0.9995 {
        format!("{:.0} ms", s * 1e3)
    } else if s < 99.995 {
        format!("{s:.2} s")
    } else {
        let whole = s.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// `3 min ago`; both in ms since the epoch.
pub(super) fn ago(then_ms: u64, now_ms: u64) -> String {
    if then_ms == 0 {
        return "unknown".to_owned();
    }
    let Some(ms) = now_ms.checked_sub(then_ms) else {
        return "in the future".to_owned();
    };
    const UNITS: [(u64, &str); 5] = [
        (365 * 86_400, "year"),
        (86_400, "day"),
        (3_600, "h"),
        (60, "min"),
        (1, "s"),
    ];
    let s = ms / 1000;
    let unit = UNITS.iter().find(|(size, _)| s >= *size);
    unit.map_or("just now".to_owned(), |(size, name)| {
        let n = s / size;
        let plural = if n > 1 && matches!(*name, "year" | "day") {
            "s"
        } else {
            ""
        };
        format!("{n} {name}{plural} ago")
    })
}

/// `1 file`, `2 files`.
pub(super) fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Columns with a header, as wide as they have to be.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

/// On which side a column is filled up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
            indent: 0,
        }
    }

    /// Moves it to the right.
    pub(super) fn indent(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    /// Adds a row, with a cell for each column. Cells must have been escaped.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether it has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let width = |column: usize| {
            let cells = std::iter::once(&header).chain(&self.rows);
            let widths = cells
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = " ".repeat(self.indent);
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => write!(line, "{cell:<width$}  ")?,
                    Align::Right => write!(line, "{cell:>width$}  ")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no
/// error: it has seen what it wanted.
pub(super) fn emit(output: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(output.as_ref())
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to standard output"),
    }
}

/// Writes to standard error. Where that can't be written to, nobody is there to be told,
/// and what is done goes on.
pub(super) fn tell(output: impl AsRef<[u8]>) {
    let _ = io::stderr().lock().write_all(output.as_ref());
}

/// An error and its causes in one line; what one says of the next is not said twice.
pub(super) fn told(error: &anyhow::Error) -> String {
    with_causes(error.as_ref())
}

/// Tells what went wrong.
pub(super) fn complain(error: &anyhow::Error) {
    tell(format!("headstart: {}\n", told(error)));
}

/// Writes one JSON object and a line end to standard output.
pub(super) fn emit_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    emit(inert(&text) + "\n")
}

/// The same JSON without what a terminal would obey. Characters of that kind can only
/// stand in strings, where a number may stand for each.
fn inert(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        let mut bytes = [0; 4];
        // What is escaped when it stands alone; a backslash is JSON's own.
        if c == '\n'
            || c == '\\'
            || escape(c.encode_utf8(&mut bytes).as_bytes()).len() == c.len_utf8()
        {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// The same in a single line, for what comes after a command's own output.
pub(super) fn emit_json_line(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value).context("writing JSON")?;
    emit(inert(&text) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        let cases = [
            (0.0, "0.0 ms"),
            (0.0123, "12 ms"),
            (0.9999, "1.00 s"),
            (185.2, "3 min 5 s"),
            (f64::NAN, "unknown"),
        ];
        for (s, text) in cases {
            assert_eq!(seconds(s), text);
        }
    }

    #[test]
    fn times_are_relative() {
        let now = 1_000_000_000_000;
        let cases = [
            (0, "unknown"),
            (now + 1, "in the future"),
            (now - 20, "just now"),
            (now - 185_000, "3 min ago"),
            (now - 90_000_000, "1 day ago"),
            (now - 180_000_000, "2 days ago"),
        ];
        for (then, text) in cases {
            assert_eq!(ago(then, now), text);
        }
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let odd = ["a\nb\x1b\u{9b}\u{202e}\u{7f}\\n\"größe 🦀"];
        let text = inert(&serde_json::to_string_pretty(&odd).expect("JSON"));
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'));
        assert!(text.contains("größe 🦀"), "{text}");
        let back: [String; 1] = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, odd);
    }

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(["größe".to_owned(), "1 B".to_owned()]);
        table.row(["a".to_owned(), "100 KiB".to_owned()]);
        let expect = "NAME      SIZE\ngröße      1 B\na      100 KiB\n";
        assert_eq!(table.to_string(), expect);
    }
}
