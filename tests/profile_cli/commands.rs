//! What the commands print and keep.

use super::support::*;
use std::fs;

use headstart::profile::encode;
use serde_json::Value;

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
