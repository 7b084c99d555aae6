//! Running other programs, in stages that are named and timed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a command and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let text = describe(command);
    let status = status(command)?;
    if !status.success() {
        bail!("`{text}` failed: {status}");
    }
    Ok(())
}

/// Runs a command with its errors on standard output, so that what it prints
/// stays in one stream and in order.
pub fn run_merged(command: &mut Command) -> Result<()> {
    merge(command)?;
    run(command)
}

/// The same, but says whether the command succeeded.
pub fn succeeds_merged(command: &mut Command) -> Result<bool> {
    merge(command)?;
    Ok(status(command)?.success())
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    // What was printed so far comes first.
    io::stdout().flush()?;
    let result = command.stdin(Stdio::null()).status();
    result.with_context(|| format!("starting `{}`", describe(command)))
}

fn merge(command: &mut Command) -> Result<()> {
    let stdout = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("copying standard output")?;
    command.stderr(Stdio::from(stdout));
    Ok(())
}

/// What a command printed; fails if it does. Its errors go where ours go.
pub fn captured(command: &mut Command) -> Result<String> {
    let text = describe(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a command printed, if it could be run and succeeded. Prints nothing.
pub fn quiet_output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Works on items, as many at once as `threads`. A panic in one is raised here.
pub fn at_once<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) + Sync) {
    let left = Mutex::new(items.into_iter());
    // No guard is held while its item is worked on.
    let next = || left.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

/// The command line, for people.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Stages of one run, with the time each took.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// Runs one stage, and prints its name before and its time after.
    pub fn stage<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("==> {name}");
        let start = Instant::now();
        let result = work().with_context(|| format!("stage `{name}`"));
        let took = start.elapsed();
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("<== {name}: {word}, {:.1} s", took.as_secs_f64());
        self.done.push((name, took));
        result
    }

    /// All stages so far, in one line.
    pub fn summary(&self) -> String {
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let parts: Vec<String> = self
            .done
            .iter()
            .map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()))
            .collect();
        format!(
            "{} (together {:.1} s)",
            parts.join(", "),
            total.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command() {
        let error = run(Command::new("false").arg("really")).expect_err("false fails");
        assert!(
            error
                .to_string()
                .starts_with("`false really` failed: exit status: 1"),
            "{error}"
        );
        assert!(run(&mut Command::new("no-program-of-this-name")).is_err());
        assert!(!succeeds_merged(&mut Command::new("false")).expect("it starts"));
    }

    #[test]
    fn each_item_is_worked_on_once() {
        let done = Mutex::new(Vec::new());
        at_once(3, (0..20).collect(), |item| {
            done.lock().expect("no panic").push(item);
        });
        let mut done = done.into_inner().expect("no panic");
        done.sort_unstable();
        assert_eq!(done, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_stage_that_fails_says_which_it_was() {
        let mut stages = Stages::default();
        assert_eq!(stages.stage("one", || Ok(1)).expect("it is fine"), 1);
        let error = stages
            .stage("two", || -> Result<()> { bail!("no") })
            .expect_err("it is not");
        assert_eq!(format!("{error:#}"), "stage `two`: no");
        assert!(stages.summary().starts_with("one 0.0 s, two 0.0 s"));
    }
}
