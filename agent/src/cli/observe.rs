//! `headstart observe`: watch what is read on this machine, live.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headstart_abi::{Outcome, Stage};
use serde_json::json;

use super::args::{Global, ObserveArgs};
use super::{context, format, interrupt};
use crate::probe::{Group, Probes, What, decode};
use crate::run::{existing_cgroups, sees_pages};

/// How often the line is drawn.
const REFRESH: Duration = Duration::from_millis(500);

/// Sums since the beginning.
#[derive(Default)]
struct Seen {
    records: u64,
    pages: u64,
    faults: u64,
    names: u64,
    files: u64,
    busiest: BTreeMap<Vec<u8>, u64>,
}

pub(super) fn run(global: &Global, args: &ObserveArgs) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    interrupt::on_signal(move || stopper.store(true, Ordering::Relaxed));
    let mut probes = Probes::load(context::ring_bytes(global)?)?;
    let mut reader = probes.reader()?;
    let hooks = probes.attach(&[Group::Use, Group::Miss, Group::Names, Group::Lifecycle]);
    sees_pages(&hooks)?;
    for hook in hooks.iter().filter(|hook| !hook.live) {
        format::tell(format!(
            "{}: {}; {}\n",
            hook.place, hook.reason, hook.without
        ));
    }
    let own = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let mut watched = 0;
    for id in existing_cgroups()? {
        match probes.watch(id) {
            Ok(()) => watched += 1,
            Err(error) => tracing::debug!(%error),
        }
    }
    if !global.json {
        format::tell(format!(
            "watching {watched} cgroups and those they get; Ctrl-C ends it\n"
        ));
    }
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut drawn = Instant::now();
    while !stop.load(Ordering::Relaxed) && args.duration.is_none_or(|d| began.elapsed() < d) {
        reader.wait(Duration::from_millis(100), None);
        reader.drain(|bytes| seen.take(bytes, own));
        if drawn.elapsed() >= REFRESH && !global.json {
            drawn = Instant::now();
            let lost = probes.counters()?.get(Stage::Ring, Outcome::Lost);
            let mut err = std::io::stderr();
            let line = seen.line(began.elapsed(), lost);
            if err.is_terminal() {
                write!(err, "\r\x1b[K{line}")?;
            } else {
                writeln!(err, "{line}")?;
            }
        }
    }
    reader.drain(|bytes| seen.take(bytes, own));
    let lost = probes.counters()?.get(Stage::Ring, Outcome::Lost);
    if global.json {
        format::emit_json(&json!({
            "seconds": began.elapsed().as_secs_f64(),
            "cgroups": watched,
            "records": seen.records,
            "bytes_touched": seen.pages * crate::model::PAGE_SIZE,
            "faults": seen.faults,
            "names": seen.names,
            "files": seen.files,
            "lost": lost,
            "hooks": hooks,
        }))?;
    } else {
        format::tell(format!("\r\x1b[K{}\n", seen.line(began.elapsed(), lost)));
    }
    Ok(ExitCode::SUCCESS)
}

impl Seen {
    fn take(&mut self, bytes: &[u8], own: u32) {
        let Ok(record) = decode(bytes) else { return };
        if record.tgid == own {
            return;
        }
        self.records += 1;
        match record.what {
            What::Touch(touch) => self.pages += u64::from(touch.pages.count_ones()),
            What::Fault(_) => self.faults += 1,
            What::Name(_) | What::Exec(_) | What::List(_) => self.names += 1,
            What::Inode(inode) => {
                self.files += 1;
                if self.busiest.len() < 4096 {
                    let top = inode
                        .path
                        .split(|&b| b == b'/')
                        .take(2)
                        .collect::<Vec<_>>()
                        .join(&b'/');
                    *self.busiest.entry(top).or_default() += 1;
                }
            }
            What::Block(_) | What::CgroupMade(_) | What::CgroupGone(_) | What::CgroupFilled(_) => {}
        }
    }

    fn line(&self, elapsed: Duration, lost: u64) -> String {
        let busiest = self.busiest.iter().max_by_key(|(_, n)| **n);
        let place = busiest.map_or(String::new(), |(path, _)| {
            format!(", most files below /{}", crate::model::escape(path))
        });
        format!(
            "{}  first touches: {} read, {} fault windows, {} names in {} files{place}; {lost} lost",
            format::seconds(elapsed.as_secs_f64()),
            format::bytes(self.pages * crate::model::PAGE_SIZE),
            self.faults,
            self.names,
            self.files,
        )
    }
}
