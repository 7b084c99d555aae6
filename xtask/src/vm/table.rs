//! What became of all guests: one table, and one line.

use super::job::{Message, Outcome};
use super::minimum::Minimums;
use super::verified::Verified;

/// What one guest said.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// How lines about it begin.
    name: String,
    kernel: String,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// Failed, and were tried once more.
    again: Vec<String>,
    /// Facts that tests printed, by name.
    facts: Vec<(String, String)>,
}

/// How a line begins by which a test says what it measured or found: `fact NAME: VALUE`.
const FACT: &str = "fact ";

impl Run {
    /// A guest that is called so where several report at once.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Takes in what another guest with this kernel said.
    fn absorb(&mut self, other: Self) {
        self.kernel = std::mem::take(&mut self.kernel).max(other.kernel);
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
        self.again.extend(other.again);
        self.facts.extend(other.facts);
    }

    /// There is no such kernel here.
    pub fn skip(&mut self, reason: &anyhow::Error) {
        self.skipped.push(format!("kernel: {reason:#}"));
    }

    /// The guest did not come up, or not to its end. What it said before counts.
    pub fn broken(&mut self, reason: &anyhow::Error) {
        println!("{}: FAILED: {reason:#}", self.name);
        // Its first line says what happened; the console's text came with it.
        let reason = format!("{reason:#}");
        let first = reason.lines().next().unwrap_or_default();
        self.failed.push(format!("guest: {first}"));
    }

    /// Adds what the guest said.
    pub fn take(&mut self, message: Message, verbose: bool) {
        match message {
            Message::Ready { kernel } => {
                println!("{}: up: {kernel}", self.name);
                self.kernel = kernel;
            }
            Message::Trouble { what } => {
                println!("{}: TROUBLE: {what}", self.name);
                self.failed.push(what);
            }
            Message::Begin { .. } | Message::End => {}
            Message::Test {
                mut test,
                variant,
                outcome,
                seconds,
                output,
            } => {
                let mut of = String::new();
                if !variant.is_empty() {
                    of = format!(" ({variant})");
                    test.push_str(&of);
                }
                println!("{}: {outcome:?} {test}, {seconds:.1} s", self.name);
                if verbose || matches!(outcome, Outcome::Failed | Outcome::Again) {
                    println!("{output}");
                }
                // What a failed try found out is said again by the next.
                let told = match outcome {
                    Outcome::Again => "",
                    _ => output.as_str(),
                };
                for line in told.lines() {
                    // The test's runner may have left the beginning of a line there.
                    let rest = line.split_once(" ... ").map_or(line, |(_, rest)| rest);
                    let fact = rest
                        .strip_prefix(FACT)
                        .and_then(|fact| fact.split_once(": "));
                    if let Some((name, value)) = fact {
                        self.facts.push((format!("{name}{of}"), value.to_owned()));
                    } else if line.contains("SKIPPED") && outcome == Outcome::Skipped {
                        println!("  {line}");
                    }
                }
                match outcome {
                    Outcome::Passed => self.passed += 1,
                    Outcome::Failed => self.failed.push(test),
                    Outcome::Skipped => self.skipped.push(test),
                    Outcome::Again => self.again.push(test),
                }
            }
        }
    }

    /// Counts, in words.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// All guests.
#[derive(Clone, Debug, Default)]
pub struct Table {
    runs: Vec<(String, Run)>,
}

impl Table {
    /// Adds one guest to the column of its kernel.
    pub fn add(&mut self, kernel: &str, run: Run) {
        match self.runs.iter_mut().find(|(name, _)| name == kernel) {
            Some((_, there)) => there.absorb(run),
            None => self.runs.push((kernel.to_owned(), run)),
        }
    }

    /// Holds what was found on each kernel against what the project says of it.
    pub fn compare(&mut self, verified: &Verified, minimums: &Minimums) {
        for (kernel, run) in &mut self.runs {
            for (name, value) in &run.facts {
                run.failed.extend(verified.complaint(kernel, name, value));
                let wrong = minimums.complaints(kernel, &run.kernel, name, value);
                run.failed.extend(wrong);
            }
        }
    }

    /// How many tests and guests failed.
    pub fn failed(&self) -> usize {
        self.runs.iter().map(|(_, run)| run.failed.len()).sum()
    }

    /// One row for each fact, one column for each kernel; then what failed.
    pub fn text(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for (_, run) in &self.runs {
            for (name, _) in &run.facts {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        let row = |head: &str, cells: Vec<String>| format!("| {head} | {} |", cells.join(" | "));
        let each = |cell: &dyn Fn(&Run) -> String| {
            self.runs
                .iter()
                .map(|(_, run)| cell(run))
                .collect::<Vec<_>>()
        };
        let kernels = self.runs.iter().map(|(name, _)| name.clone()).collect();
        let mut lines = vec![
            row("kernel", kernels),
            row("---", each(&|_| "---".to_owned())),
            row("version", each(&|run| run.kernel.clone())),
        ];
        for name in names {
            let cell = |run: &Run| {
                let fact = run.facts.iter().rev().find(|(other, _)| other == name);
                fact.map_or_else(|| "—".to_owned(), |(_, value)| value.clone())
            };
            lines.push(row(name, each(&cell)));
        }
        lines.push(row("tests", each(&Run::summary)));
        for (name, run) in &self.runs {
            lines.extend(
                run.failed
                    .iter()
                    .map(|what| format!("FAILED {name}: {what}")),
            );
            lines.extend(
                run.skipped
                    .iter()
                    .map(|what| format!("SKIPPED {name}: {what}")),
            );
            lines.extend(
                run.again
                    .iter()
                    .map(|what| format!("FLAKY {name}: {what} (tried twice)")),
            );
        }
        lines.join("\n")
    }

    /// `vm: N passed, M failed, K skipped`.
    pub fn verdict(&self) -> String {
        let passed: usize = self.runs.iter().map(|(_, run)| run.passed).sum();
        let skipped: usize = self.runs.iter().map(|(_, run)| run.skipped.len()).sum();
        format!(
            "vm: {passed} passed, {} failed, {skipped} skipped",
            self.failed()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_become_rows_and_the_verdict_counts() {
        let test = |test: &str, outcome, output: &str| Message::Test {
            test: test.into(),
            variant: String::new(),
            outcome,
            seconds: 1.0,
            output: output.into(),
        };
        let mut run = Run::default();
        run.take(
            Message::Ready {
                kernel: "6.1.0".into(),
            },
            false,
        );
        run.take(
            test("a", Outcome::Passed, "x\nfact read: fentry f\n"),
            false,
        );
        run.take(test("b", Outcome::Again, "fact read: none"), false);
        run.take(test("b", Outcome::Failed, ""), false);
        let mut table = Table::default();
        table.add("6.1", run);
        let mut other = Run::default();
        other.skip(&anyhow::anyhow!("no mirror"));
        table.add("5.10", other);
        let mut again = Run::of("6.1 once more");
        again.take(test("c", Outcome::Passed, "fact more: 1"), false);
        table.add("6.1", again);
        let text = table.text();
        assert!(text.contains("| read | fentry f | — |"), "{text}");
        assert!(text.contains("| version | 6.1.0 |  |"), "{text}");
        assert!(text.contains("| more | 1 | — |"), "{text}");
        assert!(text.contains("FAILED 6.1: b"), "{text}");
        assert!(text.contains("FLAKY 6.1: b (tried twice)"), "{text}");
        assert_eq!(table.verdict(), "vm: 2 passed, 1 failed, 1 skipped");
    }
}
