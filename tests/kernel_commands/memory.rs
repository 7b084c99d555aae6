//! Commands in a cgroup that may have little memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::scene::{HEADSTART, MIB, Scene, end, evict, json, last_json, resident, stdout};
use crate::tools::until;

const LIMIT: usize = 64 * MIB;
/// Of one large file; more than fits.
const LARGE: usize = 80 * MIB;
/// Of each of many small ones.
const SMALL: usize = 256 << 10;
const PAGE: u64 = 4096;

/// A cgroup with a memory limit, of whichever version has the controller; gone when
/// dropped.
struct Limited {
    dir: PathBuf,
    v2: bool,
}

impl Limited {
    /// `None`, and why, where there is no memory controller.
    fn new() -> Option<Self> {
        let name = format!("headstart-memory-test-{}", std::process::id());
        let handed_on = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control");
        let v2 = handed_on.is_ok_and(|list| list.split_whitespace().any(|word| word == "memory"));
        let tree = if v2 { "" } else { "memory" };
        let dir = Path::new("/sys/fs/cgroup").join(tree).join(name);
        let file = if v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let made = fs::create_dir(&dir).and_then(|()| fs::write(dir.join(file), LIMIT.to_string()));
        let limited = Self { dir, v2 };
        match made {
            Ok(()) => Some(limited),
            Err(error) => {
                eprintln!("SKIPPED: no memory controller: {error}");
                None
            }
        }
    }

    /// `headstart ARGS` inside.
    fn run(&self, scene: &Scene, args: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command
            .args(["-ec", "echo $$ >\"$0/cgroup.procs\"; exec \"$@\""])
            .arg(&self.dir)
            .args([HEADSTART, "--state-dir"])
            .arg(scene.state())
            .args(args)
            .current_dir(scene.dir.path())
            .stdin(Stdio::null());
        end(&mut command)
    }

    /// How often somebody inside was killed for want of memory.
    fn killed(&self) -> u64 {
        let file = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.dir.join(file)).expect("counts");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("a count").parse().expect("a number")
    }

    /// Its highest use of memory so far; `None` where the kernel does not say.
    fn peak(&self) -> Option<u64> {
        let file = if self.v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        fs::read_to_string(self.dir.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        until("the cgroup is gone", || {
            fs::remove_dir(&self.dir).is_ok() || !self.dir.exists()
        });
    }
}

/// One large file and many small ones; their names.
fn files(scene: &Scene, small: usize) -> Vec<String> {
    scene.file("large", LARGE);
    let names = (0..small).map(|at| format!("small-{at}"));
    let names: Vec<String> = names
        .inspect(|name| drop(scene.file(name, SMALL)))
        .collect();
    [vec!["large".to_owned()], names].concat()
}

#[test]
fn warming_more_than_fits_claims_what_is_there() {
    let Some(scene) = Scene::as_root() else {
        return;
    };
    let Some(limited) = Limited::new() else {
        return;
    };
    let names = files(&scene, 64);
    let of = |from: usize, to: usize| names[from..to].iter().map(String::as_str);
    let profiles = [
        ("one", of(0, 1).collect::<Vec<_>>()),
        ("all", of(0, names.len()).collect()),
    ];
    for (profile, files) in profiles {
        scene.import(profile, &files);
        files.iter().for_each(|file| evict(&scene.path(file)));
        let output = limited.run(&scene, &["--json", "warm", profile]);
        assert_eq!(limited.killed(), 0, "{output:?}");
        let said = json(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let number = |key: &str| said[key].as_u64().expect("a number");
        let there = files
            .iter()
            .map(|file| resident(&scene.path(file)).0 as u64);
        let there = there.sum::<u64>() * PAGE;
        let claimed = number("bytes_read") + number("bytes_resident_before");
        // After it looked, the command needed memory itself, and at the limit that is taken
        // from what it had warmed.
        let since = MIB as u64;
        assert!(claimed <= there + since, "{there} bytes are there: {said}");
        // Most of the memory is of use.
        assert!(claimed >= LIMIT as u64 / 2, "{said}");
        assert!(number("bytes_evicted") > 0, "{said}");
        assert_eq!(said["complete"], false, "{said}");

        let text = limited.run(&scene, &["warm", profile]);
        assert!(stdout(&text).contains("memory is short"), "{text:?}");
    }
}

#[test]
fn a_recorded_command_has_its_limit_and_all_that_it_reads_is_seen() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(limited) = Limited::new() else {
        return;
    };
    files(&scene, 0);
    let script = "cat large >/dev/null; echo done";
    for subcommand in ["record", "run"] {
        evict(&scene.path("large"));
        let command = ["--json", subcommand, "--profile", subcommand, "--"];
        let command = [&command[..], &["sh", "-c", script]].concat();
        let output = limited.run(&scene, &command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(limited.killed(), 0, "{output:?}");
        let said = last_json(&output);
        assert!(stdout(&output).starts_with("done\n"), "{said}");
        // What it read counts as its own, and was more than it may have.
        assert!(
            limited.peak().is_none_or(|peak| peak > LIMIT as u64 / 2),
            "{said}"
        );
        assert!(resident(&scene.path("large")).0 as u64 * PAGE <= LIMIT as u64);
        // `run` may begin to record when it is under way.
        if subcommand == "record" {
            assert_eq!(said["lost"], 0, "{said}");
            let file = scene.shown("record", "large").expect("recorded");
            assert_eq!(file["certain_bytes"], LARGE, "{file}");
        }
    }
}
