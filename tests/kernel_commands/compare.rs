//! `headstart compare`: rounds, figures, a picture.

use std::fs;

use serde_json::Value;

use crate::scene::{MIB, Scene, json, stderr, stdout};
use crate::tools::{ended, send, state, until};

#[test]
fn it_measures_draws_and_tells() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data & <more>", 8 * MIB);
    let output = scene.run(&[
        "compare",
        "--rounds",
        "2",
        "--json",
        "--svg",
        "out.svg",
        "--",
        "cat",
        "data & <more>",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = json(&output);
    assert_eq!(said["rounds"], 2);
    assert_eq!(said["command"], serde_json::json!(["cat", "data & <more>"]));
    for way in ["cold", "zero_lead", "warmed", "hot"] {
        let figures = &said["ways"][way];
        let seconds = figures["seconds"].as_array().expect("rounds");
        assert_eq!(seconds.len(), 2, "{way}: {said}");
        let figure = |key: &str| {
            figures[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{way} {key}: {said}"))
        };
        assert!(
            0.0 < figure("min") && figure("min") <= figure("median"),
            "{said}"
        );
        assert!(figure("median") <= figure("max"), "{said}");
    }
    for key in ["warmed_over_hot", "zero_lead_over_cold"] {
        assert!(said[key].is_number(), "{key}: {said}");
    }
    // Of two starts on a busy machine the cold ones may be as quick as the hot ones.
    let of = |way: &str, key: &str| said["ways"][way][key].as_f64().expect("a number");
    let (cold, hot) = (of("cold", "median"), of("hot", "median"));
    let is_gap = hot < 0.98 * cold && hot < of("cold", "min") && of("hot", "max") < cold;
    for key in ["gap_closed_zero_lead", "gap_closed_lead"] {
        assert_eq!(said[key].is_number(), is_gap, "{key}: {said}");
        assert_eq!(said[key].is_null(), !is_gap, "{key}: {said}");
    }
    assert!(
        said["bytes_planned"].as_u64() >= Some(8 * MIB as u64),
        "{said}"
    );
    assert!(said["names"].as_u64() > Some(0), "{said}");
    assert!(
        !scene.state().exists(),
        "the recorded profile is thrown away"
    );

    let picture = fs::read_to_string(scene.path("out.svg")).expect("drawn");
    let picture = roxmltree::Document::parse(&picture).expect("well-formed");
    assert_eq!(picture.root_element().tag_name().name(), "svg");
    let words: Vec<&str> = picture.descendants().filter_map(|n| n.text()).collect();
    assert!(
        words.iter().any(|w| w.contains("data & <more>")),
        "{words:?}"
    );
    for label in ["cold", "zero lead", "warmed", "hot"] {
        assert!(words.contains(&label), "no {label} in {words:?}");
    }
}

#[test]
fn it_uses_a_profile_that_is_there() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 4 * MIB);
    scene.record("p", "cat data >/dev/null");
    scene.record("p", "cat data >/dev/null");
    let output = scene.run(&[
        "compare",
        "--rounds",
        "1",
        "--profile",
        "p",
        "--json",
        "--",
        "cat",
        "data",
    ]);
    let said: Value = json(&output);
    assert_eq!(said["runs_recorded"], 2, "{said}");
    assert_eq!(scene.runs("p"), 2, "its own runs are not recorded");
    let text = scene.run(&[
        "compare",
        "--rounds",
        "1",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        "exit 3",
    ]);
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    let is_closed = stdout(&text).contains("of the gap closed");
    let is_none = stderr(&text).contains("there is no gap to close");
    assert!(is_closed != is_none, "{text:?}");
    assert!(stderr(&text).contains("ended with status 3"), "{text:?}");
    fs::write(scene.path("old.svg"), "of yesterday").expect("written");
    for (picture, then) in [("new.svg", None), ("old.svg", Some("of yesterday"))] {
        let failed = scene.run(&["compare", "--svg", picture, "--", "no-such-command"]);
        assert_eq!(failed.status.code(), Some(127), "{failed:?}");
        let kept = fs::read_to_string(scene.path(picture)).ok();
        assert_eq!(kept.as_deref(), then, "{picture}");
    }
    let usage = scene.run(&["compare", "--rounds", "0", "--", "true"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn an_interrupt_ends_the_comparison_and_not_one_start() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.record("p", "true");
    let script = "echo $$ >pid; exec sleep 1000";
    for options in [&[][..], &["--profile", "p"]] {
        let args = [&["compare"][..], options, &["--", "sh", "-c", script]].concat();
        let mut child = scene.headstart(args).spawn().expect("starts");
        let pid = || {
            fs::read_to_string(scene.path("pid"))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        until("the command runs", || pid().is_some());
        send(child.id(), libc::SIGINT);
        assert_eq!(ended(&mut child).code(), Some(1), "{options:?}");
        let output = child.wait_with_output().expect("ended");
        assert_eq!(stderr(&output), "headstart: interrupted\n", "{options:?}");
        let command = pid().expect("it ran");
        assert!(matches!(state(command), None | Some('Z')), "left behind");
        fs::remove_file(scene.path("pid")).expect("removed");
    }
}

#[test]
fn the_run_that_it_records_is_traced_if_it_may_be() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    // Whoever traces the command, start by start.
    let script = "while read -r key value; do \
                  case $key in TracerPid:) echo $value >>tracers;; esac; \
                  done </proc/$$/status";
    let exact = cfg!(target_arch = "x86_64");
    for (options, traced) in [
        (&[][..], exact),
        (&["--exact", "auto"], exact),
        (&["--exact", "always"], exact),
        (&["--exact", "never"], false),
    ] {
        let args = [&["compare", "--rounds", "1"][..], options];
        let output = scene.run(&[&args.concat()[..], &["--", "sh", "-c", script]].concat());
        assert_eq!(output.status.code(), Some(0), "{options:?}: {output:?}");
        let tracers = fs::read_to_string(scene.path("tracers")).expect("written");
        let tracers: Vec<&str> = tracers.lines().collect();
        let (recorded, compared) = tracers.split_first().expect("it ran");
        assert_eq!(*recorded != "0", traced, "{options:?}: {tracers:?}");
        assert!(compared.iter().all(|tracer| *tracer == "0"), "{tracers:?}");
        fs::remove_file(scene.path("tracers")).expect("removed");
    }
}
