//! Control groups: of version 1 only, as `cargo xtask vm` boots a machine, or with version
//! 2 hidden where there are both; and the one that a command is in.

use std::fs;
use std::process::Command;

use crate::degraded::{doctor, only_warms, refuses_to_record, runs, warms};
use crate::scene::{LASTS, MIB, Scene, end, last_json, stderr};
use crate::tools::until;

/// Leaves the mounts of version 1 alone.
const NO_V2: &str = "for at in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); \
                     do umount -l \"$at\"; done";
const NO_SYS_ADMIN: &str = "set -- setpriv --bounding-set=-sys_admin \"$@\"";

/// `None`, and why, where there is no control group of version 1.
fn with_v1() -> Option<Scene> {
    let scene = Scene::recording()?;
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let mut kinds = mounts.lines().filter_map(|line| line.split(' ').nth(2));
    if kinds.any(|kind| kind == "cgroup") {
        return Some(scene);
    }
    eprintln!("SKIPPED: no control groups of version 1 here");
    None
}

#[test]
fn with_version_1_only_all_is_recorded_and_warmed() {
    let Some(scene) = with_v1() else {
        return;
    };
    let (status, row) = doctor(&scene, NO_V2, "hierarchy");
    assert_eq!((status, &row["status"]), (Some(0), &"ok".into()), "{row}");
    let found = row["found"].as_str().expect("text");
    assert!(
        found.starts_with("v1: ") && found.contains("v2 is mounted nowhere"),
        "{row}"
    );

    scene.file("data", MIB);
    let script = "cat data >/dev/null; cat /proc/self/cgroup >groups";
    let command = [
        "--json",
        "record",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        script,
    ];
    let record = end(&mut scene.apart(NO_V2, command));
    assert_eq!(record.status.code(), Some(0), "{record:?}");
    assert_eq!(last_json(&record)["lost"], 0, "{record:?}");
    assert!(scene.shown("p", "data").is_some());
    // Nothing about how it ran was changed in the trees that have controllers.
    let v1 = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("0::"));
        lines.map(str::to_owned).collect()
    };
    let ours = v1(fs::read_to_string("/proc/self/cgroup").expect("groups"));
    let its = v1(fs::read_to_string(scene.path("groups")).expect("written"));
    assert!(!ours.is_empty());
    assert_eq!(its, ours);

    warms(&scene, NO_V2);
    let said = stderr(&runs(&scene, NO_V2));
    assert!(said.contains("recorded into profile p (2 runs)"), "{said}");
}

#[test]
fn with_version_1_only_one_who_may_not_mount_warms() {
    let Some(scene) = with_v1() else {
        return;
    };
    scene.file("data", MIB);
    scene.record("p", "cat data >/dev/null");
    let setup = format!("{NO_V2}; {NO_SYS_ADMIN}");
    let row = only_warms(&scene, &setup, "hierarchy");
    assert!(
        row["found"]
            .as_str()
            .expect("text")
            .starts_with("v1 only: "),
        "{row}"
    );
    warms(&scene, &setup);
    let said = stderr(&runs(&scene, &setup));
    assert!(said.contains("this run was not recorded"), "{said}");
    let said = refuses_to_record(&scene, &setup);
    assert!(said.contains("cgroup v2"), "{said}");
    assert_eq!(scene.runs("p"), 1);
}

#[test]
fn one_who_may_not_mount_records_by_the_tree_that_is_mounted() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    if !mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup2"))
    {
        eprintln!("SKIPPED: no control groups of version 2 are mounted here");
        return;
    }
    scene.file("data", MIB);
    let script = "cat data >/dev/null";
    let command = ["record", "--profile", "p", "--", "sh", "-c", script];
    let record = end(&mut scene.apart(NO_SYS_ADMIN, command));
    assert_eq!(record.status.code(), Some(0), "{record:?}");
    assert!(scene.shown("p", "data").is_some());
    let (status, _) = doctor(&scene, NO_SYS_ADMIN, "hierarchy");
    assert_eq!(status, Some(0));
}

#[test]
fn a_command_stays_below_the_cgroup_that_it_was_started_in() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let group = format!("started-{}", std::process::id());
    fs::create_dir(scene.path("tree")).expect("dir");
    let tree = "mount -t cgroup2 none tree";
    let setup = format!("{tree}; mkdir -p tree/{group}; echo $$ >tree/{group}/cgroup.procs");
    for subcommand in ["record", "run"] {
        let script = format!("{LASTS}cat /proc/self/cgroup >groups");
        let command = [subcommand, "--profile", "p", "--", "sh", "-c", &script];
        let output = end(&mut scene.apart(&setup, command));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let groups = fs::read_to_string(scene.path("groups")).expect("written");
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.expect("a cgroup of version 2");
        assert!(own.contains(&format!("/{group}/headstart-")), "{groups}");
    }
    assert_eq!(scene.runs("p"), 2);
    let mut said = String::new();
    until("the cgroup is empty", || {
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{tree}; rmdir tree/{group}"))
            .current_dir(scene.dir.path())
            .output()
            .expect("unshare");
        said = stderr(&output);
        assert!(!said.contains("No such file"), "{said}");
        output.status.success()
    });
}
