//! `headstart record`: it is to the command what a shell would be.

use std::fs;
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::scene::{HEADSTART, MIB, Scene, end, json, last_json, stages_add_up, stderr, stdout};
use crate::tools::{ended, line_with, send, state, until};

#[test]
fn it_ends_as_the_command_does() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let cases = [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 128 + 9),
        ("kill -TERM $$", 128 + 15),
    ];
    for (script, status) in cases {
        let output = scene.run(&[
            "--json",
            "record",
            "--profile",
            "p",
            "--",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(output.status.code(), Some(status), "{script}: {output:?}");
        assert_eq!(last_json(&output)["exit_status"], status, "{script}");
    }
    assert_eq!(scene.runs("p"), cases.len(), "failed runs are runs too");
}

#[test]
fn a_command_that_can_not_be_started_says_so_as_in_a_shell() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let plain = scene.file("plain", 10);
    let broken = scene.script("broken", "#!/nonexistent/interpreter\n");
    let plain = plain.display().to_string();
    let broken = broken.display().to_string();
    let cases = [
        ("no-such-command-anywhere", 127, "PATH"),
        ("/nonexistent/command", 127, "check the path"),
        (broken.as_str(), 127, "interpreter"),
        (plain.as_str(), 126, "chmod +x"),
        ("/", 126, "executable"),
    ];
    for subcommand in ["record", "run"] {
        for (command, status, advice) in cases {
            let output = scene.run(&[subcommand, "--profile", "p", "--", command]);
            let said = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(status),
                "{subcommand} {command}: {said}"
            );
            assert!(said.contains(command) && said.contains(advice), "{said}");
        }
    }
    let compare = scene.run(&["compare", "--rounds", "1", "--", "no-such-command-anywhere"]);
    assert_eq!(compare.status.code(), Some(127), "{compare:?}");
    for subcommand in ["record", "run"] {
        for args in [
            &["--profile", "p"][..],
            &["--profile", "p", "--"],
            &["--", "true"],
        ] {
            let output = scene.run(&[&[subcommand][..], args].concat());
            assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        }
    }
}

#[test]
fn input_and_output_pass_through_byte_for_byte() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 % 256) as u8).collect();
    let sent = bytes.clone();
    let script = "cat; printf '\\377\\000err' >&2";
    for subcommand in ["record", "run"] {
        let mut child = scene
            .headstart([subcommand, "--profile", "p", "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        let sent = sent.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let output = child.wait_with_output().expect("ends");
        writer.join().expect("no panic").expect("all taken");
        assert!(output.status.success(), "{subcommand}");
        assert!(
            output.stdout == bytes,
            "{subcommand}: standard output was changed"
        );
        assert!(
            output.stderr.starts_with(b"\xff\0err"),
            "{:?}",
            output.stderr
        );
    }
    // For programs there is one line more, and nothing else on standard error.
    let output = scene.run(&[
        "record",
        "--json",
        "--profile",
        "p",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ]);
    assert_eq!(stderr(&output), "err\n");
    let text = stdout(&output);
    assert_eq!(text.lines().next(), Some("out"));
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn it_tells_what_was_used() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 3 * MIB);
    let said = scene.record(
        "p",
        "cat data >/dev/null; test -e nothing-here; ls >/dev/null",
    );
    let number = |key: &str| {
        said[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key}: {said}"))
    };
    assert_eq!((said["profile"].as_str(), number("runs")), (Some("p"), 1));
    assert!(number("files") >= 3, "sh, cat, libc, data: {said}");
    assert!(number("bytes_used") >= 3 * MIB as u64, "{said}");
    assert_eq!(number("bytes_used"), number("bytes_certain"));
    assert!(number("extents") >= number("files"), "{said}");
    assert!(number("names") > number("names_missing"), "{said}");
    assert!(
        number("names_missing") >= 1 && number("directories_listed") >= 1,
        "{said}"
    );
    assert_eq!(number("lost"), 0, "{said}");
    stages_add_up(&said);
    let sent = &said["stages"]["ring"]["out"];
    assert!(sent.is_u64() && *sent == said["records"], "{said}");
    assert!(said["evicted"]["pages"].is_u64(), "{said}");
    let share = &said["io_stall_share"];
    assert!(
        share.is_null() || (0.0..=1.0).contains(&share.as_f64().expect("a share")),
        "{said}"
    );
    let top = said["top_directories"].as_array().expect("directories");
    let here = scene.dir.path().display().to_string();
    assert_eq!(top[0]["path"].as_str(), Some(&*here), "{said}");
    assert!(top[0]["bytes"].as_u64() >= Some(3 * MIB as u64));

    let data = scene.shown("p", "data").expect("it is in the profile");
    assert_eq!(data["certain_bytes"], 3 * MIB);
    assert_eq!(data["size_bytes"], 3 * MIB);

    let again = scene.run(&["record", "--profile", "p", "--", "cat", "data"]);
    assert!(
        stderr(&again).contains("recorded into profile p (2 runs)"),
        "{again:?}"
    );
    assert!(!stderr(&again).contains("STAGE"), "{again:?}");
    assert_eq!(scene.runs("p"), 2);

    for subcommand in ["record", "run"] {
        let more = scene.run(&["-v", subcommand, "--profile", "p", "--", "cat", "data"]);
        let said = stderr(&more);
        let has = |words: &[&str]| {
            let is_row = |line: &str| {
                line.split_whitespace()
                    .take(words.len())
                    .eq(words.iter().copied())
            };
            said.lines().any(is_row)
        };
        assert!(
            has(&["STAGE", "UNIT", "IN", "OUT", "LOST", "FILTERED"]),
            "{said}"
        );
        assert!(has(&["call", "calls"]) && has(&["evicted,"]), "{said}");
    }
}

