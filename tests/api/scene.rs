//! A daemon that is a filled view, served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headstart::api::{ApiOptions, Client, Server, serve};
use headstart::daemon::{Feature, FileView, Handle, Order, StartView, View, WorkloadView};
use headstart::model::StageCounts;
use headstart::profile::{Called, Entry, Outcome, Past};
use headstart::warm::WarmReport;
use tempfile::TempDir;

/// What a test waits for takes no longer, or never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) handle: Handle,
    pub(crate) orders: Option<Receiver<Order>>,
    pub(crate) server: Option<Server>,
}

impl Scene {
    /// Serves `view` on a socket and on a free port of this machine.
    pub(crate) fn new(view: View) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (handle, all) = Handle::new();
        let (others, orders) = sync_channel(16);
        // The store answers by itself, as the daemon has it.
        std::thread::spawn(move || {
            for order in all {
                if let Order::Stored { from, most, reply } = order {
                    let _ = reply.send(Ok(stored(&from, most)));
                } else if others.send(order).is_err() {
                    break;
                }
            }
        });
        handle.publish(view);
        let options = ApiOptions {
            socket: dir.path().join("run/agent.sock"),
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            metrics_workloads: 10,
        };
        let server = serve(handle.clone(), options).expect("served");
        Self {
            dir,
            handle,
            orders: Some(orders),
            server: Some(server),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).expect("connected")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let server = self.server.as_ref().expect("it runs");
        server.metrics_address().expect("metrics are served")
    }
}

/// Asks by HTTP; status and body.
pub(crate) fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let text = format!("{request} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer.split(' ').nth(1).expect("a status").parse();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.expect("a number"), body.to_owned())
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

/// A name that no terminal, label or JSON may obey.
pub(crate) const ODD: &str = "odd\n\x1b[2J\u{9b}2J\u{202e}\"}\\name";

/// A view in which everything is something.
pub(crate) fn view() -> View {
    let mut view = View {
        started_ms: now_ms() - 60_000,
        alive_ms: now_ms(),
        ready: true,
        cgroups: 3,
        learning: 1,
        warming: 1,
        config_read_ms: now_ms() - 60_000,
        ..View::default()
    };
    view.features = [("record_pages", true), ("containerd", false)]
        .map(|(name, live)| Feature {
            name,
            live,
            reason: if live { "" } else { "no socket" }.to_owned(),
        })
        .into();
    let totals = &mut view.totals;
    totals.starts = [("cgroup", 5), ("notify", 1), ("runtime", 2)].into();
    totals.starts_not_learned = [("too_short", 1)].into();
    totals.runs_learned = 4;
    totals.records = 1000;
    totals.warmed_bytes = [("read", 3 << 20), ("resident", 1 << 20)].into();
    totals.outcome_bytes = [("used", 3 << 20), ("late", 1 << 19), ("wasted", 1 << 19)].into();
    totals.missed_bytes = 4096;
    totals.throttled = [("memory", 1)].into();
    totals.hooks_attached_seconds = 3.0;
    totals.uptime_seconds = 60.0;
    for lead in [0.02, 0.3, 4.0] {
        totals.lead.entry("cgroup").or_default().observe(lead);
    }
    let mut stage = StageCounts::new("ring", "records");
    (stage.seen, stage.out) = (1010, 1000);
    stage.filter("other", 10);
    totals.stages.push(stage);
    for workload in [
        workload("unit", "web.service"),
        workload("container", "redis"),
        workload("container", ODD),
    ] {
        view.add(workload);
    }
    view
}

/// What a store has of these, and of one that was not seen.
fn stored(from: &str, most: usize) -> Vec<Past> {
    let past = |key: &str| Past {
        entry: Entry {
            name: key.to_owned(),
            bytes: 10,
            runs: 4,
            files: 1,
            extents: 1,
            names: 1,
            data_bytes: 3 << 20,
            updated_ms: now_ms(),
        },
        outcomes: vec![Outcome {
            began_ms: 1_700_000_000_000,
            read: 1 << 20,
            used: 1 << 20,
            ..Outcome::default()
        }],
        called: None,
    };
    let keys = ["container:redis", "unit:before.service", "unit:web.service"];
    let keys = keys.into_iter().filter(|key| *key >= from);
    keys.take(most).map(past).collect()
}

pub(crate) fn workload(kind: &'static str, name: &str) -> WorkloadView {
    let file = |path: &str| FileView {
        volume: "uuid:1234".to_owned(),
        path: path.to_owned(),
        planned: 1 << 20,
        used: 1 << 19,
        late: 1 << 18,
        wasted: 1 << 18,
        unknown: 0,
    };
    WorkloadView {
        key: format!("{kind}:{name}"),
        kind,
        called: Called {
            name: name.to_owned(),
            namespace: if kind == "container" { "shop" } else { "" }.to_owned(),
            image: "registry.example/cache:7".to_owned(),
            also: vec!["made_up".to_owned()],
        },
        runs: 2,
        profile_bytes: 2 << 20,
        starts: 3,
        live: 1,
        seen: true,
        not_warmed: "",
        last: Some(StartView {
            began_ms: now_ms() - 30_000,
            signal: "cgroup",
            over: true,
            not_learned: "",
            seconds: 2.0,
            lead_seconds: Some(0.3),
            warm_delay_seconds: Some(0.001),
            warm_seconds: 0.1,
            planned: 2 << 20,
            resident_before: 1 << 20,
            joined: 0,
            read: 1 << 20,
            used: 1 << 20,
            late: 1 << 19,
            on_the_way: 1 << 18,
            gained: 1 << 20,
            wasted: 1 << 19,
            unknown: 0,
            missed: 4096,
            names_warmed: 7,
            files: vec![file("usr/lib/a.so"), file("data/secret\\x0a.bin")],
        }),
    }
}

/// Answers notifications as the daemon would, until the handle is gone.
pub(crate) fn answer(
    orders: Receiver<Order>,
    with: impl Fn(&str) -> Result<headstart::daemon::Notified, headstart::daemon::OrderError>
    + Send
    + 'static,
) {
    std::thread::spawn(move || {
        for order in orders {
            match order {
                Order::Notify {
                    workload,
                    reply,
                    finished,
                } => {
                    let _ = reply.send(with(&workload));
                    if let Some(finished) = finished {
                        let mut report = WarmReport::default();
                        (report.data.planned, report.data.read) = (2048, 1024);
                        let _ = finished.send(Ok(Arc::new(report)));
                    }
                }
                // The daemon's own, and what is answered already.
                Order::Notified(_) | Order::Stored { .. } => {}
            }
        }
    });
}
