//! `headstart agent`: the daemon.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use sd_notify::NotifyState;

use super::args::{AgentArgs, Global};
use super::config::{Config, DEFAULT_PATH};
use super::{common, context, format, interrupt};
use crate::api::{self, ApiOptions};
use crate::daemon::{self, Feature, Handle, Heeded, Options, Reload, Settings, View};

/// How often the configuration is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(global: &Global, args: &AgentArgs) -> anyhow::Result<ExitCode> {
    let config = context::config(global)?;
    let state_dir = context::state_dir(global)?;
    // Before any thread is started: they are to leave the signals to those that wait.
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("making an event descriptor")?);
    let stopper = stop.clone();
    let again = Arc::new(AtomicBool::new(false));
    let asked = again.clone();
    interrupt::on_signal_and_hangup(
        move || stop_now(&stopper),
        move || asked.store(true, Ordering::Relaxed),
    );
    common::put_back(&state_dir);
    let options = Options {
        state_dir,
        ring_bytes: config.ring_bytes,
        plans_at_once: config.agent.plans_at_once,
        runtimes: config.agent.runtimes.roots(),
        heeded: Heeded {
            runtime: config.agent.signal_runtime,
            bundle: config.agent.signal_bundle,
        },
        settings: settings(&config, args),
    };
    let (handle, orders) = Handle::new();
    // Before the probes: of two agents the second is to end having done nothing.
    let _server = api::serve(
        handle.clone(),
        ApiOptions {
            socket: global.socket().unwrap_or(&config.socket).to_owned(),
            metrics_listen: config.metrics_listen,
            metrics_workloads: config.metrics_workloads,
        },
    )?;
    let mut beat = Beat {
        file: Watched::new(global, args, config, again),
        handle: handle.clone(),
        live: args.live.then(Line::default),
        is_ready: false,
        watchdog: sd_notify::watchdog_enabled().map(|every| (every / 2, Instant::now())),
    };
    daemon::run(options, &handle, orders, stop.as_fd(), &mut beat)?;
    tell(&[NotifyState::Stopping]);
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

fn stop_now(stop: &OwnedFd) {
    // It takes a one unless it has one already.
    let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
}

fn settings(config: &Config, args: &AgentArgs) -> Settings {
    let mut settings = config.settings();
    settings.observe_only |= args.observe_only;
    settings
}

/// Tells systemd, where it is listening.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}

/// What is done each time the loop has turned.
struct Beat {
    file: Watched,
    handle: Handle,
    live: Option<Line>,
    is_ready: bool,
    watchdog: Option<(Duration, Instant)>,
}

impl Reload for Beat {
    fn reload(&mut self) -> Option<Result<Settings, String>> {
        self.file.changed()
    }

    fn pending(&self) -> String {
        match &self.file.pending[..] {
            [] => String::new(),
            keys => format!(
                "changed since the agent started, restart it: {}",
                keys.join(", ")
            ),
        }
    }

    fn alive(&mut self) {
        let view = self.handle.view();
        if !self.is_ready && view.ready {
            self.is_ready = true;
            tell(&[NotifyState::Ready]);
            self.say_ready(&view);
        }
        if let Some((every, last)) = &mut self.watchdog
            && last.elapsed() >= *every
        {
            *last = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
        if let Some(line) = &mut self.live {
            line.draw(&view);
        }
    }
}

impl Beat {
    fn say_ready(&self, view: &View) {
        // Of some it is not known yet.
        let is_without = |f: &&Feature| !f.live && !f.reason.is_empty();
        for feature in view.features.iter().filter(is_without) {
            tracing::info!(
                feature = feature.name,
                reason = feature.reason,
                "does without"
            );
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            seconds = format!("{:.2}", view.totals.uptime_seconds),
            cgroups = view.cgroups,
            "ready: `headstart status` and `headstart top` show what it does"
        );
    }
}

/// The configuration file, and what it was when it was last read.
struct Watched {
    path: PathBuf,
    /// That has to be there: it was asked for, or it once was there.
    required: Option<PathBuf>,
    observe_only: bool,
    /// As it was when the agent started.
    started: Config,
    /// Keys that differ now, and are only heeded at a start.
    pending: Vec<&'static str>,
    seen: Option<(SystemTime, u64)>,
    looked: Instant,
    again: Arc<AtomicBool>,
}

impl Watched {
    fn new(global: &Global, args: &AgentArgs, started: Config, again: Arc<AtomicBool>) -> Self {
        let required = global.config.clone();
        let path = required.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let mut watched = Self {
            path,
            required,
            observe_only: args.observe_only,
            started,
            pending: Vec::new(),
            seen: None,
            looked: Instant::now(),
            again,
        };
        watched.saw(watched.now());
        watched
    }

    /// Followed if it is a link: a ConfigMap changes by one.
    fn now(&self) -> Option<(SystemTime, u64)> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(&self.path).ok()?;
        Some((found.modified().ok()?, found.ino()))
    }

    fn saw(&mut self, now: Option<(SystemTime, u64)>) {
        self.seen = now;
        // One that is being replaced does not have the defaults apply.
        if now.is_some() {
            self.required.get_or_insert_with(|| self.path.clone());
        }
    }

    fn changed(&mut self) -> Option<Result<Settings, String>> {
        let asked = self.again.swap(false, Ordering::Relaxed);
        if !asked && self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        let now = self.now();
        if now == self.seen && !asked {
            return None;
        }
        self.saw(now);
        Some(match Config::load(self.required.as_deref()) {
            Ok(config) => {
                self.pending = self.started.heeded_at_start(&config);
                let pending = self.pending.join(", ");
                tracing::info!(pending, "configuration read again");
                let mut settings = config.settings();
                settings.observe_only |= self.observe_only;
                Ok(settings)
            }
            Err(error) => {
                let reason = format::told(&error);
                tracing::warn!(
                    reason,
                    "the configuration is not taken; the last good one stays"
                );
                Err(reason)
            }
        })
    }
}

/// The line of `--live`.
#[derive(Default)]
struct Line {
    last: String,
}

impl Line {
    fn draw(&mut self, view: &View) {
        let line = text(view);
        if line == self.last {
            return;
        }
        let mut err = std::io::stderr();
        // A terminal that is gone is no reason to end.
        let _ = if err.is_terminal() {
            write!(err, "\r\x1b[K{line}")
        } else {
            writeln!(err, "{line}")
        };
        self.last = line;
    }
}

fn text(view: &View) -> String {
    let totals = &view.totals;
    let starts: u64 = totals.starts.values().sum();
    let of = |name| totals.outcome_bytes.get(name).copied().unwrap_or_default();
    format!(
        "{} workloads, {} cgroups; {starts} starts ({} learning, {} warming), {} runs learned; \
         {} used, {} late, {} wasted; {} lost",
        view.workloads.len(),
        view.cgroups,
        view.learning,
        view.warming,
        totals.runs_learned,
        format::bytes(of("used")),
        format::bytes(of("late")),
        format::bytes(of("wasted")),
        totals.records_lost,
    )
}