#[test]
fn what_the_commands_children_read_is_its_own() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for file in ["a", "b", "c"] {
        scene.file(file, 64 << 10);
    }
    scene.record(
        "p",
        "cat a >/dev/null & (cat b & wait) >/dev/null; wait; setsid -w cat c >/dev/null",
    );
    for file in ["a", "b", "c"] {
        let found = scene
            .shown("p", file)
            .unwrap_or_else(|| panic!("{file} is missing"));
        assert_eq!(found["certain_bytes"], 64 << 10, "{file}");
    }
}

#[test]
fn what_it_does_itself_before_the_command_counts_in_no_pid_namespace() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let record = ["record", "--exact", "never", "--profile", "p", "--", "true"];
    for namespace in [&[][..], &["--pid", "--fork", "--mount-proc"]] {
        let mut command = Command::new("unshare");
        command
            .args(namespace)
            .arg(HEADSTART)
            .arg("--state-dir")
            .arg(scene.state())
            .args(record);
        let output = end(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        assert!(output.status.success(), "{output:?}");
        let ours = scene.shown_at("p", Path::new(HEADSTART));
        assert_eq!(ours, None, "{namespace:?}");
    }
    assert_eq!(scene.runs("p"), 2);
}

#[test]
fn a_command_that_leaves_a_daemon_ends_and_the_daemon_lives() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("a", 4096);
    let script = "setsid sh -c 'echo $$ >pid; exec sleep 1000' <&- >&- 2>&- & \
                  while ! test -s pid; do sleep 0.01; done; cat a >/dev/null";
    scene.record("p", script);
    let pid: u32 = fs::read_to_string(scene.path("pid"))
        .expect("written")
        .trim()
        .parse()
        .expect("a number");
    assert!(
        matches!(state(pid), Some('S' | 'R' | 'D')),
        "the daemon is gone"
    );
    assert!(scene.shown("p", "a").is_some());
    let left = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    assert!(left.contains("/headstart-"), "{left}");
    let cleaned = json(&scene.run(&["--json", "cleanup"]));
    assert!(cleaned["cgroups_in_use"].as_u64() >= Some(1), "{cleaned}");
    send(pid, libc::SIGKILL);
    until("the daemon is gone", || {
        matches!(state(pid), None | Some('Z'))
    });
}

#[test]
fn the_window_ends_recording_and_the_command_goes_on() {
    if let Some(scene) = Scene::recording() {
        a_window_ends(&scene, &["sh", "-c"]);
    }
}

#[test]
fn the_window_ends_where_the_command_takes_no_signal() {
    if let Some(scene) = Scene::recording() {
        a_window_ends(&scene, &["env", "--block-signal", "sh", "-c"]);
    }
}

/// Records a script run by `shell`, which goes on after the window.
fn a_window_ends(scene: &Scene, shell: &[&str]) {
    scene.file("before", 4096);
    scene.file("after", 4096);
    let script = "cat before >/dev/null; read line; cat after >/dev/null; echo \"$line\"; exit 5";
    let mut child = scene
        .headstart(["record", "--profile", "p", "--window", "500ms", "--"])
        .args(shell)
        .arg(script)
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut err = BufReader::new(child.stderr.take().expect("piped"));
    line_with(&mut err, "recorded into profile p (1 run)");
    assert!(
        child.try_wait().expect("asked").is_none(),
        "it did not wait for the command"
    );
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"on\n")
        .expect("read");
    assert_eq!(ended(&mut child).code(), Some(5));
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.stdout, b"on\n");
    assert!(scene.shown("p", "before").is_some());
    assert!(
        scene.shown("p", "after").is_none(),
        "recorded after the window"
    );
}

#[test]
fn odd_profile_names_are_refused_before_anything_runs() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scene = Scene::new();
    for name in [
        "",
        "-x",
        "../up",
        "/etc/passwd",
        "a\nb",
        "\x1b[31mred",
        "a\u{202e}b",
        " a",
    ] {
        for subcommand in ["record", "run"] {
            let profile = format!("--profile={name}");
            let output = scene.run(&[subcommand, &profile, "--", "touch", "ran"]);
            assert!(
                matches!(output.status.code(), Some(1 | 2)),
                "{name:?}: {output:?}"
            );
            assert!(stderr(&output).contains("name"), "{name:?}: {output:?}");
        }
        let warm = scene.run(&["warm", "--", name]);
        assert!(
            matches!(warm.status.code(), Some(1 | 2)),
            "{name:?}: {warm:?}"
        );
        let _ = stderr(&warm);
    }
    let bytes = OsStr::from_bytes(b"--profile=\xff\xfe");
    let output = end(&mut scene.headstart([
        OsStr::new("record"),
        bytes,
        OsStr::new("--"),
        OsStr::new("true"),
    ]));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!scene.path("ran").exists());
}
