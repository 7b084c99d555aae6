//! The binary itself: what it prints and how it exits.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

fn headstart() -> Command {
    Command::cargo_bin("headstart").expect("the binary that cargo built for this test")
}

fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("text")
}

#[test]
fn version_names_the_program() {
    let text = stdout(headstart().arg("--version"));
    assert_eq!(text, format!("headstart {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_lists_every_command() {
    let text = stdout(headstart().arg("--help"));
    for command in [
        "record",
        "warm",
        "run",
        "compare",
        "observe",
        "profile",
        "status",
        "workloads",
        "explain",
        "notify",
        "top",
        "sysdump",
        "cleanup",
        "doctor",
        "completions",
        "man",
    ] {
        assert!(
            text.contains(&format!("\n  {command} ")),
            "{command} is not in:\n{text}"
        );
    }
}

#[test]
fn no_command_is_a_usage_error() {
    headstart().assert().failure().code(2);
}

#[test]
fn a_comparison_of_a_profile_that_is_there_records_nothing_to_be_traced() {
    let args = "compare --profile p --exact never -- true".split(' ');
    let output = headstart().args(args).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(
        said.contains("--exact") && said.contains("--profile") && said.contains("Usage:"),
        "{said}"
    );
}

#[test]
fn completions_name_the_commands_of_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(headstart().args(["completions", shell]));
        assert!(text.contains("headstart"), "{shell}");
        assert!(text.contains("doctor"), "{shell}");
    }
    headstart()
        .args(["completions", "abacus"])
        .assert()
        .failure()
        .code(2);
}

#[test]
fn man_pages_are_written_into_a_directory_that_is_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pages = dir.path().join("share/man1");
    headstart().arg("man").arg(&pages).assert().success();
    for page in [
        "headstart.1",
        "headstart-doctor.1",
        "headstart-profile-show.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).expect("a page");
        assert!(text.contains(".TH"), "{page}");
    }
}

/// Runs `doctor --json`; its object and exit status.
fn doctor(state_dir: &Path) -> (Value, i32) {
    let output = headstart()
        .args(["doctor", "--json", "--state-dir"])
        .arg(state_dir)
        .output()
        .expect("the binary runs");
    let report = serde_json::from_slice(&output.stdout).expect("one JSON object");
    (report, output.status.code().expect("no signal"))
}

#[test]
fn doctor_exits_as_its_verdict_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (report, code) = doctor(dir.path());
    let records = report["verdict"]["records"].as_bool().expect("a verdict");
    let warms = report["verdict"]["warms"].as_bool().expect("a verdict");
    let expected = match (records, warms) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    assert_eq!(code, expected);
    let checks = report["checks"].as_array().expect("rows");
    assert!(checks.len() > 20, "{} rows", checks.len());
    for row in checks {
        assert!(!row["name"].as_str().expect("a name").is_empty());
        assert!(
            !row["found"].as_str().expect("a finding").is_empty(),
            "{row}"
        );
        assert!(["ok", "degraded", "missing"].contains(&row["status"].as_str().expect("a status")));
    }
}

#[test]
fn doctor_does_not_make_the_state_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = dir.path().join("state");
    doctor(&state);
    assert!(!state.exists());
}

#[test]
fn doctor_can_do_neither_where_profiles_cannot_be_kept() {
    // Not even root may make a directory in /proc.
    let (report, code) = doctor(Path::new("/proc/headstart"));
    assert_eq!(code, 2, "{report}");
    assert_eq!(report["verdict"]["warms"], false);
}

#[test]
fn doctor_for_people_has_no_colour_in_a_pipe() {
    let output = headstart().arg("doctor").output().expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("type information"));
    assert!(!text.contains('\x1b'));
}

#[test]
fn doctor_tells_its_exit_status_in_its_help() {
    assert!(stdout(headstart().args(["doctor", "--help"])).contains("Exit status:"));
}
