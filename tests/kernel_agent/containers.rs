//! Containers: learned when they start, warmed when they start again under another id, and
//! on another node by what was learned here.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use headstart::profile::decode;
use headstart::workload::Roots;
use rustix::process::Signal;
use serde_json::Value;

use crate::arrival::Arrival;
use crate::node::{Node, evict, until};
use crate::residency::resident_pages;
use crate::scene::{Daemon, IMAGE_NAME, Podman, Scene, done};

const MIB: u64 = 1 << 20;

/// Waits until it is told to go on: until then only warming brings files into memory.
pub(crate) const READS: &str = "read -r go < /vol/go; cat /data/image.bin /vol/model > /dev/null";

/// A node over these stores, in the scene's namespace.
pub(crate) fn node(scene: &Scene, roots: &Roots) -> Option<Node> {
    node_with(scene, roots, "")
}

/// As [`node`], with more keys.
fn node_with(scene: &Scene, roots: &Roots, more: &str) -> Option<Node> {
    let node = Node::new()?.inside(scene.process());
    let storage = roots
        .storage
        .iter()
        .map(|storage| format!("{{ graph = {:?}, run = {:?} }}", storage.graph, storage.run));
    let storage: Vec<String> = storage.collect();
    node.configure(&format!(
        "{more}\n[agent.runtimes]\nstorage = [{}]\ncontainerd = {:?}\ndocker = {:?}\n",
        storage.join(", "),
        roots.containerd,
        roots.docker
    ));
    Some(node)
}

/// A directory to be mounted into containers: 8 MiB of data, and a FIFO that holds them.
pub(crate) struct Shared(PathBuf);

impl Shared {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self::at(scene.path().join("vol"))
    }

    /// As [`Shared::new`], elsewhere.
    pub(crate) fn at(dir: PathBuf) -> Self {
        fs::create_dir(&dir).expect("a directory");
        let data: Vec<u8> = (0..8 * MIB).map(|i| (i / 7) as u8).collect();
        fs::write(dir.join("model"), data).expect("written");
        done(Command::new("mkfifo").arg(dir.join("go")));
        Self(dir)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// Lets the container that waits go on.
    pub(crate) fn go(&self) {
        release(&self.0.join("go"));
    }
}

/// Lets whoever reads a FIFO go on.
fn release(fifo: &Path) {
    let open = || {
        // Without a reader it would wait: of a container that never came.
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        options.open(fifo).ok()
    };
    let mut fifo = until("somebody waits", open);
    fifo.write_all(b"\n").expect("a reader");
}

/// A runc that makes no container until it is told to: until then there is no cgroup.
struct Held {
    runc: PathBuf,
    fifo: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whoever waits still is not to hold up who cleans up.
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        if let Ok(mut fifo) = options.open(&self.fifo) {
            let _ = fifo.write_all(b"\n");
        }
    }
}

impl Held {
    fn new(scene: &Scene) -> Self {
        let (runc, fifo) = (scene.path().join("held-runc"), scene.path().join("hold"));
        done(Command::new("mkfifo").arg(&fifo));
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' create '*) read -r go < '{}' ;; esac\nexec runc \"$@\"\n",
            fifo.display()
        );
        fs::write(&runc, script).expect("written");
        fs::set_permissions(&runc, fs::Permissions::from_mode(0o755)).expect("set");
        Self { runc, fifo }
    }

    /// Starts something by it, and has all that it will read in memory before it has a
    /// cgroup.
    fn starts_warmed(&self, start: &mut Command, shared: &Shared, image: &Path) {
        let child = spawn_warmed(start, shared, image);
        release(&self.fifo);
        shared.go();
        ended(child);
    }
}

/// `podman run` of the image with the directory in it.
fn by_podman(podman: &Podman<'_>, shared: &Shared, command: &[&str]) -> Command {
    by_podman_with(podman, shared, &[], command)
}

