//! Metrics, alerts and the dashboard, as a real Prometheus takes them.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use headstart::api::metrics::render;
use headstart::daemon::{Feature, View};
use serde_json::Value;
use xtask::packages::{PROMETHEUS, program};

use crate::deploy::{alerts, queries};
use crate::scene::{Scene, http, now_ms, until, view};

/// A program of the package; it is said where there is none.
fn tool(name: &str) -> Option<PathBuf> {
    let found = program(&PROMETHEUS, name);
    if found.is_none() {
        eprintln!("SKIPPED: no {name} here: `cargo xtask test` unpacks it");
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn promtool_finds_nothing_wrong_with_metrics() {
    let Some(promtool) = tool("promtool") else {
        return;
    };
    for (what, view) in [("empty", View::default()), ("filled", view())] {
        let mut check = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = check.stdin.take().expect("piped");
        stdin
            .write_all(render(&view, 10).as_bytes())
            .expect("written");
        drop(stdin);
        let output = check.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.success() && said.trim().is_empty(),
            "{what}: {said}"
        );
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_rules() {
    let Some(promtool) = tool("promtool") else {
        return;
    };
    let output = Command::new(promtool)
        .args(["check", "rules", "--lint-fatal"])
        .arg(root().join("deploy/prometheus/rules.yaml"))
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

/// A Prometheus of this test's own; it ends with it.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(program: &Path, dir: &Path, targets: &[SocketAddr]) -> Self {
        // Free a moment ago: nobody else asks for ports by number here.
        let address = free_port();
        let targets: Vec<String> = targets.iter().map(|t| format!("'{t}'")).collect();
        let rules = root().join("deploy/prometheus/rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n\
             - job_name: headstart\n\
             \x20 static_configs:\n\
             \x20 - targets: [{}]\n",
            rules.display(),
            targets.join(", ")
        );
        fs::write(dir.join("prometheus.yml"), config).expect("written");
        let log = fs::File::create(dir.join("log")).expect("a file");
        let process = Command::new(program)
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Self { process, address }
    }

    /// What a call of its API gives as data.
    fn ask(&self, call: &str) -> Value {
        let (status, body) = http(self.address, &format!("GET /api/v1/{call}"));
        let body = body_of(&body);
        let mut answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|e| panic!("{status} {e}: {body}"));
        assert_eq!(answer["status"], "success", "{call}: {answer}");
        answer["data"].take()
    }

    fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let data = self.ask(&format!("query?query={encoded}"));
        data["result"].as_array().expect("a result").clone()
    }
}

/// A body that may come in chunks.
fn body_of(body: &str) -> String {
    if body.starts_with('{') {
        return body.to_owned();
    }
    let mut whole = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else {
            break;
        };
        whole.push_str(after.get(..size).unwrap_or(after));
        rest = after.get(size + 2..).unwrap_or("");
    }
    whole
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// All that can be wrong, and ever more of it.
fn troubled(step: u64) -> View {
    let mut view = view();
    view.ready = false;
    view.alive_ms = now_ms() - 600_000;
    view.config_error = "line 1: no".to_owned();
    view.features = ["record_pages", "store"]
        .map(|name| Feature {
            name,
            live: false,
            reason: "it is not to be".to_owned(),
        })
        .into();
    let totals = &mut view.totals;
    totals.records_lost = 10 * step;
    totals.signals_lost = step;
    totals.outcome_bytes = [("used", step << 10), ("wasted", step << 20)].into();
    totals.hooks_attached_seconds = step as f64;
    totals.uptime_seconds = step as f64;
    view
}

#[test]
fn a_prometheus_gets_data_for_every_panel_and_alerts_of_what_is_wrong() {
    let Some(program) = tool("prometheus") else {
        return;
    };
    let well = Scene::new(view());
    let ill = Scene::new(troubled(0));
    let gone = free_port();
    let dir = tempfile::tempdir().expect("a directory");
    let targets = [well.address(), ill.address(), gone];
    let prometheus = Prometheus::start(&program, dir.path(), &targets);
    until("Prometheus is ready", || {
        std::net::TcpStream::connect(prometheus.address).is_ok()
            && http(prometheus.address, "GET /-/ready").0 == 200
    });

    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = 0;
            while !over.load(Ordering::Relaxed) {
                step += 1;
                ill.handle.publish(troubled(step));
                let mut going_on = view();
                going_on.totals.uptime_seconds = step as f64;
                well.handle.publish(going_on);
                thread::sleep(Duration::from_millis(200));
            }
        });
        // Also where an assertion fails: the scope waits for its thread.
        let _end = End(&over);
        for (title, query) in queries() {
            until(&format!("data for {title}: {query}"), || {
                let result = prometheus.query(&query);
                let number = |series: &Value| {
                    let value = series["value"][1].as_str();
                    value
                        .and_then(|v| v.parse().ok())
                        .is_some_and(f64::is_finite)
                };
                !result.is_empty() && result.iter().all(number)
            });
        }
        for (alert, _, _) in alerts() {
            // Pending: it fires only when it has been so for as long as the rule says.
            until(&alert, || {
                let query = format!("ALERTS{{alertname=\"{alert}\"}}");
                !prometheus.query(&query).is_empty()
            });
        }
        let well = format!("ALERTS{{instance=\"{}\"}}", targets[0]);
        assert_eq!(
            prometheus.query(&well),
            Vec::<Value>::new(),
            "nothing is wrong there"
        );
        let rules = prometheus.ask("rules");
        for rule in rules["groups"][0]["rules"].as_array().expect("rules") {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
