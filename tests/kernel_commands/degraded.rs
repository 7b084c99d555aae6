//! Commands of a process that may do less, and of one whose root can't be written.

use std::process::Output;

use serde_json::Value;

use crate::scene::{LASTS, Scene, end, evict, json, resident, stderr, stdout};

/// The rest of a command line runs without these.
const NO_BPF: &str = "set -- setpriv --bounding-set=-bpf,-perfmon,-sys_admin \"$@\"";
const NOTHING: &str = "set -- setpriv --bounding-set=-all \"$@\"";
/// Every file system below the scene's directory with it.
const READ_ONLY: &str = "mount -o remount,bind,ro \"$(findmnt -n -o TARGET -T .)\"";

/// Warming needs no probes: what was in the profile is there afterwards.
pub(crate) fn warms(scene: &Scene, setup: &str) {
    let data = scene.path("data");
    evict(&data);
    let warm = end(&mut scene.apart(setup, ["--json", "warm", "p"]));
    assert_eq!(warm.status.code(), Some(0), "{warm:?}");
    assert_eq!(json(&warm)["complete"], true, "{warm:?}");
    let (there, pages) = resident(&data);
    assert_eq!(there, pages);
}

/// The command runs, with its output and its status.
pub(crate) fn runs(scene: &Scene, setup: &str) -> Output {
    let command = [
        "run",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        &format!("{LASTS}echo out; exit 4"),
    ];
    let run = end(&mut scene.apart(setup, command));
    let came = (run.status.code(), &*stdout(&run));
    assert_eq!(came, (Some(4), "out\n"), "{run:?}");
    run
}

pub(crate) fn refuses_to_record(scene: &Scene, setup: &str) -> String {
    let command = ["record", "--profile", "p", "--", "touch", "ran"];
    let record = end(&mut scene.apart(setup, command));
    assert_eq!(record.status.code(), Some(1), "{record:?}");
    let said = stderr(&record);
    assert!(said.contains("nothing was run"), "{said}");
    assert!(!scene.path("ran").exists());
    said
}

/// What doctor says of a machine, its exit status, and one of its rows.
pub(crate) fn doctor(scene: &Scene, setup: &str, row: &str) -> (Option<i32>, Value) {
    let doctor = end(&mut scene.apart(setup, ["--json", "doctor"]));
    let said = json(&doctor);
    let rows = said["checks"].as_array().expect("rows");
    let row = rows.iter().find(|r| r["name"] == row).expect("a row");
    (doctor.status.code(), row.clone())
}

/// What doctor says of `row` on a machine that only warms.
pub(crate) fn only_warms(scene: &Scene, setup: &str, row: &str) -> Value {
    let (status, row) = doctor(scene, setup, row);
    assert_eq!(
        (status, &row["status"]),
        (Some(1), &"missing".into()),
        "{row}"
    );
    row
}

#[test]
fn without_capabilities_profiles_are_warmed_and_none_is_recorded() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 1 << 20);
    scene.record("p", "cat data >/dev/null");
    for setup in [NO_BPF, NOTHING] {
        warms(&scene, setup);
        let said = stderr(&runs(&scene, setup));
        assert!(said.contains("this run was not recorded"), "{said}");
        let said = refuses_to_record(&scene, setup);
        assert!(said.contains("CAP_BPF and CAP_PERFMON"), "{said}");
        only_warms(&scene, setup, "CAP_BPF");
    }
    assert_eq!(scene.runs("p"), 1);
}

#[test]
fn on_a_read_only_root_profiles_are_warmed_and_none_is_kept() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 1 << 20);
    scene.record("p", "cat data >/dev/null");
    warms(&scene, READ_ONLY);
    let said = stderr(&runs(&scene, READ_ONLY));
    assert!(said.contains("this run is not kept"), "{said}");
    assert!(!said.contains("recorded into"), "{said}");
    let said = refuses_to_record(&scene, READ_ONLY);
    assert!(said.contains("--state-dir"), "{said}");
    let row = only_warms(&scene, READ_ONLY, "state directory");
    let cost = row["cost"].as_str();
    assert!(
        cost.is_some_and(|cost| cost.contains("what is known is warmed")),
        "{row}"
    );
    assert_eq!(scene.runs("p"), 1);
}
