//! State directories that are damaged, read-only, full, or used by many.

use std::fs;
use std::process::Output;

use crate::scene::{LASTS, Scene, end, last_json, stderr, stdout};

#[test]
fn a_damaged_store_is_set_aside_and_learning_starts_anew() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.record("p", "true");
    let file = scene.state().join("profiles.redb");
    fs::write(&file, b"nothing of ours").expect("written");
    let output = scene.run(&["record", "--profile", "p", "--", "sh", "-c", "exit 2"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("is damaged") && said.contains("is kept as"),
        "{said}"
    );
    assert!(said.contains("(1 run)"), "{said}");
    let kept = fs::read_dir(scene.state()).expect("dir").filter_map(|e| {
        let path = e.expect("entry").path();
        path.to_string_lossy()
            .contains("corrupt")
            .then(|| fs::read(path).expect("read"))
    });
    assert_eq!(kept.collect::<Vec<_>>(), [b"nothing of ours"]);
}

#[test]
fn a_read_only_state_directory_is_read_and_nothing_is_run_in_vain() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.record("p", "true");
    let read_only = "mount --bind state state && mount -o remount,ro,bind state";
    let record = end(&mut scene.apart(
        read_only,
        ["record", "--profile", "p", "--", "touch", "ran"],
    ));
    assert_eq!(record.status.code(), Some(1), "{record:?}");
    let said = stderr(&record);
    assert!(
        said.contains("nothing was run") && said.contains("--state-dir"),
        "{said}"
    );
    assert!(!scene.path("ran").exists());

    let run = end(&mut scene.apart(
        read_only,
        [
            "run",
            "--profile",
            "p",
            "--",
            "sh",
            "-c",
            "echo out; exit 5",
        ],
    ));
    assert_eq!((run.status.code(), &*stdout(&run)), (Some(5), "out\n"));
    assert!(stderr(&run).contains("this run is not kept"), "{run:?}");

    let warm = end(&mut scene.apart(read_only, ["warm", "p"]));
    assert_eq!(warm.status.code(), Some(0), "{warm:?}");
    let list = end(&mut scene.apart(read_only, ["profile", "ls"]));
    assert!(stdout(&list).contains("p "), "{list:?}");
    let doctor = end(&mut scene.apart(read_only, ["doctor"]));
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    assert_eq!(scene.runs("p"), 1);
}

/// Runs a shell script in mounts of its own, with the binary as `$0` and a
/// small file system in `state`.
fn with_small_disk(scene: &Scene, size: &str, script: &str) -> Output {
    fs::create_dir_all(scene.state()).expect("dir");
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!(
            "mount -t tmpfs -o size={size} none state; {script}"
        ))
        .arg(crate::scene::HEADSTART)
        .current_dir(scene.dir.path())
        .env_remove("HEADSTART_LOG");
    end(&mut command)
}

#[test]
fn a_full_state_directory_is_found_out_before_the_command_runs() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let script = "exec \"$0\" --state-dir state record --profile p -- touch ran";
    let output = with_small_disk(&scene, "16k", script);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("nothing was run") && said.contains("make room"),
        "{said}"
    );
    assert!(!scene.path("ran").exists());
    let script = "exec \"$0\" --state-dir state run --profile p -- sh -c 'echo out; exit 5'";
    let output = with_small_disk(&scene, "16k", script);
    assert_eq!(
        (output.status.code(), &*stdout(&output)),
        (Some(5), "out\n"),
        "{output:?}"
    );
    assert!(
        stderr(&output).contains("this run is not kept"),
        "{output:?}"
    );
}

#[test]
fn a_disk_that_fills_up_meanwhile_costs_this_run_alone() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    fs::create_dir(scene.path("many")).expect("dir");
    for i in 0..3000 {
        // Names that do not compress into nothing.
        let name = format!("many/{:x}", (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        fs::write(scene.path(&name), "x").expect("written");
    }
    let script = "\"$0\" --state-dir state record --profile p -- true 2>/dev/null; \
        r() { code=0; \"$0\" --state-dir state record --profile p -- \
              sh -c \"cat many/* state/profiles.redb >/dev/null; \
                      dd if=/dev/zero of=state/fill bs=4k 2>/dev/null; exit $1\" >&2 || code=$?; \
              echo $code; rm -f state/fill; }; \
        r 0; r 9; \
        \"$0\" --state-dir state --json profile show p";
    let output = with_small_disk(&scene, "8m", script);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    let (codes, shown) = text.split_at(text.find('{').expect("JSON"));
    let said = stderr(&output);
    assert_eq!(
        codes, "1\n9\n",
        "a recording that is lost shows, a failure goes before: {said}"
    );
    assert!(
        said.contains("not kept") && said.contains("make room"),
        "{said}"
    );
    let shown: serde_json::Value = serde_json::from_str(shown).expect("JSON");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{shown}");
}

#[test]
fn many_commands_share_a_store() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 1 << 20);
    scene.record("p", "cat data >/dev/null");
    let recording = ["--json", "record", "--profile", "p", "--", "cat", "data"];
    let script = format!("{LASTS}cat data");
    let running = ["--json", "run", "--profile", "p", "--", "sh", "-c", &script];
    let warming = ["--json", "warm", "p"];
    let children: Vec<_> = [
        &recording[..],
        &warming,
        &running,
        &recording,
        &warming,
        &running,
    ]
    .iter()
    .map(|args| scene.headstart(*args).spawn().expect("starts"))
    .collect();
    // Each reads its output to the end: none can block on a full pipe for ever.
    for child in children {
        let output = child.wait_with_output().expect("ends");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(scene.runs("p"), 5);
    assert!(scene.shown("p", "data").is_some());
    let again = scene.run(&["--json", "record", "--profile", "p", "--", "true"]);
    assert_eq!(last_json(&again)["runs"], 6);
}

#[test]
fn a_state_directory_that_is_a_file_is_refused() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    fs::write(scene.state(), "a file").expect("written");
    for args in [
        &["record", "--profile", "p", "--", "touch", "ran"][..],
        &["warm", "p"],
    ] {
        let output = scene.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        let said = stderr(&output);
        assert!(
            said.contains("/state") && said.contains("--state-dir"),
            "{args:?}: {said}"
        );
    }
    assert!(!scene.path("ran").exists());
    assert_eq!(fs::read(scene.state()).expect("still there"), b"a file");
}
