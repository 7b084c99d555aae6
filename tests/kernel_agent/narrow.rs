//! Learned page by page: the kernel's fault-around window is one page while something is
//! learned, and as before whatever happens.

use std::fs;

use headstart::model::PAGE_SIZE;
use headstart::profile::decode;
use headstart::run::may_narrow;

use crate::node::{Node, Unit, until};

const SLICE: &str = "headstart-test.slice";
const SETTING: &str = "/sys/kernel/debug/fault_around_bytes";
const ON: &str = "narrow_fault_around = true";

fn setting() -> u64 {
    let text = fs::read_to_string(SETTING).expect("debugfs");
    text.trim().parse().expect("a number")
}

/// The window as it was, once it is again when dropped.
struct Before(u64);

impl Before {
    fn new() -> Option<Self> {
        if let Err(error) = may_narrow() {
            eprintln!("SKIPPED: {error}");
            return None;
        }
        let before = setting();
        assert!(before > PAGE_SIZE, "{before} from the beginning");
        Some(Self(before))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let _ = fs::write(SETTING, format!("{}\n", self.0));
    }
}

fn narrow() {
    until("the window is one page", || {
        (setting() == PAGE_SIZE).then_some(())
    });
}

fn as_before(before: &Before) {
    until("the window is as before", || {
        (setting() == before.0).then_some(())
    });
}

/// Whether its last run is exact, and pages of the profile that are maybes.
fn learned(node: &Node, key: &str) -> (bool, usize) {
    let output = node.run(&["profile", "export", key, "-"]);
    assert!(output.status.success(), "{output:?}");
    let (_, profile) = decode(&output.stdout).expect("a profile");
    let extents = profile.files.iter().flat_map(|file| &file.extents);
    let maybe = extents.filter(|extent| extent.certain != extent.seen);
    let last = profile.runs.iter().max_by_key(|run| run.started_ms);
    (last.is_some_and(|run| run.exact), maybe.count())
}

#[test]
fn what_is_learned_has_no_maybe_pages_and_the_window_is_put_back() {
    let Some(before) = Before::new() else { return };
    let Some(mut node) = Node::new() else { return };
    node.configure(ON);
    node.start();
    // With the first one it is found out whether that is of use.
    node.learn(SLICE, "first.service", 1, &["true"]);
    as_before(&before);
    let (name, key) = ("exact.service", "unit:exact.service");
    let unit = Unit::make(SLICE, name);
    narrow();
    assert!(unit.run("sh", &["-c", "true"]).status.success());
    drop(unit);
    node.learned(key, 1);
    as_before(&before);
    assert_eq!(learned(&node, key), (true, 0));
    let said = node.feature("learn_exactly").expect("it is on");
    assert_eq!(said["live"], true, "{said}");

    // Whoever sets it meanwhile has the last word, and the run is no exact one.
    let unit = Unit::make(SLICE, name);
    narrow();
    fs::write(SETTING, format!("{}\n", 2 * before.0)).expect("set");
    assert!(unit.run("sh", &["-c", "true"]).status.success());
    drop(unit);
    node.learned(key, 2);
    until("it is told", || {
        node.feature("learn_exactly")
            .filter(|said| said["live"] == false)
    });
    assert_eq!(setting(), 2 * before.0);
    assert!(!learned(&node, key).0);
}

#[test]
fn it_is_left_alone_unless_that_is_wanted() {
    let Some(before) = Before::new() else { return };
    let Some(mut node) = Node::new() else { return };
    node.start();
    let print = format!("test \"$(cat {SETTING})\" = {}", before.0);
    node.learn(SLICE, "usual.service", 1, &["sh", "-c", &print]);
    assert!(node.feature("learn_exactly").is_none());
}

#[test]
fn after_a_kill_the_next_agent_puts_it_back() {
    let Some(before) = Before::new() else { return };
    let Some(mut node) = Node::new() else { return };
    node.configure(ON);
    node.start();
    let unit = Unit::make(SLICE, "killed.service");
    narrow();
    node.stop(libc::SIGKILL);
    drop(unit);
    assert_eq!(setting(), PAGE_SIZE, "nobody was left to put it back");
    node.start();
    as_before(&before);

    // A signal is a way out too.
    let unit = Unit::make(SLICE, "ended.service");
    narrow();
    node.stop(libc::SIGTERM);
    drop(unit);
    assert_eq!(setting(), before.0);
}

#[test]
fn where_it_cannot_be_narrowed_learning_goes_on_and_says_so() {
    if may_narrow().is_ok() {
        eprintln!("SKIPPED: debugfs can be written here");
        return;
    }
    let Some(mut node) = Node::new() else { return };
    node.configure(ON);
    node.start();
    node.learn(SLICE, "windows.service", 1, &["true"]);
    let said = until("it is told", || {
        node.feature("learn_exactly")
            .filter(|said| said["live"] == false)
    });
    let reason = said["reason"].as_str().expect("a reason");
    assert!(reason.contains("fault_around_bytes"), "{said}");
}
