//! The configuration: keys, and what is wrong with them.

use std::fs;

use crate::scene::{Scene, last_json, stages_add_up, stderr};

#[test]
fn a_wrong_key_is_named_with_its_file_and_line() {
    let scene = Scene::new();
    let cases = [
        ("bugdet = \"1GiB\"\n", "line 1", "bugdet"),
        ("\nbudget = \"1 parsec\"\n", "line 2", "budget"),
        ("state_dir = \n", "line 1", "state_dir"),
        ("ring_bytes = \"5000\"\n", "line 1", "ring_bytes"),
        ("io_priority = \"urgent\"\n", "line 1", "io_priority"),
    ];
    for (text, line, key) in cases {
        fs::write(scene.path("odd.toml"), text).expect("written");
        for args in [
            &["warm", "p"][..],
            &["record", "--profile", "p", "--", "touch", "ran"],
            &["compare", "--", "touch", "ran"],
            &["profile", "ls"],
        ] {
            let output = scene.run(&[&["--config", "odd.toml"][..], args].concat());
            assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
            let said = stderr(&output);
            assert!(
                said.contains("odd.toml") && said.contains(line) && said.contains(key),
                "{args:?}: {said}"
            );
        }
    }
    assert!(!scene.path("ran").exists());
    let missing = scene.run(&["--config", "nowhere.toml", "profile", "ls"]);
    assert!(stderr(&missing).contains("nowhere.toml"), "{missing:?}");
}

#[test]
fn a_ring_that_overflows_loses_records_and_says_what_to_do() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    fs::write(scene.path("small.toml"), "ring_bytes = \"4KiB\"\n").expect("written");
    fs::create_dir(scene.path("many")).expect("dir");
    for i in 0..2000 {
        fs::write(
            scene.path(&format!("many/a-file-with-quite-a-long-name-{i}")),
            "x",
        )
        .expect("written");
    }
    // More at once than there are processors on a small machine: who empties the
    // ring has to wait for one.
    let script = "for n in 1 2 3 4 5 6 7 8 9; do cat many/*-$n* >/dev/null & done; wait; exit 3";
    let args = [
        "--config",
        "small.toml",
        "record",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = scene.run(&args);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("INCOMPLETE") && said.contains("ring_bytes"),
        "{said}"
    );
    let output = scene.run(&[&["--json"][..], &args].concat());
    let said = last_json(&output);
    assert!(said["lost"].as_u64() > Some(0), "{output:?}");
    assert_eq!(said["stages"]["ring"]["lost"], said["lost"], "{said}");
    stages_add_up(&said);
    // And with the size that is usual nothing is lost.
    let output = scene.run(&[&["--json"][..], &args[2..]].concat());
    let said = last_json(&output);
    assert_eq!(said["lost"], 0, "{output:?}");
    // Names that differ in their ends only find slots of their own, but for chance.
    assert!(said["evicted"]["names"].as_u64() < Some(200), "{said}");
}
