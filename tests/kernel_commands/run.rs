//! `headstart run`: nothing of ours keeps a command from running.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::scene::{HEADSTART, LASTS, MIB, Scene, end, last_json, stderr, stdout};

#[test]
fn it_warms_beside_the_command_and_tells_what_came_of_it() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 8 * MIB);
    scene.record("p", "cat data >/dev/null");
    crate::scene::evict(&scene.path("data"));
    let output = scene.run(&[
        "run",
        "--json",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        &format!("{LASTS}cat data | wc -c; exit 3"),
    ]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        stdout(&output).starts_with(&format!("{}\n", 8 * MIB)),
        "{output:?}"
    );
    let said = last_json(&output);
    assert_eq!(
        (&said["known"], &said["exit_status"]),
        (&true.into(), &3.into())
    );
    let feedback = |key: &str| {
        said["feedback"][key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key}: {said}"))
    };
    assert_eq!(
        feedback("planned_bytes"),
        feedback("used_bytes")
            + feedback("late_bytes")
            + feedback("wasted_bytes")
            + feedback("not_read_bytes")
            + feedback("unknown_bytes"),
        "{said}"
    );
    assert!(feedback("planned_bytes") >= 8 * MIB as u64, "{said}");
    assert_eq!(said["recording"]["runs"], 2);
    assert_eq!(scene.runs("p"), 2);

    let command = format!("{LASTS}cat data");
    let text = scene.run(&["run", "--profile", "p", "--", "sh", "-c", &command]);
    let said = stderr(&text);
    for word in ["used", "late", "wasted", "recorded into profile p (3 runs)"] {
        assert!(said.contains(word), "no `{word}` in {said}");
    }
}

#[test]
fn without_a_profile_it_runs_and_records() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", MIB);
    let output = scene.run(&[
        "run",
        "--profile",
        "new",
        "--",
        "sh",
        "-c",
        &format!("{LASTS}wc -c <data; exit 4"),
    ]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(stdout(&output), format!("{MIB}\n"));
    let said = stderr(&output);
    assert!(
        said.contains("nothing was warmed") && said.contains("(1 run)"),
        "{said}"
    );
    assert_eq!(scene.runs("new"), 1);
}

#[test]
fn what_it_came_too_late_to_see_it_neither_learns_nor_unlearns() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for name in ["early", "late"] {
        scene.file(name, MIB);
    }
    scene.record("p", "cat early late >/dev/null");
    let script = format!("cat early; {LASTS}cat late");
    for _ in 0..3 {
        let output = scene.run(&["run", "--profile", "p", "--", "sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let over = scene.run(&["run", "--profile", "p", "--", "true"]);
    let said = stderr(&over);
    let nothing = said.contains("nothing of this run is kept");
    assert_eq!(scene.runs("p"), if nothing { 4 } else { 5 }, "{said}");
    scene.run(&["profile", "export", "p", "exported"]);
    let bytes = fs::read(scene.path("exported")).expect("exported");
    let (_, profile) = headstart::profile::decode(&bytes).expect("a profile");
    assert_eq!(profile.runs[0].blind_ns, 0);
    assert!(profile.runs[1..].iter().all(|run| run.blind_ns > 0));
    let certain = |name: &str| {
        let mut files = profile.files.iter();
        let file = files.find(|file| file.path.as_bytes().ends_with(name.as_bytes()));
        let extents = file.map(|file| file.extents.as_slice()).unwrap_or_default();
        extents.iter().fold(0, |runs, extent| runs | extent.certain)
    };
    assert_eq!(certain("/early"), 0b0001, "as it was");
    assert_eq!(certain("/late"), 0b1111);
    // As sure as before.
    let warm = scene.run(&["warm", "p", "--json"]);
    let planned = crate::scene::json(&warm)["bytes_planned"].as_u64();
    assert!(planned >= Some(2 * MIB as u64), "{warm:?}");
}

/// `headstart …` as a user who may do nothing.
fn as_nobody(scene: &Scene, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--no-new-privs",
            "--",
        ])
        .arg(HEADSTART)
        .arg("--state-dir")
        .arg(scene.state())
        .args(args)
        .current_dir("/");
    end(&mut command)
}

/// Whether anyone may go into the directories above.
fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .all(|p| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

#[test]
fn without_privileges_the_command_runs_all_the_same() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    if !open_to_all(Path::new(HEADSTART)) {
        eprintln!("SKIPPED: {HEADSTART} is not open to other users");
        return;
    }
    scene.record("p", "true");
    fs::set_permissions(scene.dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    // The state directory is its owner's alone, then it can be read, then written.
    for (mode, profile) in [(0o700, "p"), (0o755, "p"), (0o777, "new")] {
        fs::set_permissions(scene.state(), fs::Permissions::from_mode(mode)).expect("mode");
        let script = "echo out; echo err >&2; exit 6";
        let output = as_nobody(
            &scene,
            &["run", "--profile", profile, "--", "sh", "-c", script],
        );
        assert_eq!(output.status.code(), Some(6), "{mode:o}: {output:?}");
        assert_eq!(stdout(&output), "out\n");
        let said = stderr(&output);
        assert!(
            said.contains("err\n") && said.contains("WARN"),
            "{mode:o}: {said}"
        );
        assert!(said.contains("root"), "{mode:o}: {said}");
    }
    assert_eq!(scene.runs("p"), 1);
    // Recording is all that `record` is for: it says why not and runs nothing.
    let output = as_nobody(&scene, &["record", "--profile", "new", "--", "echo", "ran"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(stdout(&output), "");
    let said = stderr(&output);
    assert!(
        said.contains("nothing was run") && said.contains("root"),
        "{said}"
    );
    // And the machine's doctor says which of the two this user can do.
    let output = as_nobody(&scene, &["doctor", "--hooks", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let doctor = crate::scene::json(&output);
    assert_eq!(doctor["verdict"]["records"], false);
}

#[test]
fn with_an_unusable_store_or_configuration_the_command_runs_all_the_same() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    fs::write(scene.state(), "a file").expect("written");
    let output = scene.run(&[
        "run",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        "echo out; exit 8",
    ]);
    assert_eq!(
        (output.status.code(), &*stdout(&output)),
        (Some(8), "out\n")
    );
    let said = stderr(&output);
    assert!(
        said.contains("WARN") && said.contains("--state-dir"),
        "{said}"
    );

    fs::remove_file(scene.state()).expect("removed");
    fs::write(scene.path("bad.toml"), "budget = \"lots\"\n").expect("written");
    let output = scene.run(&[
        "run",
        "--config",
        "bad.toml",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        "echo out; exit 8",
    ]);
    assert_eq!(
        (output.status.code(), &*stdout(&output)),
        (Some(8), "out\n")
    );
    let said = stderr(&output);
    assert!(
        said.contains("bad.toml, line 1") && said.contains("budget"),
        "{said}"
    );
    assert!(
        !scene.state().exists(),
        "a state directory that nobody asked for"
    );
}
