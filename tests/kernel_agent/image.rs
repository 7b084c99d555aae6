//! The agent as a cluster runs it: in its image, with the rights, the mounts and the
//! configuration of its DaemonSet, and no others. Podman stands in for the kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::containers::{
    READS, Shared, ended, image_file, key, named, spawn, starts_warmed, was_warmed,
};
use crate::node::{Node, until};
use crate::scene::{Daemon, IMAGE_NAME, Podman, Scene, done};

/// Where `cargo xtask build --static` left what the image is made of.
const IMAGE: &str = "HEADSTART_IMAGE";
const TAG: &str = "localhost/headstart:test";
/// The pod that the test's containers are of.
const POD: &str = "3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pod() -> Value {
    let path = root().join("deploy/kustomize/base/daemonset.yaml");
    let text = fs::read_to_string(path).expect("the DaemonSet");
    let set: Value = serde_saphyr::from_str(&text).expect("YAML");
    set["spec"]["template"]["spec"].clone()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Has every directory of the node that the DaemonSet mounts be one of the scene's, on its
/// disk, at the path that it has on a node.
fn lay_out(scene: &Scene, pod: &Value) {
    scene.shell(
        "mount --make-rshared /; mount -t tmpfs none /run; mount -t tmpfs none /var/lib; \
         mkdir node node/etc",
    );
    let paths = list(&pod["volumes"]).filter_map(|volume| volume["hostPath"]["path"].as_str());
    for path in paths.filter(|path| !path.starts_with("/sys")) {
        scene.shell(&format!(
            "mkdir -p node{path} {path}; mount --bind node{path} {path}"
        ));
    }
    let config = root().join("deploy/kustomize/base/config.toml");
    fs::copy(config, scene.path().join("node/etc/config.toml")).expect("copied");
}

/// `podman run` of the agent's container as the DaemonSet describes it. Of that left out
/// are its network, which nothing here asks for but the test, and the limit of its memory,
/// for which a machine with cgroup v1 has no controller.
fn by_manifest(scene: &Scene, podman: &Podman<'_>, pod: &Value) -> Command {
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(pod["hostPID"], true);
    let mut run = podman.run(&[
        "--rm",
        "--name=headstart",
        "--cgroupns=private",
        "--read-only",
        "--read-only-tmpfs=false",
        "--pid=host",
        "--security-opt=no-new-privileges",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
    ]);
    for (key, option) in [("drop", "--cap-drop"), ("add", "--cap-add")] {
        let names = list(&security["capabilities"][key]);
        run.args(names.map(|name| format!("{option}={}", text(name))));
    }
    for mount in list(&container["volumeMounts"]) {
        let mut volumes = list(&pod["volumes"]);
        let volume = volumes.find(|volume| volume["name"] == mount["name"]);
        let source = match volume.expect("a volume")["hostPath"]["path"].as_str() {
            Some(path) => PathBuf::from(path),
            // The ConfigMap.
            None => scene.path().join("node/etc"),
        };
        let access = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        let propagation = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => "rslave",
            _ => "rprivate",
        };
        run.arg(format!(
            "--volume={}:{}:{access},{propagation}",
            source.display(),
            text(&mount["mountPath"])
        ));
    }
    run.arg(TAG);
    run.args(list(&container["args"]).map(text));
    run
}

/// What the agent's endpoint answers, asked for where the kubelet would: at the pod's address.
fn answer(podman: &Podman<'_>, path: &str) -> Option<String> {
    let mut inspect = podman.command();
    let output = inspect
        .args(["inspect", "--format", "{{.State.Pid}}", "headstart"])
        .output()
        .expect("podman");
    let pid: u32 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .ok()?;
    let mut ask = Command::new("nsenter");
    ask.arg(format!("--net=/proc/{pid}/ns/net"));
    ask.args(["--", "busybox", "wget", "-q", "-O", "-"]);
    let output = ask
        .arg(format!("http://127.0.0.1:9469{path}"))
        .output()
        .expect("wget");
    let body = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(body)
}