fn by_podman_with(
    podman: &Podman<'_>,
    shared: &Shared,
    options: &[&str],
    command: &[&str],
) -> Command {
    let volume = format!("--volume={}:/vol:ro", shared.0.display());
    let mut run = podman.run(&["--rm", "--name=web", &volume]);
    run.args(options).arg(IMAGE_NAME);
    run.args(command);
    run
}

/// `ctr run`, as a pod's container.
fn by_containerd(
    daemon: &Daemon<'_>,
    shared: &Shared,
    id: &str,
    name: &str,
    command: &[&str],
) -> Command {
    by_containerd_with(daemon, shared, &[], id, name, command)
}

fn by_containerd_with(
    daemon: &Daemon<'_>,
    shared: &Shared,
    more: &[&str],
    id: &str,
    name: &str,
    command: &[&str],
) -> Command {
    let mount = format!(
        "type=bind,src={},dst=/vol,options=rbind:ro",
        shared.0.display()
    );
    let label = format!("io.kubernetes.container.name={name}");
    let options = ["--rm", "--mount", &mount, "--label", &label];
    let mut run = daemon.run(id, &options);
    run.args(more).args([IMAGE_NAME, id]).args(command);
    run
}

pub(crate) fn spawn(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    command.spawn().expect("it starts")
}

pub(crate) fn ended(mut child: Child) {
    let status = until("the container has ended", || {
        child.try_wait().expect("waited")
    });
    assert!(status.success(), "{status}");
}

/// The image's file in the layers of a store.
pub(crate) fn image_file(store: &Path) -> PathBuf {
    let mut find = Command::new("find");
    let found = done(find.arg(store).args(["-path", "*/data/image.bin"]));
    let mut found = found.lines();
    let file = found.next().expect("a layer has it").into();
    assert_eq!(found.next(), None, "in one layer only");
    file
}

fn is_away(path: &Path) -> bool {
    resident_pages(path).iter().all(|&there| !there)
}

/// The workload of this name, once so many of its runs are learned.
pub(crate) fn named(node: &Node, name: &str, runs: u64) -> Value {
    until(&format!("{name} has {runs} runs"), || {
        let all = node.json(&["workloads"])?;
        let all = all["workloads"].as_array()?;
        let is_it = |w: &&Value| {
            let is_learned = w["runs"].as_u64() >= Some(runs) && w["last"]["over"] == true;
            w["name"] == name && w["seen"] == true && is_learned
        };
        all.iter().find(is_it).cloned()
    })
}

pub(crate) fn key(workload: &Value) -> String {
    workload["key"].as_str().expect("a key").to_owned()
}

/// Starts something whose files were thrown out of memory, and has it warmed before it
/// reads them.
pub(crate) fn starts_warmed(start: &mut Command, shared: &Shared, image: &Path) {
    let child = spawn_warmed(start, shared, image);
    shared.go();
    ended(child);
}

/// Starts something whose files were thrown out of memory, and waits until they are back.
fn spawn_warmed(start: &mut Command, shared: &Shared, image: &Path) -> Child {
    let model = shared.model();
    evict(image);
    evict(&model);
    assert!(is_away(image) && is_away(&model));
    let child = spawn(start);
    let mut arrivals = [image, &model].map(Arrival::of);
    until("its files are in memory", || {
        let arrived = arrivals.iter_mut().all(|one| one.look().is_some());
        arrived.then_some(())
    });
    child
}

