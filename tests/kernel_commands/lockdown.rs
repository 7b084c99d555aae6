//! Kernels that are locked down: `cargo xtask vm` boots such ones.

use std::process::Command;

use crate::degraded::{doctor, only_warms, refuses_to_record, runs, warms};
use crate::scene::{Scene, end, json, stderr};

/// Nothing is done to the machine: it lacks enough.
const AS_IT_IS: &str = ":";

/// To what this kernel is locked down, as securityfs says it.
pub(crate) fn mode() -> Option<String> {
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg("mount -t securityfs none /sys/kernel/security; cat /sys/kernel/security/lockdown")
        .output()
        .expect("unshare");
    let shown = String::from_utf8(output.stdout).expect("text");
    shown.split(['[', ']']).nth(1).map(str::to_owned)
}

/// `None`, and why, where the kernel is not locked down to `mode`.
fn locked_down(to: &str) -> Option<Scene> {
    let scene = Scene::as_root()?;
    match mode() {
        Some(mode) if mode == to => Some(scene),
        mode => {
            eprintln!("SKIPPED: the kernel's lockdown is {mode:?}, not {to}");
            None
        }
    }
}

#[test]
fn under_integrity_all_is_recorded_and_warmed() {
    let Some(scene) = locked_down("integrity") else {
        return;
    };
    let (status, row) = doctor(&scene, AS_IT_IS, "lockdown");
    assert_eq!(
        (status, &row["status"]),
        (Some(0), &"degraded".into()),
        "{row}"
    );
    let cost = row["cost"].as_str().expect("text");
    assert!(cost.contains("debugfs is closed"), "{row}");

    scene.file("data", 1 << 20);
    let said = scene.record("p", "cat data >/dev/null");
    assert_eq!(said["lost"], 0, "{said}");
    let file = scene.shown("p", "data").expect("recorded");
    assert_eq!(file["certain_bytes"], 1 << 20, "{file}");
    warms(&scene, AS_IT_IS);
    let said = stderr(&runs(&scene, AS_IT_IS));
    assert!(said.contains("recorded into profile p (2 runs)"), "{said}");

    let output = scene.run(&["--json", "observe", "--for", "1ms"]);
    assert!(output.status.success(), "{output:?}");
    assert!(json(&output)["cgroups"].as_u64() > Some(0), "{output:?}");
}

#[test]
fn under_confidentiality_profiles_are_warmed_and_none_is_recorded() {
    let Some(scene) = locked_down("confidentiality") else {
        return;
    };
    let row = only_warms(&scene, AS_IT_IS, "lockdown");
    let cost = row["cost"].as_str().expect("text");
    assert!(cost.contains("may not read kernel memory"), "{row}");

    scene.file("data", 1 << 20);
    scene.import("p", &["data"]);
    warms(&scene, AS_IT_IS);
    let why = "locked down (confidentiality)";
    let said = stderr(&runs(&scene, AS_IT_IS));
    assert!(
        said.contains("this run was not recorded") && said.contains(why),
        "{said}"
    );
    let said = refuses_to_record(&scene, AS_IT_IS);
    assert!(said.contains(why), "{said}");
    assert_eq!(scene.runs("p"), 1);

    let output = end(&mut scene.headstart(["observe", "--for", "1ms"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains(why), "{output:?}");
}
