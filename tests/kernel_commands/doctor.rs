//! `headstart doctor`: which hooks attach, for real.

use std::fs;

use headstart::probe::HOOKS;

use crate::scene::{Scene, end, json, stdout};

#[test]
fn every_hook_was_attached_or_says_why_not() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for args in [&["doctor", "--hooks", "--json"][..], &["doctor", "--json"]] {
        let output = scene.run(args);
        let report = json(&output);
        let records = report["verdict"]["records"].as_bool().expect("a verdict");
        assert_eq!(output.status.code(), Some(i32::from(!records)), "{report}");
        let rows = report["checks"].as_array().expect("rows");
        for hook in HOOKS {
            let row = rows.iter().find(|r| r["name"] == hook.program);
            let row = row.unwrap_or_else(|| panic!("no row for {}", hook.program));
            let found = row["found"].as_str().expect("text");
            match row["status"].as_str() {
                Some("ok") => assert!(found.starts_with("live: "), "{row}"),
                _ => assert!(row["cost"] != "" && row["fix"] != "", "{row}"),
            }
        }
    }
    let text = stdout(&scene.run(&["doctor", "--hooks"]));
    assert!(
        HOOKS.iter().all(|hook| text.contains(hook.program)),
        "{text}"
    );
    assert!(!text.contains("not built"), "{text}");
}

#[test]
fn it_looks_at_the_state_directory_that_commands_use() {
    let scene = Scene::new();
    let place = scene.path("elsewhere");
    fs::write(
        scene.path("c.toml"),
        format!("state_dir = {:?}\n", place.display().to_string()),
    )
    .expect("written");
    let found = |report: &serde_json::Value, name: &str| {
        let rows = report["checks"].as_array().expect("rows");
        let row = rows.iter().find(|r| r["name"] == name).expect("a row");
        row["found"].as_str().expect("text").to_owned()
    };
    let mut doctor = std::process::Command::new(crate::scene::HEADSTART);
    doctor
        .args(["--json", "doctor", "--config"])
        .arg(scene.path("c.toml"));
    let report = json(&end(&mut doctor));
    assert!(
        found(&report, "state directory").contains("/elsewhere"),
        "{report}"
    );
    let report = json(&scene.run(&["--json", "--config", "c.toml", "doctor"]));
    assert!(
        found(&report, "state directory").contains("/state"),
        "{report}"
    );

    fs::write(scene.path("c.toml"), "sate_dir = 1\n").expect("written");
    let output = scene.run(&["--json", "--config", "c.toml", "doctor"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        found(&json(&output), "configuration").contains("sate_dir"),
        "{output:?}"
    );
}

#[test]
fn lockdown_is_known_without_a_mount_of_securityfs() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let setup = "umount -l /sys/kernel/security 2>/dev/null || true";
    let report = json(&end(&mut scene.apart(setup, ["doctor", "--json"])));
    let mode = crate::lockdown::mode();
    let word = mode.as_deref().unwrap_or("none known");
    let rows = report["checks"].as_array().expect("rows");
    let row = rows
        .iter()
        .find(|r| r["name"] == "lockdown")
        .expect("a row");
    assert_eq!(row["found"], word, "{row}");
}
