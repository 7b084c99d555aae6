//! Where a result goes: to standard output, and into a file that is asked for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::stats::Table;

/// What a measurement found.
#[derive(Debug)]
pub struct Findings {
    text: String,
}

impl Findings {
    /// Begins with how it was measured, in one paragraph.
    pub fn new(method: &str) -> Self {
        Self {
            text: format!("{method}\n\n{}\n", machine()),
        }
    }

    /// Adds a table and, before it, what it shows if that needs words.
    #[must_use]
    pub fn table(mut self, caption: &str, table: &Table) -> Self {
        if !caption.is_empty() {
            self.text.push_str(&format!("\n{caption}\n"));
        }
        self.text.push_str(&format!("\n{table}"));
        self
    }

    /// Adds a paragraph.
    #[must_use]
    pub fn note(mut self, text: &str) -> Self {
        self.text.push_str(&format!("\n{text}\n"));
        self
    }

    /// As Markdown.
    pub fn into_markdown(self) -> String {
        self.text
    }
}

/// On what was measured: a number means little without it.
fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version: Vec<&str> = release.trim().split('.').take(2).collect();
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or("unknown".to_owned(), |kib| {
            format!("{:.0} GiB", kib as f64 / 1048576.0)
        });
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Measured on Linux {}, {cpus} CPUs, {memory} of memory.",
        version.join(".")
    )
}

/// Prints a result, and writes it to `out`: between the file's marks for `key`
/// where there are some, else as the whole file.
pub fn publish(out: Option<&Path>, key: &str, markdown: &str) -> Result<()> {
    println!("{markdown}");
    let Some(out) = out else {
        return Ok(());
    };
    let old = fs::read_to_string(out).unwrap_or_default();
    let new = if old.contains("<!-- bench ") {
        replace(&old, key, markdown).with_context(|| format!("in {}", out.display()))?
    } else {
        markdown.to_owned()
    };
    fs::write(out, new).with_context(|| format!("writing {}", out.display()))
}

fn replace(text: &str, key: &str, markdown: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- bench {key} -->\n"),
        format!("<!-- end {key} -->"),
    );
    let Some((before, rest)) = text.split_once(&begin) else {
        bail!("there is no line `{}`", begin.trim());
    };
    let Some((_, after)) = rest.split_once(&end) else {
        bail!("there is no line `{end}`");
    };
    Ok(format!(
        "{before}{begin}{}\n{end}{after}",
        markdown.trim_end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text =
            "a\n<!-- bench x -->\nold\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n";
        let once = replace(text, "x", "new\n").expect("the marks are there");
        assert_eq!(
            once,
            "a\n<!-- bench x -->\nnew\n<!-- end x -->\nb\n<!-- bench y -->\n<!-- end y -->\n"
        );
        let twice = replace(&once, "x", "new\n").expect("they still are");
        assert_eq!(twice, once);
        assert!(replace(text, "z", "").is_err());
        assert!(replace("<!-- bench x -->\n", "x", "").is_err());
    }
}
