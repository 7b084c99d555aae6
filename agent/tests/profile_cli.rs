//! `headstart profile` as people use it: the binary, files, exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use assert_cmd::assert::Assert;
use headstart::model::{
    Certainty, FileTouches, FileVersion, NameKind, NameTouch, PageTouch, Profile, RelPath, RunInfo,
    Trace, Volume, VolumeId,
};
use headstart::profile::{encode, from_trace};
use serde_json::Value;

struct State {
    dir: tempfile::TempDir,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        State { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("profile")
            .args(args)
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Assert {
        assert_cmd::Command::from_std(self.command(args)).assert()
    }

    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let output = self.run(&args).success();
        serde_json::from_slice(&output.get_output().stdout).expect("JSON")
    }

    /// Standard error of a command that must fail; checks that it is fit to print.
    fn error(&self, args: &[&str]) -> String {
        let output = self.run(args).failure().code(1);
        let text = String::from_utf8(output.get_output().stderr.clone()).expect("UTF-8");
        assert!(
            text.starts_with("headstart: ") && text.ends_with('\n'),
            "{text}"
        );
        assert_printable(&text);
        text
    }

    fn import(&self, name: &str, profile: &Profile) {
        fs::write(self.path("in"), encode(name, profile)).expect("write");
        self.run(&["import", "in"]).success();
    }
}

fn assert_printable(text: &str) {
    let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(bad), "{text:?}");
}

fn text(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).expect("UTF-8")
}

