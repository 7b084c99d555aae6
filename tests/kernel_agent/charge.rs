//! Whom warmed pages are charged to. Where the memory controller of cgroup v2 is not at
//! /sys/fs/cgroup, most of this is skipped; `cargo xtask vm` runs it.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::MemfdFlags;
use serde_json::Value;

use crate::node::{HEADSTART, Node, Unit, evict, send, until, until_or};
use crate::residency::resident_pages;

const ROOT: &str = "/sys/fs/cgroup";
const SLICE: &str = "headstart-charge.slice";
const MIB: u64 = 1 << 20;
/// How far a `memory.stat` may be behind: processors keep up to 32 pages each to themselves
/// before they tell (`MEMCG_CHARGE_BATCH`, mm/memcontrol.c), on 5.10 until they fill.
const LATE: u64 = MIB / 2;

/// A node whose root cgroup hands the memory controller on.
fn node() -> Option<Node> {
    let handed_on = fs::read_to_string(format!("{ROOT}/cgroup.subtree_control"));
    let has = |text: &String| text.split_whitespace().any(|word| word == "memory");
    if !handed_on.as_ref().is_ok_and(has) {
        eprintln!("SKIPPED: {ROOT} hands no memory controller of cgroup v2 on");
        return None;
    }
    Node::new()
}

/// A cgroup with the memory controller; removed when dropped.
struct Group(PathBuf);

impl Group {
    /// Makes `path` below the root, and what is above it.
    fn make(path: &str) -> Self {
        let (above, name) = path.rsplit_once('/').expect("a path");
        let group = Self(Self::handing_on(above).join(name));
        // An agent that was killed with a test that failed hands its controllers on:
        // no process could enter.
        until("what was left of an earlier try is gone", || {
            remove_below(&group.0);
            (!group.0.exists()).then_some(())
        });
        fs::create_dir(&group.0).expect("made");
        group
    }