/// A claim's volume, where the kubelet has it.
fn claim(scene: &Scene) -> Shared {
    let volume = format!("node/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pv-1");
    let volume = scene.path().join(volume);
    fs::create_dir_all(&volume).expect("a directory");
    fs::write(
        volume.join("vol_data.json"),
        r#"{"driverName": "csi.test", "volumeHandle": "v1", "volumeLifecycleMode": "Persistent"}"#,
    )
    .expect("written");
    Shared::at(volume.join("mount"))
}

/// Features that the agent does without.
fn missing(node: &Node) -> Vec<String> {
    let status = node.json(&["status"]).expect("answered");
    let missing = list(&status["features"]).filter(|feature| feature["live"] != true);
    missing
        .map(|feature| text(&feature["name"]).to_owned())
        .collect()
}

fn start(daemon: &Daemon<'_>, name: &str, number: u8) -> Command {
    let mount = format!(
        "type=bind,src=/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~csi/pv-1/mount,\
         dst=/vol,options=rbind:ro"
    );
    let id = format!("{number:064x}");
    let label = format!("io.kubernetes.container.name={name}");
    let mut run = daemon.run(&id, &["--rm", "--mount", &mount, "--label", &label]);
    run.args([IMAGE_NAME, &id, "/bin/sh", "-c", READS]);
    run
}

#[test]
fn in_its_image_with_its_daemon_sets_rights_it_learns_and_warms() {
    let Some(image) = std::env::var_os(IMAGE) else {
        eprintln!("SKIPPED: {IMAGE} names no directory with an agent that is linked statically");
        return;
    };
    let Some(scene) = Scene::new(&["containerd", "ctr"]) else {
        return;
    };
    let Some(node) = Node::new() else { return };
    let node = node.inside(scene.process());
    let node = node.run_elsewhere("/run/headstart/agent.sock", "/var/lib/headstart");
    let pod = pod();
    lay_out(&scene, &pod);
    let podman = scene.podman("pods");
    let mut build = podman.command();
    build
        .args(["build", "--isolation=chroot", "-q", "-t", TAG, "--file"])
        .arg(root().join("deploy/image/Containerfile"));
    done(build.arg(image));

    let daemon = scene.containerd_at(
        Path::new("/var/lib/containerd"),
        Path::new("/run/containerd"),
    );
    let mut as_root = Node::new().expect("as before").inside(scene.process());
    as_root.start();
    let elsewhere = missing(&as_root);
    as_root.stop(libc::SIGTERM);
    // Older than the agent.
    let shared = claim(&scene);
    let older = spawn(&mut start(&daemon, "older", 1));
    let agent = spawn(&mut by_manifest(&scene, &podman, &pod));
    until("the agent is ready", || answer(&podman, "/readyz"));
    until("it lives", || answer(&podman, "/livez"));
    until("the older container is known", || {
        let known = node.json(&["workloads"])?;
        let is_it = |w: &Value| w["name"] == "older" && w["live"] == 1;
        known["workloads"]
            .as_array()?
            .iter()
            .any(is_it)
            .then_some(())
    });
    shared.go();
    ended(older);

    let child = spawn(&mut start(&daemon, "app", 2));
    shared.go();
    ended(child);
    let known = named(&node, "app", 1);
    assert_eq!(known["image"], IMAGE_NAME, "{known}");
    let shown = node
        .json(&["profile", "show", &key(&known)])
        .expect("a profile");
    let volumes: Vec<&str> = list(&shown["files"])
        .map(|file| text(&file["volume"]))
        .collect();
    assert!(volumes.contains(&"claim:csi.test:v1"), "{volumes:?}");

    let layers = image_file(&scene.path().join("node/var/lib/containerd"));
    starts_warmed(&mut start(&daemon, "app", 3), &shared, &layers);
    let again = node.learned(&key(&known), 2);
    was_warmed(&again, &["runtime", "bundle", "cgroup"]);

    assert_eq!(missing(&node), elsewhere, "as root, without an image");
    let metrics = answer(&podman, "/metrics").expect("metrics");
    assert!(metrics.contains("headstart_build_info"), "{metrics}");

    done(podman.command().args(["stop", "-t", "30", "headstart"]));
    ended(agent);
    assert!(!scene.path().join("node/run/headstart/agent.sock").exists());
}
