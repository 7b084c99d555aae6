//! Files of runtimes, as they write them, and who is found by them.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::attribute::mountinfo;
use crate::workload::runtime::Storage;

const ID: &str = "4e2a7f0c9d3b5a6e8f1c2d4b6a8e0f1325476980badcfe1032547698abcdef01";
const UID: &str = "3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6";

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(path, text).expect("file");
}

fn roots(dir: &Path) -> Roots {
    Roots {
        containerd: vec![dir.join("run/containerd")],
        storage: vec![Storage {
            graph: dir.join("storage"),
            run: dir.join("run/storage"),
        }],
        docker: vec![dir.join("docker")],
        kubelet: vec![dir.join("kubelet")],
    }
}

fn container(pod: Option<&str>) -> Place {
    Place::Container {
        id: ID.into(),
        runtime: None,
        pod: pod.map(str::to_owned),
    }
}

#[test]
fn a_unit_needs_no_runtime() {
    let dir = tempfile::tempdir().expect("temp dir");
    let place = Place::Unit {
        name: "nginx.service".into(),
        user: None,
    };
    let workload = resolve(&place, &roots(dir.path()), || [], &[]).expect("a workload");
    assert_eq!(workload.kind, "unit");
    assert_eq!(workload.keys.0, ["unit:nginx.service"]);
}

#[test]
fn what_nobody_knows_is_unknown() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert_eq!(
        resolve(&container(None), &roots(dir.path()), || [], &[]),
        None
    );
    let bundle = dir
        .path()
        .join("run/containerd/io.containerd.runtime.v2.task/default")
        .join(ID);
    write(bundle.join("config.json"), "broken");
    assert_eq!(
        resolve(&container(None), &roots(dir.path()), || [], &[]),
        None
    );
}

#[test]
fn a_pods_container_has_its_name_layers_and_claims() {
    let temp = tempfile::tempdir().expect("temp dir");
    let dir = temp.path().canonicalize().expect("real path");
    let roots = roots(&dir);
    let userdata = dir
        .join("run/storage/overlay-containers")
        .join(ID)
        .join("userdata");
    let graph = dir.join("storage");
    let hosts = dir.join("hosts");
    write(hosts.clone(), "");
    let digest = format!("sha256:{}", "a".repeat(64));
    for layer in ["aa", "cc"] {
        fs::create_dir_all(graph.join("overlay").join(layer).join("diff")).expect("layer");
    }
    write(
        graph.join("overlay-layers/layers.json"),
        &format!(r#"[{{"id": "aa", "diff-digest": "{digest}"}}]"#),
    );
    let merged = graph.join("overlay/cc/merged");
    fs::create_dir_all(&merged).expect("directory");
    let config = |kind: &str| {
        format!(
            r#"{{"process": {{"args": ["python3"]}}, "root": {{"path": "{}"}},
            "mounts": [{{"destination": "/etc/hosts", "source": "{}", "type": "bind"}},
                       {{"destination": "/proc", "source": "proc", "type": "proc"}}],
            "annotations": {{
              "io.kubernetes.cri-o.ContainerType": "{kind}", "io.kubernetes.cri-o.Name": "k8s_app",
              "io.kubernetes.container.name": "app", "io.kubernetes.pod.namespace": "shop",
              "io.kubernetes.pod.name": "web-7d4b9c6f5d-x2x8p",
              "io.kubernetes.cri-o.ImageName": "registry/web:1"}}}}"#,
            merged.display(),
            hosts.display()
        )
    };
    write(userdata.join("config.json"), &config("container"));
    let claim = dir
        .join("kubelet/pods")
        .join(UID)
        .join("volumes/kubernetes.io~nfs/data");
    fs::create_dir_all(&claim).expect("directory");
    let mounts = mountinfo::parse(
        format!(
            "1 0 0:9 / {} rw - overlay overlay rw,lowerdir={g}/overlay/aa/diff,upperdir={g}/overlay/cc/diff\n",
            merged.display(),
            g = graph.display()
        )
        .as_bytes(),
    )
    .expect("valid");
    let workload = resolve(&container(Some(UID)), &roots, || &mounts, &[]).expect("a workload");
    assert_eq!(workload.name, "web/app");
    assert_eq!(workload.namespace, "shop");
    assert_eq!(workload.image, "registry/web:1");
    assert!(
        workload.keys.0[0].starts_with("container:shop/web/app@"),
        "{:?}",
        workload.keys
    );
    assert_eq!(workload.keys.0.len(), 4);
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let id_of = |path: &Path| {
        let of = |directory: &&Directory| directory.path == bytes(path);
        workload
            .volumes
            .directories
            .iter()
            .find(of)
            .map(|d| d.id.clone())
    };
    assert_eq!(
        id_of(&graph.join("overlay/aa/diff")),
        Some(Some(format!("layer:{digest}")))
    );
    assert_eq!(id_of(&graph.join("overlay/cc/diff")), Some(None));
    assert_eq!(id_of(&hosts), Some(None));
    assert_eq!(id_of(userdata.parent().expect("parent")), Some(None));
    assert_eq!(
        id_of(&claim),
        Some(Some("claim:kubernetes.io/nfs:data".into()))
    );
    let root = workload.volumes.root.clone().expect("a root");
    assert_eq!(root.path, bytes(&merged));
    assert_eq!(root.lower, [bytes(&graph.join("overlay/aa/diff"))]);
    let at = [bytes(&merged), b"/etc/hosts".to_vec()].concat();
    assert_eq!(root.binds[0], (at, Some(bytes(&hosts))));
    assert_eq!(root.binds[1].1, None);
    // Its pod's pause container looks alike.
    write(userdata.join("config.json"), &config("sandbox"));
    let sandbox = identify(&container(Some(UID)), &roots, || &mounts, &[]);
    assert_eq!(sandbox, Identified::Sandbox);
}