    /// Makes cgroups one in another, each of which hands the memory controller on.
    fn handing_on(path: &str) -> PathBuf {
        let mut at = PathBuf::from(ROOT);
        for component in path.split('/') {
            at.push(component);
            fs::create_dir_all(&at).expect("made");
            fs::write(at.join("cgroup.subtree_control"), "+memory").expect("handed on");
        }
        at
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Memory charged to it that no reclaim takes, until it is dropped.
    fn hold(&self, bytes: u64) -> OwnedFd {
        let [hole, memory] = ["hole", "held"]
            .map(|name| rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).expect("memory"));
        rustix::fs::ftruncate(&hole, bytes).expect("bytes to read");
        // Its agent lets no process be in it itself.
        let within = self.0.join("held");
        fs::create_dir(&within).expect("made");
        let status = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec cat"])
            .arg(within.join("cgroup.procs"))
            .stdin(hole)
            .stdout(memory.try_clone().expect("duplicated"))
            .status()
            .expect("it starts");
        assert!(status.success(), "{status}");
        // What was charged stays with what is above.
        until("it is empty", || fs::remove_dir(&within).ok());
        memory
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A second panic would abort, and leave the agent to the tests after this one.
        if std::thread::panicking() {
            return;
        }
        until("the cgroup is empty", || fs::remove_dir(&self.0).ok());
        // Others may be in them.
        let above = self.0.ancestors().skip(1);
        for path in above.take_while(|path| *path != Path::new(ROOT)) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Removes a cgroup and those in it, as far as nothing runs there.
fn remove_below(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// Bytes of files that are charged to a cgroup.
fn file_bytes(group: &Path) -> u64 {
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("file "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// Cgroups below `directory` that an agent made, of this kind (`warm`, `agent`).
fn made(directory: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("readable");
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("headstart-") && name.ends_with(&format!("-{kind}"))
        })
        .collect()
}

fn is_warm(path: &Path) -> Option<()> {
    resident_pages(path)
        .iter()
        .all(|&there| there)
        .then_some(())
}

fn cat(path: &Path) -> [String; 3] {
    [
        "-c".to_owned(),
        "cat \"$0\" > /dev/null".to_owned(),
        path.display().to_string(),
    ]
}

/// Has a unit learned that reads a file, and the file evicted; the runs that it took.
fn learn(node: &Node, name: &str, file: &Path) -> u64 {
    let runs = node.learn_reading(SLICE, name, file);
    evict(file);
    runs
}

fn charged(node: &Node, to: &str) -> u64 {
    let status = node.json(&["status"]).expect("it answers");
    status["totals"]["charged_bytes"][to].as_u64().unwrap_or(0)
}

#[test]
fn what_is_warmed_is_charged_to_the_warm_cgroup() {
    let Some(mut node) = node() else { return };
    let used = node.file("used", 8 * MIB as usize);
    // A cgroup as a service that is delegated has one.
    let service = Group::make("headstart-charge/delegated");
    node.start_in(&service.procs());
    assert_eq!(
        node.feature("warm_cgroup").unwrap_or_default()["live"],
        true
    );
    let [warm] = &made(&service.0, "warm")[..] else {
        panic!("not one warm cgroup in {}", service.0.display());
    };
    let [agent] = &made(&service.0, "agent")[..] else {
        panic!("not one cgroup of the agent's");
    };
    assert_eq!(
        fs::read_to_string(warm.join("memory.high")).expect("a bound"),
        format!("{}\n", 4u64 << 30)
    );
    let name = "charged.service";
    let runs = learn(&node, name, &used);
    let (before, agents) = (file_bytes(warm), file_bytes(agent));
    let unit = Unit::make(SLICE, name);
    node.warmed(&format!("unit:{name}"), &used);
    let now = file_bytes(warm);
    assert!(now + LATE >= before + 8 * MIB, "{before}, now {now}");
    assert!(file_bytes(agent) < agents + MIB, "{agent:?}");
    let [a, b, c] = cat(&used);
    unit.run("sh", &[&a, &b, &c]);
    drop(unit);
    let known = node.learned(&format!("unit:{name}"), runs + 1);
    let used = known["last"]["used"].as_u64();
    assert!(used >= Some(8 * MIB), "{known}");
    assert!(charged(&node, "warm") >= 8 * MIB);
    assert_eq!(charged(&node, "agent"), 0);
    // A reload reaches the cgroup.
    node.configure("node_budget = \"64MiB\"");
    until("the bound is taken", || {
        let high = fs::read_to_string(warm.join("memory.high")).ok()?;
        (high == format!("{}\n", 64 * MIB)).then_some(())
    });
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
    assert!(!warm.exists() && !agent.exists(), "cgroups stay");
}

#[test]
fn more_than_the_bound_is_never_charged() {
    let Some(mut node) = node() else { return };
    const HIGH: u64 = 16 * MIB;
    node.configure(&format!("node_budget = \"{HIGH}\""));
    let files: Vec<PathBuf> = (0..4)
        .map(|n| node.file(&format!("used{n}"), 12 * MIB as usize))
        .collect();
    let service = Group::make("headstart-charge/bounded");
    node.start_in(&service.procs());
    let [warm] = &made(&service.0, "warm")[..] else {
        panic!("not one warm cgroup");
    };
    for (n, file) in files.iter().enumerate() {
        learn(&node, &format!("bounded{n}.service"), file);
    }
    for (n, file) in files.iter().enumerate() {
        let before = charged(&node, "warm");
        let name = format!("bounded{n}.service");
        let unit = Unit::make(SLICE, &name);
        until("its plan is carried out", || {
            (charged(&node, "warm") >= before + 10 * MIB).then_some(())
        });
        drop(unit);
        let now: u64 = fs::read_to_string(warm.join("memory.current"))
            .expect("charged")
            .trim()
            .parse()
            .expect("bytes");
        eprintln!("{}: {now} bytes charged", file.display());
        assert!(now <= HIGH + 2 * MIB, "{now}");
    }
    assert!(charged(&node, "warm") >= 40 * MIB);
    let events = fs::read_to_string(warm.join("memory.events")).expect("events");
    let high = events.lines().find_map(|line| line.strip_prefix("high "));
    assert!(high.is_some_and(|n| n != "0"), "{events}");
    node.stop(libc::SIGTERM);
}

#[test]
fn where_the_agents_own_limit_is_near_nothing_is_warmed() {
    is_limited("headstart-charge/limited", Node::start_in);
}

#[test]
fn a_limit_is_seen_from_within_a_cgroup_namespace() {
    is_limited("headstart-charge/namespace", Node::start_in_namespace);
}

fn is_limited(group: &str, start: impl FnOnce(&mut Node, &Path)) {
    let Some(mut node) = node() else { return };
    let used = node.file("used", 8 * MIB as usize);
    let service = Group::make(group);
    start(&mut node, &service.procs());
    let name = "limited.service";
    learn(&node, name, &used);
    let throttled = || {
        let status = node.json(&["status"]).expect("it answers");
        let throttled = &status["totals"]["throttled"]["memory_limit"];
        throttled.as_u64().unwrap_or(0)
    };
    assert_eq!(throttled(), 0);
    // One part in eight of a limit is to stay free: of this one a hundredth does. What takes
    // the room is no file's: the kernel would throw out the agent's own code, again and again.
    let _held = service.hold(512 * MIB);
    let bytes = || service.read("memory.current").trim().parse::<u64>();
    let high = bytes().expect("bytes") + 5 * MIB;
    fs::write(service.0.join("memory.high"), high.to_string()).expect("a limit");
    let unit = Unit::make(SLICE, name);
    let why = || {
        let [stat, events] = ["memory.stat", "memory.events"].map(|file| service.read(file));
        let status = node.json(&["status"]);
        format!(
            "not throttled: {high}, {:?}\n{stat}{events}{status:?}",
            bytes()
        )
    };
    until_or(why, || (throttled() >= 1).then_some(()));
    assert!(resident_pages(&used).iter().all(|&there| !there));
    drop(unit);
    fs::write(service.0.join("memory.high"), "max").expect("no limit");
    node.stop(libc::SIGTERM);
}

/// Processes of this name whose parent is `pid`.
fn helpers(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut all = children.unwrap_or_default();
    for task in tasks.expect("it runs").flatten() {
        all += &fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    let pids = all.split_whitespace().filter_map(|pid| pid.parse().ok());
    let mut found: Vec<u32> = pids
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "headstart-warm")
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn a_helper_that_dies_is_replaced_and_starts_are_warmed_meanwhile() {
    let Some(mut node) = node() else { return };
    let used = node.file("used", 4 * MIB as usize);
    let service = Group::make("headstart-charge/killed");
    node.start_in(&service.procs());
    let name = "replaced.service";
    learn(&node, name, &used);
    let [helper] = helpers(node.pid())[..] else {
        panic!("not one helper");
    };
    send(helper, libc::SIGKILL);
    until("the helper is gone", || {
        helpers(node.pid()).is_empty().then_some(())
    });
    let unit = Unit::make(SLICE, name);
    node.warmed(&format!("unit:{name}"), &used);
    drop(unit);
    until("that was the agent itself", || {
        (charged(&node, "agent") >= 4 * MIB).then_some(())
    });
    // After a second there is another.
    until("there is another helper", || {
        node.evict_again(&used);
        let unit = Unit::make(SLICE, name);
        node.warmed(&format!("unit:{name}"), &used);
        drop(unit);
        (charged(&node, "warm") >= 4 * MIB).then_some(())
    });
    let status = node.json(&["status"]).expect("it answers");
    assert_eq!(status["totals"]["helper_restarts"], 1, "{status}");
    // Killed, the agent takes its helper with it, and leaves cgroups.
    let [helper] = helpers(node.pid())[..] else {
        panic!("not one helper");
    };
    node.stop(libc::SIGKILL);
    until("the helper is gone, too", || {
        (!Path::new(&format!("/proc/{helper}/fd/0")).exists()).then_some(())
    });
    assert_eq!(made(&service.0, "warm").len(), 1);
    let output = node.run(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("cgroups of dead agents"), "{said}");
    assert!(made(&service.0, "warm").is_empty() && made(&service.0, "agent").is_empty());
    // Its successor does not need that.
    fs::write(service.0.join("cgroup.subtree_control"), "-memory").expect("taken back");
    node.start_in(&service.procs());
    node.stop(libc::SIGKILL);
    fs::write(service.0.join("cgroup.subtree_control"), "-memory").expect("taken back");
    node.start_in(&service.procs());
    assert_eq!(made(&service.0, "warm").len(), 1);
    node.stop(libc::SIGTERM);
}

const POD: &str = "3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6";

/// A container of a pod as the kubelet and containerd have it, with a claimed volume.
struct Pods {
    kubelet: PathBuf,
    state: PathBuf,
    weights: PathBuf,
}

impl Pods {
    fn make(node: &Node) -> Self {
        let (kubelet, state) = (node.path("kubelet"), node.path("containerd"));
        let claim = kubelet.join(format!("pods/{POD}/volumes/kubernetes.io~nfs/data"));
        fs::create_dir_all(&claim).expect("a directory");
        let weights = claim.join("weights");
        fs::rename(node.file("weights", 8 * MIB as usize), &weights).expect("moved");
        Self {
            kubelet,
            state,
            weights,
        }
    }

    /// What is warmed before a container has a cgroup can't be charged to that: here it is
    /// its cgroup that tells of it. A start is not over before a slow machine has told its
    /// shell to go.
    fn configure(&self, node: &Node) {
        let more = format!(
            "charge = \"workload\"\nsignal_bundle = false\n[agent.runtimes]\nkubelet = [{:?}]\ncontainerd = [{:?}]",
            self.kubelet, self.state
        );
        node.configure_settling(4, &more);
    }

    /// Starts a container's shell: its cgroup is made and it is in it at once, as a runtime
    /// does it. What the shell does it does when it is told to `go`.
    fn start(&self, n: u32, script: &str, limit: Option<u64>) -> (Group, Child) {
        let id = format!("{n:064x}");
        let bundle = self
            .state
            .join("io.containerd.runtime.v2.task/k8s.io")
            .join(&id);
        fs::create_dir_all(&bundle).expect("a directory");
        let config = r#"{"process": {"args": ["serve"]}, "root": {"path": "/nowhere"},
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.container-name": "app",
                "io.kubernetes.cri.sandbox-namespace": "shop",
                "io.kubernetes.cri.sandbox-name": "model-7d4b9c6f5d-x2x8p",
                "io.kubernetes.cri.image-name": "registry/model:1"}}"#;
        fs::write(bundle.join("config.json"), config).expect("written");
        let child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .arg(&self.weights)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it starts");
        let pod = Group::handing_on(&format!("kubepods/burstable/pod{POD}"));
        let group = Group(pod.join(id));
        fs::create_dir_all(&group.0).expect("made");
        if let Some(bytes) = limit {
            fs::write(group.0.join("memory.max"), bytes.to_string()).expect("a limit");
        }
        fs::write(group.procs(), child.id().to_string()).expect("in it");
        (group, child)
    }

    /// Starts containers that read the weights until all of those are learned; how many.
    fn learn(&self, node: &Node) -> u32 {
        let mut n = 0;
        until("the container is learned", || {
            n += 1;
            let (group, mut child) =
                node.learning(|| self.start(n, "cat \"$0\" > /dev/null", None));
            go(&mut child);
            assert!(child.wait().expect("waited").success());
            drop(group);
            let over = container(node, "a start of it is over", |w| {
                w["starts"].as_u64() >= Some(u64::from(n)) && w["last"]["over"] == true
            });
            (over["profile_bytes"].as_u64() >= Some(8 * MIB)).then_some(())
        });
        n
    }
}

fn go(child: &mut Child) {
    let stdin = child.stdin.as_mut().expect("piped");
    stdin.write_all(b"go\n").expect("told");
}

/// The only container that is known, once `is` holds.
fn container(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(what, || {
        let all = node.json(&["workloads"])?;
        let mut all = all["workloads"].as_array()?.iter();
        all.find(|w| w["kind"] == "container" && is(w)).cloned()
    })
}

#[test]
fn a_containers_own_files_are_charged_to_it() {
    let Some(mut node) = node() else { return };
    let pods = Pods::make(&node);
    pods.configure(&node);
    node.start();
    assert_eq!(
        node.feature("charge_workload").unwrap_or_default()["live"],
        true
    );
    let n = pods.learn(&node);
    node.evict_again(&pods.weights);
    // The next one waits, and reads nothing: what is read there the guest has read.
    let (group, mut child) = pods.start(n + 1, "ls / > /dev/null; read line", None);
    go(&mut child);
    until("its file is in memory", || is_warm(&pods.weights));
    let bytes = file_bytes(&group.0);
    assert!(
        bytes + LATE >= 8 * MIB,
        "{bytes} of files in {:?}: {:#}",
        group.0,
        node.json(&["status"]).unwrap_or_default()["totals"]
    );
    until("it is counted", || {
        (charged(&node, "workload") >= 8 * MIB).then_some(())
    });
    until("the guest is gone", || {
        (group.read("cgroup.procs").lines().count() == 1).then_some(())
    });
    drop(child.stdin.take());
    child.wait().expect("waited");
    drop(group);
    let over = container(&node, "the start is over", |w| {
        w["starts"].as_u64() == Some(u64::from(n) + 1) && w["last"]["over"] == true
    });
    // What the guest read the probes have passed over. (Of the plan it used a library.)
    assert!(over["last"]["used"].as_u64() < Some(4 * MIB), "{over}");
    assert!(over["last"]["wasted"].as_u64() >= Some(8 * MIB), "{over}");

    // With a limit that has no room for it, it is the node's.
    node.evict_again(&pods.weights);
    let before = charged(&node, "workload");
    let (group, mut child) = pods.start(n + 2, "", Some(12 * MIB));
    until("its file is in memory", || is_warm(&pods.weights));
    assert!(file_bytes(&group.0) < MIB);
    let status = until("that is told", || {
        let status = node.json(&["status"])?;
        let reason = &status["totals"]["charge_fallbacks"]["memory_limit"];
        (*reason == 1).then_some(status)
    });
    assert_eq!(charged(&node, "workload"), before, "{status}");
    drop(child.stdin.take());
    child.wait().expect("waited");
}

#[test]
fn a_guest_does_not_outstay_its_host() {
    let Some(mut node) = node() else { return };
    let pods = Pods::make(&node);
    pods.configure(&node);
    node.start();
    let n = pods.learn(&node);
    // A guest that would be there for a long time: 8 MiB at 64 KiB a second.
    let text = fs::read_to_string(node.path("config.toml")).expect("configuration");
    let slow = text.replace(
        "charge = ",
        "workload_bytes_per_second = \"64KiB\"\ncharge = ",
    );
    fs::write(node.path("config.toml"), slow).expect("written");
    until("it is taken", || {
        let status = node.json(&["status"])?;
        (status["config_read_ms"].as_u64() > status["started_ms"].as_u64().map(|ms| ms + 1000))
            .then_some(())
    });
    node.evict_again(&pods.weights);
    let (group, mut child) = pods.start(n + 1, "", None);
    until("a guest is in it", || {
        let procs = group.read("cgroup.procs");
        procs
            .lines()
            .any(|pid| {
                let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
                score.is_ok_and(|score| score.trim() == "1000")
            })
            .then_some(())
    });
    let left = std::time::Instant::now();
    drop(child.stdin.take());
    child.wait().expect("waited");
    // The group is removed as a runtime does it: as soon as it can be.
    drop(group);
    let waited = left.elapsed();
    eprintln!("the cgroup was removed {} ms later", waited.as_millis());
    assert!(waited.as_millis() < 2000, "{waited:?}");
}

#[test]
fn without_a_memory_controller_it_says_so_and_warms() {
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.controllers"));
    if controllers.is_ok_and(|text| text.contains("memory")) {
        eprintln!("SKIPPED: there is a memory controller of cgroup v2 here");
        return;
    }
    let Some(mut node) = Node::new() else { return };
    let used = node.file("used", MIB as usize);
    node.start();
    let feature = node.feature("warm_cgroup").unwrap_or_default();
    assert_eq!(feature["live"], false, "{feature}");
    let reason = feature["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("Delegate=memory"), "{feature}");
    let name = "uncharged.service";
    learn(&node, name, &used);
    let unit = Unit::make(SLICE, name);
    node.warmed(&format!("unit:{name}"), &used);
    drop(unit);
    until("it is told who paid", || {
        (charged(&node, "agent") >= MIB).then_some(())
    });
}

/// A helper as an agent starts it, but where this process is.
struct Helper {
    child: Child,
    socket: UnixStream,
}

impl Helper {
    fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let dues = headstart::warm::Dues::new().expect("memory");
        let dues = dues.as_fd().try_clone_to_owned().expect("a descriptor");
        let child = Command::new(HEADSTART)
            .arg("warm-helper")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::from(dues))
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self {
            child,
            socket: ours,
        }
    }

    fn ended(mut self) -> (bool, String) {
        drop(self.socket);
        let output = self.child.stderr.take().map(std::io::read_to_string);
        let status = until("the helper has ended", || {
            self.child.try_wait().expect("waited")
        });
        let said = output.and_then(Result::ok).unwrap_or_default();
        (status.success(), said)
    }
}

#[test]
fn a_helper_does_what_it_is_told_and_ends_with_its_agent() {
    use headstart::daemon::helper::wire::{self, Terms};
    use std::io::{Read, Write};
    let node = Node::without_probes();
    let file = node.file("read", 4 * MIB as usize);
    let pages = (4 * MIB / headstart::model::PAGE_SIZE) as u32;
    let plan = headstart::model::Plan {
        volumes: vec![headstart::model::Volume {
            id: headstart::model::VolumeId("path:/".into()),
            fs_type: String::new(),
            mount_point: node.path("").to_string_lossy().trim_end_matches('/').into(),
        }],
        files: vec![headstart::model::PlanFile {
            volume: 0,
            path: headstart::model::RelPath::new(b"read".to_vec()).expect("a path"),
            version: headstart::model::FileVersion::default(),
        }],
        actions: vec![headstart::model::Action::Read {
            file: 0,
            start_page: 0,
            pages,
            gap_pages: 0,
            certain: true,
        }],
        ..headstart::model::Plan::default()
    };
    let terms = |bounds| Terms {
        within_ms: None,
        io_class: headstart::warm::IoClass::Default,
        metadata: true,
        lead: headstart::warm::Lead::Ahead,
        threads: 0,
        verify: true,
        cost: headstart::model::DeviceCost::UNMEASURED,
        bounds,
    };
    let mut helper = Helper::start();
    let answer = |socket: &mut UnixStream| {
        let mut head = [0; wire::HEAD];
        socket.read_exact(&mut head).expect("an answer");
        let (kind, length) = wire::head(head).expect("a good one");
        let mut message = vec![0; length];
        socket.read_exact(&mut message).expect("all of it");
        wire::decode_answer(kind, &message).expect("understood")
    };
    let frame = wire::carry(7, &plan, &terms(Vec::new())).expect("short");
    helper.socket.write_all(&frame).expect("taken");
    let done = answer(&mut helper.socket);
    assert_eq!(done.id, 7);
    assert!(done.report.is_complete(), "{:?}", done.report);
    assert!(is_warm(&file).is_some());
    // A bound holds in it, and it stops when it is told.
    evict(&file);
    let frame = wire::carry(8, &plan, &terms(vec![(3, 4096)])).expect("short");
    helper.socket.write_all(&frame).expect("taken");
    until("it has begun", || {
        resident_pages(&file)
            .iter()
            .any(|&there| there)
            .then_some(())
    });
    let frame = wire::cancel(8).expect("short");
    helper.socket.write_all(&frame).expect("taken");
    let done = answer(&mut helper.socket);
    assert_eq!(done.id, 8);
    assert!(done.report.cancelled, "{:?}", done.report);
    assert!(done.report.data.left > 0, "{:?}", done.report);
    let (ended_well, said) = helper.ended();
    assert!(ended_well, "{said}");
    // What it does not understand ends it.
    let mut helper = Helper::start();
    helper
        .socket
        .write_all(b"GET / HTTP/1.1\r\n")
        .expect("taken");
    until("it has ended", || helper.child.try_wait().expect("waited"));
    let (ended_well, said) = helper.ended();
    assert!(!ended_well && said.contains("version"), "{said}");
}
