//! What is made for those who deploy it: manifests, unit, alerts, dashboard. The tools
//! that would apply them need a cluster; their files are read here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, SecurityContext, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("reading {path}: {e}"))
}

pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

const BASE: &str = "deploy/kustomize/base";

fn daemon_set() -> Value {
    yaml(&format!("{BASE}/daemonset.yaml"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.unwrap_or_else(|| panic!("no list {pointer}"))
}

#[track_caller]
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("no text {pointer} in {value}"))
}

/// Whether the line that has `item` comes after a comment.
fn is_explained(text: &str, item: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| *line == item);
    at.is_some_and(|at| at > 0 && lines[at - 1].starts_with('#'))
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

#[test]
fn the_daemon_set_has_the_least_rights_and_says_what_each_is_for() {
    let set = daemon_set();
    let security = set
        .pointer(&format!("{CONTAINER}/securityContext"))
        .expect("there");
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let source = read(&format!("{BASE}/daemonset.yaml"));
    let added = list(security, "/capabilities/add");
    for capability in added {
        let name = capability.as_str().expect("a name");
        assert!(
            is_explained(&source, &format!("- {name}")),
            "{name} has no reason"
        );
    }
    let spec = set.pointer("/spec/template/spec").expect("there");
    assert_eq!(spec["hostNetwork"], false);
    assert_eq!(spec["automountServiceAccountToken"], false);

    let unit = read("deploy/systemd/headstart.service");
    let bounded: BTreeSet<String> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("CapabilityBoundingSet=CAP_"))
        .map(|name| {
            let line = format!("CapabilityBoundingSet=CAP_{name}");
            assert!(is_explained(&unit, &line), "{name} has no reason");
            name.to_owned()
        })
        .collect();
    let added: BTreeSet<String> = added
        .iter()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    assert_eq!(
        added, bounded,
        "the same rights with and without Kubernetes"
    );
}

#[test]
fn mounts_are_where_they_are_on_the_node_and_say_what_for() {
    let set = daemon_set();
    let source = read(&format!("{BASE}/daemonset.yaml"));
    let volumes = list(&set, "/spec/template/spec/volumes");
    let mounts = list(&set, &format!("{CONTAINER}/volumeMounts"));
    assert_eq!(volumes.len(), mounts.len());
    for mount in mounts {
        let name = text(mount, "/name");
        assert!(
            is_explained(&source, &format!("- name: {name}")),
            "{name} has no reason"
        );
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        let volume = volume.unwrap_or_else(|| panic!("no volume {name}"));
        let Some(path) = volume.pointer("/hostPath/path").and_then(Value::as_str) else {
            continue;
        };
        let at = text(mount, "/mountPath");
        assert_eq!(path, at, "{name}: paths in profiles have to hold here");
        // What it makes on a node is its own.
        let own = ["/var/lib/headstart", "/run/headstart"].contains(&path);
        let makes = text(volume, "/hostPath/type") == "DirectoryOrCreate";
        assert_eq!(own, makes, "{name}");
        let writes = mount["readOnly"] != true;
        assert!(
            !writes || own || path == "/sys/fs/cgroup",
            "{name} is written"
        );
    }
}

#[test]
fn the_daemon_set_gives_way_and_is_looked_after() {
    let set = daemon_set();
    let at = |pointer: &str| format!("{CONTAINER}{pointer}");
    assert_eq!(text(&set, &at("/livenessProbe/httpGet/path")), "/livez");
    assert_eq!(text(&set, &at("/readinessProbe/httpGet/path")), "/readyz");
    assert_eq!(text(&set, &at("/startupProbe/httpGet/path")), "/readyz");
    text(&set, &at("/resources/requests/cpu"));
    text(&set, &at("/resources/requests/memory"));
    text(&set, &at("/resources/limits/memory"));
    assert_eq!(set.pointer(&at("/resources/limits/cpu")), None);
    assert_eq!(
        list(&set, "/spec/template/spec/tolerations")[0]["operator"],
        "Exists"
    );
    assert_eq!(text(&set, "/spec/updateStrategy/type"), "RollingUpdate");
    assert_eq!(
        text(&set, "/spec/updateStrategy/rollingUpdate/maxUnavailable"),
        "10%"
    );
    let priority = yaml(&format!("{BASE}/priorityclass.yaml"));
    assert_eq!(text(&priority, "/preemptionPolicy"), "Never");
    let name = text(&set, "/spec/template/spec/priorityClassName");
    assert_eq!(name, text(&priority, "/metadata/name"));
    let namespace = yaml(&format!("{BASE}/namespace.yaml"));
    for mode in ["enforce", "audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}");
        assert_eq!(namespace["metadata"]["labels"][&label], "privileged");
    }
}

#[test]
fn the_base_names_files_that_are_there_and_the_overlay_is_privileged() {
    let base = yaml(&format!("{BASE}/kustomization.yaml"));
    let resources = list(&base, "/resources").iter();
    for file in resources.chain(list(&base, "/configMapGenerator/0/files")) {
        let file = format!("{BASE}/{}", file.as_str().expect("a name"));
        assert!(root().join(&file).exists(), "{file}");
    }
    let overlay = yaml("deploy/kustomize/overlays/privileged/kustomization.yaml");
    let patch = text(&overlay, "/patches/0/patch");
    let patch: Value = serde_saphyr::from_str(patch).expect("a patch");
    let path = text(&patch, "/0/path");
    assert_eq!(path, "/spec/template/spec/containers/0/securityContext");
    assert!(
        daemon_set().pointer(path).is_some(),
        "it replaces what is there"
    );
    assert_eq!(patch[0]["value"]["privileged"], true);
    assert_eq!(patch[0]["value"]["readOnlyRootFilesystem"], true);
}

