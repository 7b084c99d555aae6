//! A line on the terminal while a plan is carried out.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::warm::Progress;

/// How often the line is drawn.
const REFRESH: Duration = Duration::from_millis(100);

/// Draws on standard error until it is dropped; nothing where that is no
/// terminal.
#[derive(Debug)]
pub(crate) struct ProgressLine(Option<(Sender<()>, JoinHandle<()>)>);

impl ProgressLine {
    /// Begins to draw. `quiet`: does not, for output that a program reads.
    pub(crate) fn start(progress: &Arc<Progress>, quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let progress = progress.clone();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let bar = ProgressBar::new(0).with_style(style());
            // Ends when the sender is dropped.
            while stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                bar.set_length(progress.bytes_planned());
                bar.set_position(progress.bytes_done());
                bar.set_message(counts(&progress));
            }
            bar.finish_and_clear();
        });
        Self(Some((stop, thread)))
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

fn style() -> ProgressStyle {
    // What does not fit a narrow terminal is cut off at the end: it would wrap, and each
    // drawing would leave a line behind.
    const TEMPLATE: &str =
        "{bar:16} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left {wide_msg}";
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn counts(progress: &Progress) -> String {
    let of = |done, planned, what| format!("{}/{} {what}", HumanCount(done), HumanCount(planned));
    let mut parts = Vec::new();
    if progress.files_planned() > 0 {
        parts.push(of(progress.files_done(), progress.files_planned(), "files"));
    }
    if progress.names_planned() > 0 {
        parts.push(of(progress.names_done(), progress.names_planned(), "names"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        let line = ProgressLine::start(&Arc::new(Progress::default()), true);
        assert!(line.0.is_none());
        assert!(ProgressStyle::with_template("{bar:24} {binary_bytes}").is_ok());
        assert_eq!(counts(&Progress::default()), "");
        let _ = style();
    }
}
