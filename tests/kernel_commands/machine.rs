//! Machines that lack something, made by hiding it.

use crate::scene::{Scene, end, json, last_json, stderr, stdout};

const NO_BTF: &str = "mount -t tmpfs none /sys/kernel/btf";
const NO_TRACEFS: &str = "for at in $(awk '$3 ~ /^(tracefs|debugfs)$/ {print $2}' /proc/mounts); \
                          do mount -t tmpfs none \"$at\"; done";
const NO_CGROUP_MOUNT: &str = "umount -l /sys/fs/cgroup/unified || umount -l /sys/fs/cgroup";

#[test]
fn without_type_information_nothing_is_recorded_and_the_rest_works() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.record("p", "true");
    let record = end(&mut scene.apart(NO_BTF, ["record", "--profile", "p", "--", "touch", "ran"]));
    assert_eq!(record.status.code(), Some(1), "{record:?}");
    let said = stderr(&record);
    assert!(said.contains("/sys/kernel/btf/vmlinux"), "{said}");
    assert!(
        said.contains("CONFIG_DEBUG_INFO_BTF") && said.contains("nothing was run"),
        "{said}"
    );
    assert!(!scene.path("ran").exists());

    let run = end(&mut scene.apart(
        NO_BTF,
        [
            "run",
            "--profile",
            "p",
            "--",
            "sh",
            "-c",
            "echo out; exit 4",
        ],
    ));
    assert_eq!(
        (run.status.code(), &*stdout(&run)),
        (Some(4), "out\n"),
        "{run:?}"
    );
    assert!(stderr(&run).contains("CONFIG_DEBUG_INFO_BTF"), "{run:?}");
    assert_eq!(scene.runs("p"), 1);

    let warm = end(&mut scene.apart(NO_BTF, ["warm", "p"]));
    assert_eq!(warm.status.code(), Some(0), "{warm:?}");

    let doctor = end(&mut scene.apart(NO_BTF, ["doctor", "--json"]));
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let said = json(&doctor);
    let rows = said["checks"].as_array().expect("rows");
    let row = rows
        .iter()
        .find(|r| r["name"] == "type information")
        .expect("a row");
    assert_eq!(row["status"], "missing", "{row}");
    assert!(
        row["fix"]
            .as_str()
            .expect("text")
            .contains("CONFIG_DEBUG_INFO_BTF"),
        "{row}"
    );
}

#[test]
fn tracefs_is_not_needed() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 4096);
    let record = end(&mut scene.apart(
        NO_TRACEFS,
        [
            "--json",
            "record",
            "--profile",
            "p",
            "--",
            "sh",
            "-c",
            "cat data >/dev/null",
        ],
    ));
    assert_eq!(record.status.code(), Some(0), "{record:?}");
    assert!(last_json(&record)["names"].as_u64() > Some(0), "{record:?}");
    assert!(scene.shown("p", "data").is_some());
    let with = json(&scene.run(&["--json", "doctor", "--hooks"]));
    let without = json(&end(
        &mut scene.apart(NO_TRACEFS, ["--json", "doctor", "--hooks"])
    ));
    assert_eq!(with["verdict"], without["verdict"]);
}

#[test]
fn the_cgroup_tree_need_not_be_mounted() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 4096);
    let record = end(&mut scene.apart(
        NO_CGROUP_MOUNT,
        [
            "record",
            "--profile",
            "p",
            "--",
            "sh",
            "-c",
            "cat data >/dev/null",
        ],
    ));
    assert_eq!(record.status.code(), Some(0), "{record:?}");
    assert!(scene.shown("p", "data").is_some());
    let doctor = json(&end(&mut scene.apart(NO_CGROUP_MOUNT, ["--json", "doctor"])));
    assert_eq!(doctor["verdict"]["records"], true, "{doctor}");
}

#[test]
fn a_cgroup_that_a_daemon_kept_goes_once_it_is_empty() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let left = || {
        let output = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg("mount -t cgroup2 none /mnt; ls -d /mnt/headstart-* 2>/dev/null || true")
            .output()
            .expect("unshare");
        stdout(&output)
            .lines()
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let before = left();
    let script = "setsid sh -c 'echo $$ >pid; exec sleep 1000' <&- >&- 2>&- & \
                  while ! test -s pid; do sleep 0.01; done";
    scene.record("p", script);
    let kept: Vec<_> = left().difference(&before).cloned().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let pid = std::fs::read_to_string(scene.path("pid")).expect("written");
    crate::tools::send(pid.trim().parse().expect("a number"), libc::SIGKILL);
    crate::tools::until("it is removed by a later command", || {
        scene.record("p", "true");
        !left().contains(&kept[0])
    });
}

#[test]
fn observing_sees_what_others_read() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 1 << 20);
    let child = scene
        .headstart(["--json", "observe", "--for", "2s"])
        .spawn()
        .expect("starts");
    let mut reader = std::process::Command::new("sh")
        .args(["-c", "while :; do cat data >/dev/null; sleep 0.05; done"])
        .current_dir(scene.dir.path())
        .spawn()
        .expect("starts");
    let output = child.wait_with_output().expect("ends");
    reader.kill().expect("it goes on until then");
    reader.wait().expect("ended");
    assert!(output.status.success(), "{output:?}");
    let said = json(&output);
    assert!(said["cgroups"].as_u64() > Some(0), "{said}");
    assert!(said["bytes_touched"].as_u64() >= Some(1 << 20), "{said}");
    assert!(said["files"].as_u64() > Some(0), "{said}");
}
