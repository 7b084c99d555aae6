//! `headstart warm`: everything planned is there afterwards, and it says so.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::scene::{MIB, Scene, evict, json, last_json, resident, stderr, stdout};
use crate::tools::{ended, send, until};

fn number(said: &Value, key: &str) -> u64 {
    said[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key}: {said}"))
}

#[test]
fn all_that_was_planned_is_resident() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for file in ["a", "b", "c"] {
        scene.file(file, 2 * MIB + 777);
    }
    scene.record("p", "test -e nothing; cat a b c >/dev/null");
    if let Err(error) = headstart::run::drop_caches() {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let output = scene.run(&["--json", "warm", "p"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = json(&output);
    let planned = number(&said, "bytes_planned");
    assert!(planned >= 6 * MIB as u64, "{said}");
    assert_eq!(number(&said, "bytes_failed"), 0, "{said}");
    assert_eq!(
        planned,
        number(&said, "bytes_resident_before") + number(&said, "bytes_read"),
        "{said}"
    );
    assert!(number(&said, "bytes_read") >= 6 * MIB as u64, "{said}");
    assert!(number(&said, "names_warmed") > 5, "{said}");
    assert!(said["seconds"].as_f64().expect("a number") > 0.0);
    for file in ["a", "b", "c"] {
        let (there, pages) = resident(&scene.path(file));
        assert_eq!(there, pages, "{file}");
    }
    // Blocks that this process may not read are no failure.
    let report = &said["report"];
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{said}");
    let without = report["without_device"].as_array().expect("a list");
    let skipped = number(&report["blocks"], "skipped");
    assert!(skipped == 0 || !without.is_empty(), "{said}");

    let again = json(&scene.run(&["--json", "warm", "p"]));
    assert_eq!(number(&again, "bytes_read"), 0, "{again}");
    assert_eq!(number(&again, "bytes_resident_before"), planned, "{again}");

    let text = scene.run(&["warm", "p"]);
    assert!(text.status.success());
    assert!(
        stdout(&text).contains("p: ") && stderr(&text).is_empty(),
        "{text:?}"
    );
    assert!(!stdout(&text).contains("ermission"), "{text:?}");
}

#[test]
fn the_budget_bounds_what_is_read() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 16 * MIB);
    scene.record("p", "cat data >/dev/null");
    evict(&scene.path("data"));
    let output = scene.run(&["--json", "warm", "p", "--budget", "1MiB"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = json(&output);
    assert!(number(&said, "bytes_read") <= MIB as u64, "{said}");
    assert!(number(&said, "bytes_planned") <= MIB as u64, "{said}");
    assert!(
        number(&said, "bytes_over_budget") >= 15 * MIB as u64,
        "{said}"
    );
    let text = stdout(&scene.run(&["warm", "p", "--budget", "1MiB"]));
    assert!(text.contains("over the budget"), "{text}");
    // The configuration's is as good.
    fs::write(scene.path("small.toml"), "budget = \"64KiB\"\n").expect("written");
    let said = json(&scene.run(&["--json", "--config", "small.toml", "warm", "p"]));
    assert!(number(&said, "bytes_planned") <= 64 << 10, "{said}");
}

#[test]
fn the_deadline_ends_it_early_and_it_says_so() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 64 * MIB);
    scene.record("p", "cat data >/dev/null");
    evict(&scene.path("data"));
    let output = scene.run(&["--json", "warm", "p", "--deadline", "1ms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = json(&output);
    assert_eq!(said["deadline_reached"], true, "{said}");
    assert_eq!(said["complete"], false, "{said}");
    assert!(number(&said, "bytes_left") > 0, "{said}");
    evict(&scene.path("data"));
    let text = scene.run(&["warm", "p", "--deadline", "1ms"]);
    assert!(stdout(&text).contains("deadline"), "{text:?}");
    assert_eq!(
        scene
            .run(&["warm", "p", "--deadline", "soon"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn names_can_be_left_alone() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 4096);
    scene.record("p", "cat data >/dev/null");
    let said = json(&scene.run(&["--json", "warm", "p", "--no-metadata"]));
    assert_eq!(number(&said, "names_planned"), 0, "{said}");
    assert_eq!(number(&said, "names_warmed"), 0, "{said}");
    assert!(number(&said, "bytes_planned") >= 4096, "{said}");
}

#[test]
fn an_unknown_profile_is_answered_with_near_names() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let output = scene.run(&["warm", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no profile `web`"), "{output:?}");
    assert!(!scene.state().exists(), "looking made a state directory");
    scene.record("web-frontend", "true");
    let output = scene.run(&["warm", "web-fronted"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`web-frontend`"), "{output:?}");
    let output = scene.run(&["compare", "--profile", "web", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`web-frontend`"), "{output:?}");
}

#[test]
fn files_that_vanish_shrink_or_are_replaced_cost_nothing_else() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for file in ["gone", "short", "other", "fifo", "stays"] {
        scene.file(file, MIB);
    }
    scene.record("p", "cat gone short other fifo stays >/dev/null");
    fs::remove_file(scene.path("gone")).expect("removed");
    let short = fs::File::options()
        .write(true)
        .open(scene.path("short"))
        .expect("open");
    short.set_len(8192).expect("cut");
    scene.file("new", 2 * MIB);
    fs::rename(scene.path("new"), scene.path("other")).expect("replaced");
    fs::remove_file(scene.path("fifo")).expect("removed");
    assert!(
        Command::new("mkfifo")
            .arg(scene.path("fifo"))
            .status()
            .expect("mkfifo")
            .success()
    );
    evict(&scene.path("stays"));
    let output = scene.run(&["--json", "warm", "p"]);
    let said = json(&output);
    let report = &said["report"];
    assert!(
        number(&said, "bytes_gone") >= (2 * MIB - 8192) as u64,
        "{said}"
    );
    assert_eq!(number(report, "files_missing"), 1, "{said}");
    assert!(number(report, "files_changed") >= 2, "{said}");
    assert_eq!(number(report, "files_failed"), 1, "the FIFO: {said}");
    let failures = report["failures"].as_array().expect("a list");
    assert!(
        failures.iter().any(|f| f["kind"] == "not_regular"),
        "{said}"
    );
    let (there, pages) = resident(&scene.path("stays"));
    assert_eq!(there, pages);
    assert_eq!(output.status.code(), Some(1), "a FIFO is no file: {said}");
}

#[test]
fn files_that_change_while_they_are_read_are_no_trouble() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for file in ["a", "b", "c"] {
        scene.file(file, 4 * MIB);
    }
    scene.record("p", "cat a b c >/dev/null");
    let script = "while :; do rm -f a; truncate -s 4096 b; head -c 4M /dev/zero >new; \
                  mv new a; truncate -s 4M b; rm -f c; mkfifo c; rm -f c; cp b c; done";
    let mut changing = Command::new("sh")
        .args(["-c", script])
        .current_dir(scene.dir.path())
        .spawn()
        .expect("starts");
    for _ in 0..25 {
        let output = scene.run(&["--json", "warm", "p"]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let said = json(&output);
        let data = &said["report"]["data"];
        let parts = [
            "resident_before",
            "read",
            "failed",
            "gone",
            "evicted",
            "skipped",
            "left",
        ];
        let sum: u64 = parts.iter().map(|part| number(data, part)).sum();
        assert_eq!(number(data, "planned"), sum, "{said}");
    }
    changing.kill().expect("it goes on until then");
    changing.wait().expect("ended");
}

/// A cgroup in which reads from the disk below `path` are slow.
struct Slow(std::path::PathBuf);

impl Slow {
    fn new(path: &Path) -> Option<Self> {
        let device = rustix::fs::stat(path).ok()?.st_dev;
        let disk = format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        let slow =
            Slow(format!("/sys/fs/cgroup/blkio/headstart-test-{}", std::process::id()).into());
        let made = fs::create_dir(&slow.0).and_then(|()| {
            fs::write(
                slow.0.join("blkio.throttle.read_bps_device"),
                format!("{disk} 1048576"),
            )
        });
        match made {
            Ok(()) => Some(slow),
            Err(error) => {
                eprintln!("SKIPPED: no disk can be made slow: {error}");
                None
            }
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        until("the cgroup is gone", || {
            fs::remove_dir(&self.0).is_ok() || !self.0.exists()
        });
    }
}

fn bytes_read(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("read_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn an_interrupt_ends_it_and_it_reports() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 64 * MIB);
    scene.record("p", "cat data >/dev/null");
    evict(&scene.path("data"));
    let Some(slow) = Slow::new(scene.dir.path()) else {
        return;
    };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&slow.0)
            .args([crate::scene::HEADSTART, "--json", "--state-dir"])
            .arg(scene.state())
            .args(["warm", "p"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        until("it reads", || bytes_read(child.id()) > 64 << 10);
        send(child.id(), signal);
        assert_eq!(ended(&mut child).code(), Some(1));
        let output = child.wait_with_output().expect("ended");
        let said = last_json(&output_in_one_line(output));
        assert_eq!(said["cancelled"], true, "{said}");
        assert_eq!(said["deadline_reached"], false, "{said}");
        assert!(number(&said, "bytes_left") > 0, "{said}");
        evict(&scene.path("data"));
    }
}

/// For the sake of [`last_json`].
fn output_in_one_line(mut output: std::process::Output) -> std::process::Output {
    output.stdout.retain(|&b| b != b'\n');
    output
}

/// Touches a byte of each page of `data` through a mapping.
const MAPS: &str = "import mmap, os
m = mmap.mmap(os.open('data', os.O_RDONLY), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
sum(m[at] for at in range(0, len(m), 4096))";

/// Where the file system has large folios, what is warmed in blocks of 2 MiB is mapped by one
/// fault each, of which no hook tells.
#[test]
fn what_was_warmed_in_blocks_is_known_after_every_kind_of_run() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no python3, which maps a file");
        return;
    }
    let all = 16 * MIB as u64;
    let data = scene.file("data", 16 * MIB);
    let run = |args: &[&str]| {
        let output = scene.run(&[args, &["--profile", "p", "--", "python3", "-c", MAPS]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    };
    run(&["record"]);
    for args in [
        &["record", "--exact", "always"][..],
        &["record", "--exact", "never"],
        &["run"],
    ] {
        evict(&data);
        let warmed = json(&scene.run(&["warm", "p", "--json"]));
        assert_eq!(number(&warmed, "bytes_failed"), 0, "{warmed}");
        let (there, pages) = resident(&data);
        assert_eq!(there, pages, "{warmed}");
        run(args);
        let shown = json(&scene.run(&["profile", "show", "p", "--json"]));
        let files = shown["files"].as_array().expect("files");
        let is_data = |file: &&Value| file["path"].as_str().is_some_and(|p| p.ends_with("/data"));
        let file = files.iter().find(is_data).expect("it was used");
        let known = number(file, "certain_bytes") + number(file, "maybe_bytes");
        assert_eq!(known, all, "after {args:?}: {file}");
    }
    let said = last_json(&run(&["run", "--json"]));
    assert!(
        number(&said["feedback"], "used_bytes") >= all,
        "what was mapped at once was used: {said}"
    );
}