/// The output with each run of blanks as one.
fn squeezed(assert: &Assert) -> String {
    let text = text(assert);
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// A run of `id` that read `pages` pages of each of `paths`.
fn profile(id: u64, paths: &[&[u8]], pages: u32) -> Profile {
    let path = |bytes: &[u8]| RelPath::new(bytes).expect("valid");
    let trace = Trace {
        volumes: vec![Volume {
            id: VolumeId("uuid:1234".to_owned()),
            fs_type: "ext4".to_owned(),
            mount_point: b"/mnt/data".to_vec(),
        }],
        files: paths
            .iter()
            .map(|bytes| FileTouches {
                volume: 0,
                path: path(bytes),
                version: FileVersion {
                    size: 100 * 4096,
                    mtime_ns: 1,
                },
                touches: vec![
                    PageTouch {
                        start_page: 0,
                        pages,
                        certainty: Certainty::Certain,
                        first_use_ns: 5_000_000,
                    },
                    PageTouch {
                        start_page: 50,
                        pages: 2,
                        certainty: Certainty::Maybe,
                        first_use_ns: 1_000_000,
                    },
                ],
            })
            .collect(),
        names: paths
            .iter()
            .map(|bytes| NameTouch {
                volume: 0,
                path: path(bytes),
                kind: NameKind::File,
                listed: false,
                first_use_ns: 0,
            })
            .collect(),
        ..Trace::default()
    };
    let run = RunInfo {
        started_ms: 1_700_000_000_000 + id,
        id,
        duration_ns: 2_000_000_000,
    };
    from_trace(&trace, run)
}

#[test]
fn nothing_is_there_and_nothing_is_made() {
    let state = State::new();
    let ls = state.run(&["ls"]).success();
    assert!(text(&ls).contains("no profiles in") && text(&ls).contains("headstart record"));
    assert_eq!(state.json(&["ls"])["profiles"], Value::Array(Vec::new()));
    for args in [
        &["show", "web"][..],
        &["rm", "web"],
        &["export", "web", "out"],
        &["diff", "web", "web"],
    ] {
        let error = state.error(args);
        assert!(
            error.contains("no profile `web` in") && error.contains("headstart record"),
            "{error}"
        );
    }
    assert!(!state.path("state").exists() && !state.path("out").exists());
}

#[test]
fn a_profile_travels_and_comes_back_the_same() {
    let state = State::new();
    state.import("web", &profile(1, &[b"lib/a.so", b"bin/b"], 10));
    let ls = text(&state.run(&["ls"]).success());
    let lines: Vec<&str> = ls.lines().collect();
    assert!(lines[0].starts_with("NAME  RUNS  FILES"), "{ls}");
    assert!(lines[1].starts_with("web      1      2  96.0 KiB"), "{ls}");
    assert!(
        lines[1].ends_with("just now") || lines[1].ends_with("ago"),
        "{ls}"
    );

    state.run(&["export", "web", "out"]).success();
    assert_eq!(
        fs::read(state.path("out")).expect("read"),
        fs::read(state.path("in")).expect("read")
    );
    let piped = state.run(&["export", "web", "-"]).success();
    assert_eq!(
        piped.get_output().stdout,
        fs::read(state.path("in")).expect("read")
    );
    // Exporting again replaces the file and leaves nothing beside it.
    state.run(&["export", "web", "out"]).success();
    let mut left: Vec<_> = fs::read_dir(state.dir.path())
        .expect("dir")
        .map(|e| e.expect("entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["in", "out", "state"]);

    let import = text(&state.run(&["import", "out"]).success());
    assert!(
        import.contains("imported profile `web`: 1 run, 2 files"),
        "{import}"
    );
    state.run(&["import", "out", "--as", "größe/2"]).success();
    let mut stdin = assert_cmd::Command::from_std(state.command(&["import", "-", "--as", "third"]));
    stdin
        .write_stdin(fs::read(state.path("out")).expect("read"))
        .assert()
        .success();
    let listed = state.json(&["ls"]);
    let names: Vec<&str> = listed["profiles"]
        .as_array()
        .expect("array")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert_eq!(names, ["größe/2", "third", "web"]);
    assert_eq!(listed["profiles"][2]["data_bytes"], 24 * 4096);
    assert_eq!(listed["profiles"][2]["extents"], 4);

    state.run(&["rm", "third"]).success();
    assert!(
        state
            .error(&["rm", "third"])
            .contains("there are: `web`, `größe/2`")
    );
}

#[test]
fn show_adds_up_and_orders_by_first_use() {
    let state = State::new();
    state.import("web", &profile(1, &[b"lib/a.so", b"lib/b.so", b"c"], 10));
    let shown = squeezed(&state.run(&["show", "web"]).success());
    for part in [
        "data 144.0 KiB: 120.0 KiB certain, 24.0 KiB maybe",
        "files 3, in 6 extents",
        "names 3: 3 files, 0 directories (0 listed), 0 links, 0 missing",
        "uuid:1234 ext4 /mnt/data 144.0 KiB",
        "96.0 KiB /mnt/data/lib",
        "40.0 KiB 8.0 KiB 2 1.0 ms /mnt/data/lib/a.so",
    ] {
        assert!(shown.contains(part), "`{part}` is not in\n{shown}");
    }
    assert!(!shown.contains("OFFSET"));
    let all = squeezed(&state.run(&["show", "web", "-v"]).success());
    let maybe = all
        .find("1.0 ms 204800 8.0 KiB 0 of 1 1 of 1")
        .expect("the maybe extent");
    let certain = all
        .find("5.0 ms 0 40.0 KiB 1 of 1 1 of 1")
        .expect("the certain extent");
    assert!(maybe < certain, "{all}");

    let json = state.json(&["show", "web", "-v"]);
    assert_eq!(json["totals"]["certain_bytes"], 120 * 1024);
    assert_eq!(json["runs"][0]["id"], "0000000000000001");
    assert_eq!(json["files"][0]["extents"][0]["offset_bytes"], 50 * 4096);
    assert_eq!(json["files"][0]["mtime_ns"], 1);
    assert!(
        state.json(&["show", "web"])["files"][0]
            .get("extents")
            .is_none()
    );
}

#[test]
fn merge_and_diff() {
    let state = State::new();
    state.import("one", &profile(1, &[b"a", b"b"], 10));
    state.import("two", &profile(2, &[b"b", b"c"], 4));
    let diff = squeezed(&state.run(&["diff", "one", "two"]).success());
    for part in [
        "only in one 72.0 KiB 1 1",
        "only in two 24.0 KiB 1 1",
        "in both 24.0 KiB 1 1",
        "but different 1 0",
    ] {
        assert!(diff.contains(part), "`{part}` is not in\n{diff}");
    }
    let json = state.json(&["diff", "one", "two"]);
    assert_eq!(json["left_bytes"], 72 * 1024);
    assert_eq!(json["files"][0]["path"], "/mnt/data/a");
    assert_eq!(json["names"][1]["right"], "file");

    assert!(
        state
            .error(&["merge", "all", "one", "tow"])
            .contains("no profile `tow`")
    );
    let merged = text(&state.run(&["merge", "all", "one", "two"]).success());
    assert!(
        merged.contains("profile `all` now has 2 runs and 3 files"),
        "{merged}"
    );
    // Merging what is in changes nothing.
    let before = state.json(&["show", "all", "-v"]);
    state.run(&["merge", "all", "two", "all"]).success();
    assert_eq!(state.json(&["show", "all", "-v"]), before);
    let import = text(&{
        fs::write(state.path("in"), encode("all", &profile(3, &[b"d"], 1))).expect("write");
        state.run(&["import", "in"]).success()
    });
    assert!(
        import.contains("merged 1 run of 1 file into profile `all`, which now has 3 runs"),
        "{import}"
    );
}

#[test]
fn bad_files_say_what_they_are() {
    let state = State::new();
    let good = encode("web", &profile(1, &[b"a"], 1));
    let case = |bytes: &[u8], expect: &str| {
        fs::write(state.path("bad\x1b[2J"), bytes).expect("write");
        let error = state.error(&["import", "bad\x1b[2J"]);
        assert!(error.contains(expect), "{error}");
        assert!(error.contains("bad\\x1b[2J: "), "{error}");
    };
    case(b"", "cut short");
    case(b"\x7fELF", "not a headstart profile");
    case(&good[..20], "cut short: 20 bytes");
    case(&good[..good.len() - 1], "checksum mismatch");
    let mut newer = good.clone();
    newer[8] = 7;
    case(
        &newer,
        "format version 7, and this build reads up to 1: upgrade",
    );
    assert!(
        state
            .error(&["import", "nothing"])
            .contains("reading nothing: No such file")
    );
    assert!(
        state
            .error(&["import", "/dev/zero"])
            .contains("not a headstart profile")
    );
    assert!(
        state
            .error(&["import", "."])
            .contains("reading .: Is a directory")
    );
    assert!(
        !state.path("state").exists(),
        "a failed import makes no store"
    );
    fs::write(state.path("in"), &good).expect("write");
    assert!(
        state
            .error(&["import", "in", "--as", "a\x1bb"])
            .contains("invisible character U+001B")
    );
}

#[test]
fn nothing_of_a_profile_reaches_the_terminal_as_it_is() {
    let state = State::new();
    let odd: &[u8] = b"a\x1b]0;title\x07\n\xff\xe2\x80\xae";
    state.import("one", &profile(1, &[odd], 3));
    state.import("two", &profile(2, &[b"b"], 3));
    for args in [
        &["ls"][..],
        &["show", "one"],
        &["show", "one", "-v"],
        &["diff", "one", "two"],
    ] {
        let human = text(&state.run(args).success());
        assert_printable(&human);
        let json: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        assert_printable(&text(&state.run(&json).success()));
    }
    let json = state.json(&["show", "one"]);
    assert_eq!(
        json["files"][0]["path"],
        "a\\x1b]0;title\\x07\\x0a\\xff\\u{202e}"
    );

    let mut named = encode("evil", &profile(1, &[b"a"], 1));
    fs::write(state.path("in"), &named).expect("write");
    assert!(state.error(&["show", "no\x1b[31m"]).contains("no\\x1b[31m"));
    // A name in the file that no command would take.
    named = encode("\x1b[31mred", &profile(1, &[b"a"], 1));
    fs::write(state.path("in"), &named).expect("write");
    let error = state.error(&["import", "in"]);
    assert!(
        error.contains("\\x1b[31mred") && error.contains("--as"),
        "{error}"
    );
}

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

fn shown(path: &Path) -> String {
    path.display().to_string()
}
