//! The commands that ask the agent, as a user runs them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use headstart::daemon::Notified;
use serde_json::Value;

use crate::scene::{ODD, Scene, answer, view};

fn headstart(socket: &Path, args: &[&str]) -> Output {
    Command::cargo_bin("headstart")
        .expect("the binary that cargo built for this test")
        .arg("--socket")
        .arg(socket)
        .args(args)
        .output()
        .expect("it runs")
}

/// Standard output of a command that succeeds, fit for a terminal.
#[track_caller]
fn text(scene: &Scene, args: &[&str]) -> String {
    let output = headstart(&scene.socket(), args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let obeyed = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(obeyed, None, "{args:?}: {text:?}");
    text
}

fn json(scene: &Scene, args: &[&str]) -> Value {
    let text = text(scene, &[args, &["--json"]].concat());
    serde_json::from_str(&text).expect("one JSON object")
}

#[test]
fn status_says_how_the_agent_is() {
    let scene = Scene::new(view());
    let text = text(&scene, &["status"]);
    for part in [
        "ready",
        "8 noticed: 5 cgroup, 1 notify, 2 runtime",
        "containerd: no socket",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let json = json(&scene, &["status"]);
    assert_eq!(json["pid"], std::process::id());
    assert_eq!(json["totals"]["records"], 1000);
}

#[test]
fn workloads_are_listed_and_explained() {
    let scene = Scene::new(view());
    let listed = text(&scene, &["workloads"]);
    assert_eq!(listed.lines().count(), 1 + 4, "{listed}");
    assert!(listed.contains("before.service"), "{listed}");
    assert!(listed.contains("shop/redis"), "{listed}");
    assert_eq!(
        json(&scene, &["workloads"])["workloads"][1]["name"],
        "redis"
    );

    let explained = text(&scene, &["explain", "redis"]);
    for part in [
        "is warmed",
        "wasted",
        "usr/lib/a.so",
        "data/secret\\x0a.bin",
    ] {
        assert!(explained.contains(part), "{part} is not in {explained}");
    }
    assert_eq!(
        json(&scene, &["explain", "redis"])["last"]["files"][0]["used"],
        1 << 19
    );
    // As the list shows it.
    let shown = headstart::model::escape(ODD.as_bytes());
    assert!(text(&scene, &["explain", &shown]).contains("predicted"));
}

#[test]
fn notify_says_what_is_warmed() {
    let mut scene = Scene::new(view());
    answer(scene.orders.take().expect("orders"), |workload| {
        Ok(Notified {
            key: workload.to_owned(),
            planned: 2048,
            queued: workload == "unit:web.service",
        })
    });
    let said = text(&scene, &["notify", "unit:web.service"]);
    assert!(
        said.starts_with("noted for unit:web.service: other plans go first"),
        "{said}"
    );
    let said = text(&scene, &["notify", "redis"]);
    assert_eq!(said, "warming 2.0 KiB for container:redis\n");
    assert_eq!(json(&scene, &["notify", "new"])["planned"], 2048);
    let said = text(&scene, &["notify", "--wait", "redis"]);
    assert!(said.contains("1.0 KiB read"), "{said}");
    let waited = json(&scene, &["notify", "--wait", "redis"]);
    assert_eq!(waited["key"], "container:redis");
    assert_eq!(
        (&waited["done"], &waited["read"]),
        (&true.into(), &1024.into())
    );
}

#[test]
fn without_an_agent_it_is_said_how_to_start_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let gone = dir.path().join("gone\n.sock");
    for args in [
        &["status"][..],
        &["workloads"],
        &["explain", "a"],
        &["notify", "a"],
        &["top", "--json"],
    ] {
        let output = headstart(&gone, args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        for part in [
            "no agent runs",
            "gone\\x0a.sock",
            "systemctl start headstart",
            "headstart agent",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
}

#[test]
fn the_environment_names_the_socket_too() {
    let scene = Scene::new(view());
    let mut command = Command::cargo_bin("headstart").expect("the binary");
    let command = command
        .env("HEADSTART_SOCKET", scene.socket())
        .arg("status");
    command.assert().success();
}

#[test]
fn an_unknown_workload_is_an_error_that_says_where_to_look() {
    let scene = Scene::new(view());
    let output = headstart(&scene.socket(), &["explain", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        said.contains("`nobody`") && said.contains("headstart workloads"),
        "{said}"
    );
}

#[test]
fn top_needs_a_terminal_or_says_all_once() {
    let scene = Scene::new(view());
    let output = headstart(&scene.socket(), &["top"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("needs a terminal"), "{said}");
    let json = json(&scene, &["top"]);
    assert_eq!(json["status"]["ready"], true);
    assert_eq!(json["workloads"].as_array().map(Vec::len), Some(3));
}

/// Files of an archive, by their names in it.
fn unpack(archive: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive");
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a name").into_owned();
        let name = path
            .strip_prefix("headstart-sysdump")
            .expect("one directory");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        (name.display().to_string(), text)
    };
    entries.map(read).collect()
}

#[test]
fn a_sysdump_holds_what_is_known_and_no_paths() {
    let scene = Scene::new(view());
    let config = scene.dir.path().join("config.toml");
    std::fs::write(&config, "# a secret\nstate_dir = \"/srv/hidden\"\n").expect("written");
    let config = config.to_str().expect("text");
    let dump = |file: &str, more: &[&str]| {
        let file = scene.dir.path().join(file);
        let arguments = ["sysdump", "--config", config, "--output"];
        let path = file.to_str().expect("text");
        let output = headstart(&scene.socket(), &[&arguments, &[path][..], more].concat());
        assert!(output.status.success(), "{output:?}");
        unpack(&std::fs::read(&file).expect("written"))
    };
    let files = dump("redacted.tar", &[]);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expect = [
        "about.json",
        "config.json",
        "doctor.json",
        "explained.json",
        "kernel.json",
        "metrics.txt",
        "status.json",
        "workloads.json",
    ];
    assert_eq!(names, expect);
    for (name, text) in &files {
        for gone in ["secret", "a.so", "hidden", "usr/lib"] {
            assert!(!text.contains(gone), "{gone} in {name}: {text}");
        }
    }
    assert!(files["explained.json"].contains("web.service"));
    assert!(files["metrics.txt"].contains("headstart_build_info"));
    let again = dump("again.tar", &[]);
    assert_eq!(
        again["explained.json"], files["explained.json"],
        "hashes stay"
    );
    let open = dump("open.tar", &["--with-paths"]);
    assert!(open["explained.json"].contains("usr/lib/a.so"));
    assert!(open["config.json"].contains("/srv/hidden"));
}

#[test]
fn a_sysdump_without_an_agent_says_so_and_nothing_is_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gone, file) = (dir.path().join("gone.sock"), dir.path().join("dump.tar"));
    let path = file.to_str().expect("text");
    let output = headstart(&gone, &["sysdump", "--output", path]);
    assert!(output.status.success(), "{output:?}");
    let files = unpack(&std::fs::read(&file).expect("written"));
    assert!(
        files["about.json"].contains("no agent runs"),
        "{}",
        files["about.json"]
    );
    assert!(files.contains_key("doctor.json"));
    let again = headstart(&gone, &["sysdump", "--output", path]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}
