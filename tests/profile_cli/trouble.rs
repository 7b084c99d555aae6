//! Damage, full disks, many at once.

use super::support::*;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use headstart::profile::encode;

#[test]
fn a_damaged_store_is_set_aside() {
    let state = State::new();
    state.import("web", &profile(1, &[b"a"], 1));
    let file = state.path("state/profiles.redb");
    fs::write(&file, b"not a database at all").expect("write");
    let ls = state.run(&["ls"]).success();
    let warning = String::from_utf8_lossy(&ls.get_output().stderr).into_owned();
    assert!(
        warning.contains("is damaged") && warning.contains("profiles.redb.corrupt-"),
        "{warning}"
    );
    assert!(text(&ls).contains("no profiles"));
    state.import("web", &profile(2, &[b"a"], 1));
    let quiet = state.run(&["ls"]).success();
    assert!(quiet.get_output().stderr.is_empty());
    let kept = fs::read_dir(state.path("state"))
        .expect("dir")
        .filter_map(|e| {
            let path = e.expect("entry").path();
            path.to_string_lossy()
                .contains("corrupt")
                .then(|| fs::read(path).expect("read"))
        });
    assert_eq!(kept.collect::<Vec<_>>(), [b"not a database at all"]);
}

#[test]
fn a_state_directory_that_can_not_be() {
    let state = State::new();
    fs::write(state.path("in"), encode("web", &profile(1, &[b"a"], 1))).expect("write");
    fs::write(state.path("state"), b"a file").expect("write");
    for args in [&["import", "in"][..], &["ls"]] {
        let error = state.error(args);
        assert!(
            error.contains("/state") && error.contains("--state-dir"),
            "{error}"
        );
        assert_eq!(
            error.matches("os error").count(),
            1,
            "the cause is said once: {error}"
        );
    }
    // Not even root may write here.
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command
        .args(["--state-dir", "/proc/headstart", "profile", "import"])
        .arg(state.path("in"));
    let output = assert_cmd::Command::from_std(command).assert().failure();
    let error = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(
        error.contains("creating the state directory /proc/headstart"),
        "{error}"
    );
    assert!(state.error(&["export", "web", "in"]).contains("/state"));
}

#[test]
fn many_commands_at_once_lose_nothing() {
    let state = State::new();
    let children: Vec<_> = (0..12)
        .map(|id| {
            let file = format!("in{id}");
            fs::write(state.path(&file), encode("web", &profile(id, &[b"a"], 1))).expect("write");
            let import = state
                .command(&["import", &file])
                .stdout(Stdio::null())
                .spawn();
            let ls = state.command(&["ls"]).stdout(Stdio::null()).spawn();
            [import.expect("starts"), ls.expect("starts")]
        })
        .collect();
    for mut child in children.into_iter().flatten() {
        assert!(child.wait().expect("ends").success());
    }
    assert_eq!(
        state.json(&["show", "web"])["runs"]
            .as_array()
            .map(Vec::len),
        Some(12)
    );
}

#[test]
fn killed_at_any_moment_it_can_be_used_again() {
    let state = State::new();
    state.import("web", &profile(1, &[b"a"], 1));
    let mut killed = 0;
    for id in 2..26_u64 {
        fs::write(state.path("in"), encode("web", &profile(id, &[b"a"], 1))).expect("write");
        let mut child = state
            .command(&["import", "in"])
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(Duration::from_micros(500 * id));
        killed += u32::from(child.kill().is_ok());
        child.wait().expect("ends");
        // Whoever reads next finds the last commit, and nothing was set aside.
        let show = state.run(&["show", "web"]).success();
        assert!(show.get_output().stderr.is_empty(), "{show}");
    }
    assert!(killed > 0);
    state.import("web", &profile(99, &[b"a"], 1));
    let files = fs::read_dir(state.path("state"))
        .expect("dir")
        .map(|e| e.expect("entry").file_name());
    assert_eq!(files.collect::<Vec<_>>(), ["profiles.redb"]);
}

/// A limit on file sizes stands in for a full disk: writing fails in the middle.
#[test]
fn a_write_that_fails_changes_nothing() {
    let state = State::new();
    let paths: Vec<String> = (0..20_000)
        .map(|i| format!("{:x}/{i}", i * 7_919_u64))
        .collect();
    let paths: Vec<&[u8]> = paths.iter().map(|p| p.as_bytes()).collect();
    state.import("web", &profile(1, &[b"a"], 1));
    fs::write(state.path("in"), encode("large", &profile(1, &paths, 1))).expect("write");
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_headstart"))
        .arg("--state-dir")
        .arg(state.path("state"))
        .args(["profile", "import"])
        .arg(state.path("in"));
    let failed = assert_cmd::Command::from_std(limited)
        .assert()
        .failure()
        .code(1);
    let error = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
    assert!(error.contains("profiles.redb: File too large"), "{error}");
    assert!(!error.contains("panicked"), "{error}");

    let listed = state.json(&["ls"]);
    assert_eq!(listed["profiles"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["profiles"][0]["name"], "web");
    state.run(&["import", "in"]).success();
    state.run(&["show", "large"]).success();
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let state = State::new();
    let paths: Vec<String> = (0..5_000).map(|i| format!("directory/file-{i}")).collect();
    let paths: Vec<&[u8]> = paths.iter().map(|p| p.as_bytes()).collect();
    state.import("web", &profile(1, &paths, 1));
    let mut child = state
        .command(&["show", "web", "-v"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_configuration_names_the_state_directory() {
    let state = State::new();
    let config = state.path("config.toml");
    let run = |text: &str| {
        fs::write(&config, text).expect("write");
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command.arg("--config").arg(&config).args(["profile", "ls"]);
        assert_cmd::Command::from_std(command).assert()
    };
    let elsewhere = state.path("elsewhere");
    let good = run(&format!(
        "state_dir = {:?}\n",
        elsewhere.display().to_string()
    ));
    assert!(text(&good.success()).contains(&shown(&elsewhere)));
    let bad = run("state_dri = \"/x\"\n").failure();
    let error = String::from_utf8_lossy(&bad.get_output().stderr).into_owned();
    assert!(
        error.contains("config.toml, line 1: unknown field `state_dri`"),
        "{error}"
    );
}