/// All that a start read was there before it: it was known before it had a cgroup.
fn was_early(node: &Node, key: &str, runs: u64, signal: &str) {
    let known = node.learned(key, runs);
    was_warmed(&known, &[signal]);
    let last = &known["last"];
    let number = |name: &str| {
        last[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {last}"))
    };
    let warmed_by = number("warm_delay_seconds") + number("warm_seconds");
    assert!(number("lead_seconds") > warmed_by, "{last}");
    assert_eq!(last["late"], 0, "{last}");
    let status = node.json(&["status"]).expect("answered");
    let totals = &status["totals"];
    assert!(totals["starts"][signal].as_u64() >= Some(1), "{status}");
    let leads = &totals["lead_by_signal"][signal];
    assert!(leads["count"].as_u64() >= Some(1), "{status}");
}

/// What became of what was warmed.
pub(crate) fn was_warmed(workload: &Value, signals: &[&str]) {
    let last = &workload["last"];
    let bytes = |name: &str| last[name].as_u64().expect("bytes");
    let signal = last["signal"].as_str().expect("a signal");
    assert!(signals.contains(&signal), "{workload}");
    assert!(bytes("read") >= 16 * MIB, "{workload}");
    assert!(bytes("used") >= 16 * MIB, "{workload}");
    // The program itself, which is in memory and waits for nothing, may be there first.
    assert!(bytes("late") <= 2 * MIB, "{workload}");
    let sum = bytes("used") + bytes("late") + bytes("wasted") + bytes("unknown");
    assert_eq!(bytes("planned"), sum, "{workload}");
}

/// What the profile names, and what it never does.
pub(crate) fn profile_is_portable(node: &Node, key: &str, scene: &Scene) {
    let shown = node.json(&["profile", "show", key]).expect("a profile");
    let files = shown["files"].as_array().expect("files");
    let text = |file: &Value, field: &str| file[field].as_str().expect("text").to_owned();
    let of_image = files
        .iter()
        .find(|file| text(file, "path") == "data/image.bin")
        .unwrap_or_else(|| panic!("the image's file: {shown}"));
    assert!(text(of_image, "volume").starts_with("layer:"), "{of_image}");
    assert_eq!(of_image["certain_bytes"], 8 * MIB, "{of_image}");
    let model = files
        .iter()
        .find(|file| text(file, "path").ends_with("vol/model"))
        .unwrap_or_else(|| panic!("the volume's file: {shown}"));
    assert!(!text(model, "volume").starts_with("layer:"), "{model}");
    // Nothing of this node's stores, of its runtime, of what that makes for each container.
    let outside = scene.path().join("vol");
    let outside = outside.strip_prefix("/").expect("absolute");
    for file in files {
        let is_layers = text(file, "volume").starts_with("layer:");
        let path = text(file, "path");
        assert!(is_layers || Path::new(&path).starts_with(outside), "{file}");
        for private in ["hosts", "hostname", "resolv.conf"] {
            assert!(!path.ends_with(private), "{file}");
        }
    }
    let exported = node.path("exported");
    let output = node.run(&["profile", "export", key, &exported.display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    let (_, profile) = decode(&fs::read(exported).expect("a file")).expect("a profile");
    for wanted in ["bin/sh", "bin/busybox", "data/image.bin"] {
        let is_of_layer = profile.names.iter().any(|name| {
            let volume = &profile.volumes[name.volume as usize];
            name.path.as_bytes() == wanted.as_bytes() && volume.id.0.starts_with("layer:")
        });
        assert!(is_of_layer, "{wanted}: {:?}", profile.names);
    }
}

#[test]
fn a_container_is_learned_and_the_next_of_its_kind_is_warmed() {
    let Some(scene) = Scene::new(&[]) else { return };
    let podman = scene.podman("one");
    let Some(mut first) = node(&scene, &podman.roots()) else {
        return;
    };
    let shared = Shared::new(&scene);
    let sh = ["/bin/sh", "-c", READS];
    first.start();
    let child = spawn(&mut by_podman(&podman, &shared, &sh));
    shared.go();
    ended(child);
    let known = named(&first, "web", 1);
    assert_eq!(known["runs"], 1, "{known}");
    assert_eq!(known["image"], IMAGE_NAME, "{known}");
    assert_eq!(known["kind"], "container", "{known}");
    profile_is_portable(&first, &key(&known), &scene);

    // One that dies at once, and one that never is.
    done(&mut by_podman(&podman, &shared, &["/bin/true"]));
    let none = by_podman(&podman, &shared, &["/bin/none"]).output();
    assert!(!none.expect("it starts").status.success());

    let image = image_file(&scene.path().join("one/graph/overlay"));
    // There is a bundle, and no cgroup for as long as one likes.
    let held = Held::new(&scene);
    let runtime = format!("--runtime={}", held.runc.display());
    let mut start = by_podman_with(&podman, &shared, &[&runtime], &sh);
    held.starts_warmed(&mut start, &shared, &image);
    was_early(&first, &key(&known), 2, "bundle");
    let exported = first.path("exported").display().to_string();
    first.run(&["profile", "export", &key(&known), &exported]);
    first.stop(libc::SIGTERM);

    // Another node: nothing is the same but the image and the profile.
    let elsewhere = scene.podman("two");
    let mut second = node(&scene, &elsewhere.roots()).expect("as the first");
    let output = second.run(&["profile", "import", &exported, "--as", &key(&known)]);
    assert!(output.status.success(), "{output:?}");
    second.start();
    let image = image_file(&scene.path().join("two/graph/overlay"));
    starts_warmed(&mut by_podman(&elsewhere, &shared, &sh), &shared, &image);
    let there = second.learned(&key(&known), 3);
    assert_eq!(there["starts"], 1, "{there}");
    // Its store may have had no container yet when the agent looked for its directories.
    was_warmed(&there, &["bundle", "cgroup"]);
    second.stop(libc::SIGTERM);

    // A third, where somebody knows before there is a container that tells of its layers.
    let mut third = node(&scene, &elsewhere.roots()).expect("as the first");
    third.run(&["profile", "import", &exported, "--as", &key(&known)]);
    third.start();
    evict(&image);
    third.notify(&key(&known));
    let mut arrival = Arrival::of(&image);
    until("the image's file is in memory", || arrival.look());
}

/// crun makes other processes and cgroups on the way to the same container. It runs it
/// privileged: to filter devices it wants a right that not every machine has.
#[test]
fn a_container_that_crun_runs_is_learned_and_warmed() {
    let Some(scene) = Scene::new(&["crun"]) else {
        return;
    };
    let podman = scene.podman("one");
    let Some(mut node) = node(&scene, &podman.roots()) else {
        return;
    };
    let shared = Shared::new(&scene);
    // Runtimes make another name up for each; the workload's is its image's then.
    let start = |name: &str| {
        let options = ["--runtime=crun", "--privileged", name];
        by_podman_with(&podman, &shared, &options, &["/bin/sh", "-c", READS])
    };
    node.start();
    let child = spawn(&mut start("--name=quiet_hill"));
    shared.go();
    ended(child);
    let known = named(&node, "quiet_hill", 1);
    assert_eq!(known["image"], IMAGE_NAME, "{known}");
    let image = image_file(&scene.path().join("one/graph/overlay"));
    starts_warmed(&mut start("--name=loud_sea"), &shared, &image);
    let known = node.learned(&key(&known), 2);
    was_warmed(&known, &["bundle", "cgroup"]);
    assert_eq!(known["name"], IMAGE_NAME, "{known}");
    node.stop(libc::SIGTERM);
    node.start();
    for name in ["quiet_hill", "loud_sea", IMAGE_NAME] {
        let found = node.json(&["explain", name]).expect("known by it");
        assert_eq!(found["key"], known["key"], "{name}");
    }
    node.stop(libc::SIGTERM);
}

#[test]
fn a_pods_container_in_containerd_is_learned_and_warmed() {
    let Some(scene) = Scene::new(&["containerd", "ctr"]) else {
        return;
    };
    let daemon = scene.containerd();
    let Some(mut node) = node(&scene, &daemon.roots()) else {
        return;
    };
    let shared = Shared::new(&scene);
    let sh = ["/bin/sh", "-c", READS];
    let id = |n: u8| format!("{n:064x}");
    node.start();
    let child = spawn(&mut by_containerd(&daemon, &shared, &id(1), "app", &sh));
    shared.go();
    ended(child);
    let known = named(&node, "app", 1);
    assert_eq!(known["image"], IMAGE_NAME, "{known}");
    assert!(key(&known).starts_with("container:app@"), "{known}");
    profile_is_portable(&node, &key(&known), &scene);

    // What labels say is shown to people.
    let odd = "a\nb\u{1b}[31m";
    let command = ["/bin/cat", "/data/image.bin"];
    done(&mut by_containerd(&daemon, &shared, &id(2), odd, &command));
    let oddly = named(&node, odd, 1);
    assert!(!key(&oddly).contains(['\n', '\u{1b}']), "{oddly}");
    for command in [&["workloads"][..], &["explain", &key(&oddly)]] {
        let output = node.run(command);
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.contains(&0x1b), "{output:?}");
    }

    let image = image_file(&scene.path().join("containerd/root"));
    // It is made, and has no cgroup for as long as one likes.
    let held = Held::new(&scene);
    let runc = held.runc.display().to_string();
    let options = ["--runc-binary", &runc];
    let mut start = by_containerd_with(&daemon, &shared, &options, &id(3), "app", &sh);
    held.starts_warmed(&mut start, &shared, &image);
    was_early(&node, &key(&known), 2, "runtime");
    let status = node.json(&["status"]).expect("answered");
    let features = status["features"].as_array().expect("features");
    for name in ["signal_runtime", "signal_bundle"] {
        let is_live = |f: &Value| f["name"] == name && f["live"] == true;
        assert!(features.iter().any(is_live), "{status}");
    }

    // One that hangs is told of, though its socket stays open.
    let is_live = |live: bool| {
        until("its hanging is seen, or its end", || {
            let feature = node.feature("signal_runtime")?;
            (feature["live"] == live).then_some(())
        });
    };
    daemon.signal(Signal::STOP);
    is_live(false);
    daemon.signal(Signal::CONT);
    is_live(true);
}

#[test]
fn a_container_or_an_image_that_goes_under_its_plan_costs_nothing_else() {
    let Some(scene) = Scene::new(&[]) else { return };
    let podman = scene.podman("one");
    // So slow that no plan is carried out to its end here.
    let slow = "bytes_per_second = \"256KiB\"";
    let Some(mut node) = node_with(&scene, &podman.roots(), slow) else {
        return;
    };
    let shared = Shared::new(&scene);
    let sh = ["/bin/sh", "-c", READS];
    let warming = |node: &Node, plans: u64| {
        until("so many plans are carried out", || {
            let status = node.json(&["status"])?;
            (status["warming"] == plans).then_some(())
        });
    };
    node.start();
    let child = spawn(&mut by_podman(&podman, &shared, &sh));
    shared.go();
    ended(child);
    let known = named(&node, "web", 1);
    let image = image_file(&scene.path().join("one/graph/overlay"));

    // The container goes: its plan with it.
    evict(&image);
    evict(&shared.model());
    let mut child = spawn(&mut by_podman(&podman, &shared, &sh));
    warming(&node, 1);
    done(podman.command().args(["rm", "-f", "-t", "0", "web"]));
    until("it has ended", || child.try_wait().expect("waited"));
    warming(&node, 0);
    assert!(resident_pages(&image).iter().any(|&there| !there));

    // The image goes, while it is warmed for a start that was told of.
    node.notify(&key(&known));
    done(podman.command().args(["rmi", "-f", IMAGE_NAME]));
    assert!(!image.exists());
    let again = node.run(&["notify", &key(&known)]);
    assert!(again.status.code().is_some(), "{again:?}");

    // It comes back, elsewhere, and is learned as before.
    done(podman.command().args(["load", "-q", "-i", "web.tar"]));
    let runs = named(&node, "web", 1)["runs"].as_u64().expect("runs");
    let child = spawn(&mut by_podman(&podman, &shared, &sh));
    shared.go();
    ended(child);
    node.learned(&key(&known), runs + 1);
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
}