/// What Kubernetes' own types keep of a manifest: a field that they don't know is lost, and
/// what is not of a field's type is refused.
fn typed<T: Serialize + DeserializeOwned>(manifest: &Value) -> Value {
    let typed: T = serde_json::from_value(manifest.clone()).unwrap_or_else(|e| panic!("{e}"));
    serde_json::to_value(typed).expect("its own type")
}

#[test]
fn manifests_have_the_fields_that_kubernetes_knows() {
    let kustomization = yaml(&format!("{BASE}/kustomization.yaml"));
    for file in list(&kustomization, "/resources") {
        let file = format!("{BASE}/{}", file.as_str().expect("a name"));
        let manifest = yaml(&file);
        let kept = match text(&manifest, "/kind") {
            "DaemonSet" => typed::<DaemonSet>(&manifest),
            "Namespace" => typed::<Namespace>(&manifest),
            "PriorityClass" => typed::<PriorityClass>(&manifest),
            "ServiceAccount" => typed::<ServiceAccount>(&manifest),
            kind => panic!("{file}: no type for {kind}"),
        };
        assert_eq!(kept, manifest, "{file}");
    }
    let overlay = yaml("deploy/kustomize/overlays/privileged/kustomization.yaml");
    let patch: Value = serde_saphyr::from_str(text(&overlay, "/patches/0/patch")).expect("a patch");
    let value = &patch[0]["value"];
    assert_eq!(&typed::<SecurityContext>(value), value);
}

#[test]
fn the_map_is_a_configuration_and_serves_where_the_probes_look() {
    let config = read(&format!("{BASE}/config.toml"));
    let config = headstart::cli::config::Config::parse(&config).expect("valid");
    let listen = config.metrics_listen.expect("metrics are served");
    assert!(listen.ip().is_unspecified(), "{listen}");
    // A plan is not to reach the limit at which the kernel kills.
    let set = daemon_set();
    let limit = text(&set, &format!("{CONTAINER}/resources/limits/memory"));
    let limit: u64 = limit
        .strip_suffix("Mi")
        .and_then(|mebibytes| mebibytes.parse().ok())
        .expect("MiB");
    assert!(config.agent.node_budget < limit << 20);
    let port = daemon_set();
    let port = port.pointer(&format!("{CONTAINER}/ports/0/containerPort"));
    assert_eq!(port, Some(&Value::from(listen.port())));
}

#[test]
fn the_unit_notifies_is_watched_and_comes_before_the_runtimes() {
    let unit = read("deploy/systemd/headstart.service");
    let values = |key: &str| -> Vec<&str> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        lines.filter_map(|rest| rest.strip_prefix('=')).collect()
    };
    assert_eq!(values("Type"), ["notify"]);
    assert_eq!(values("StateDirectory"), ["headstart"]);
    assert_eq!(values("RuntimeDirectory"), ["headstart"]);
    for key in [
        "WatchdogSec",
        "MemoryHigh",
        "Delegate",
        "StartLimitBurst",
        "StartLimitIntervalSec",
    ] {
        assert_eq!(values(key).len(), 1, "{key}");
    }
    for runtime in ["containerd.service", "kubelet.service"] {
        assert!(
            values("Before")[0].split(' ').any(|unit| unit == runtime),
            "{runtime}"
        );
    }
}

/// Alerts: name, expression, runbook.
pub(crate) fn alerts() -> Vec<(String, String, String)> {
    let rules = yaml("deploy/prometheus/rules.yaml");
    let rules = list(&rules, "/groups/0/rules").iter();
    rules
        .map(|rule| {
            let runbook = text(rule, "/annotations/runbook_url");
            let (name, expression) = (text(rule, "/alert"), text(rule, "/expr"));
            (name.to_owned(), expression.to_owned(), runbook.to_owned())
        })
        .collect()
}

/// Queries of the dashboard, with its variables put in.
pub(crate) fn queries() -> Vec<(String, String)> {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/headstart.json")).expect("JSON");
    let panels = list(&dashboard, "/panels").iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .flat_map(|panel| {
            let title = text(panel, "/title");
            list(panel, "/targets").iter().map(move |target| {
                let query = text(target, "/expr").replace("$__rate_interval", "1m");
                (title.to_owned(), query.replace("$instance", ".*"))
            })
        })
        .collect()
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let mut runbooks: BTreeSet<String> = fs::read_dir(root().join("docs/runbooks"))
        .expect("there")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    for (name, _, runbook) in alerts() {
        assert_eq!(runbook, format!("docs/runbooks/{name}.md"));
        assert!(
            runbooks.remove(&format!("{name}.md")),
            "{runbook} is not there"
        );
        assert!(
            read(&runbook).starts_with(&format!("# {name}\n")),
            "{runbook}"
        );
    }
    assert_eq!(runbooks, BTreeSet::new(), "without an alert");
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let catalogue = headstart::api::metrics::markdown();
    let queries = queries().into_iter().map(|(_, query)| query);
    for query in queries.chain(alerts().into_iter().map(|(_, query, _)| query)) {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|word| word.starts_with("headstart_")) {
            let metric = metric.trim_end_matches("_bucket");
            assert!(
                catalogue.contains(&format!("| `{metric}` |")),
                "{metric} in {query}"
            );
        }
    }
}
