//! Real containers of Podman and containerd, and what is told of them; what one node
//! learns, on another.
//!
//! The containers need root, the runtimes, runc and busybox; what is missing is said on
//! standard error.

#[path = "../common/containers.rs"]
mod containers;
mod scene;
mod travel;

use std::collections::BTreeSet;

use headstart::model::{NameKind, NameTouch, RelPath, Trace, Volume, VolumeId};
use headstart::workload::{
    Containerd, Identified, Place, Runtime, Workload, identify, place, translate,
};

use containers::Scene;
use scene::{Running, in_containerd, in_podman};

/// Who a container is, by the path of its cgroup.
fn who(running: &Running) -> Workload {
    let place = place(&running.cgroup).expect("a container's cgroup");
    let Place::Container { id, .. } = &place else {
        panic!("a container's cgroup is taken for {place:?}");
    };
    assert_eq!(*id, running.id);
    let clients = Containerd::of(&running.roots);
    match identify(&place, &running.roots, || &running.mounts, &clients) {
        Identified::Workload(workload) => *workload,
        other => panic!("a running container is {other:?}"),
    }
}

/// Identities of the layers, the uppermost first.
fn layers(workload: &Workload) -> Vec<String> {
    let root = workload.volumes.root.as_ref().expect("a root filesystem");
    let of = |path: &Vec<u8>| {
        let mut directories = workload.volumes.directories.iter();
        let directory = directories.find(|directory| directory.path == *path);
        directory.and_then(|directory| directory.id.clone())
    };
    root.lower
        .iter()
        .map(|path| of(path).expect("an identity"))
        .collect()
}

fn directories(workload: &Workload) -> BTreeSet<Vec<u8>> {
    let root = workload.volumes.root.as_ref().expect("a root filesystem");
    root.lower.iter().cloned().collect()
}

/// Directories that nothing is recorded of.
fn private(workload: &Workload) -> usize {
    let directories = workload.volumes.directories.iter();
    directories
        .filter(|directory| directory.id.is_none())
        .count()
}

/// The kernel looks a name of an overlay filesystem up in its layers.
fn names_become_those_of_layers(workload: &Workload) {
    let root = workload.volumes.root.as_ref().expect("a root filesystem");
    let name = |path: &str| NameTouch {
        volume: 0,
        path: RelPath::new(path.as_bytes()).expect("valid"),
        kind: NameKind::File,
        listed: false,
        first_use_ns: 1,
    };
    let trace = Trace {
        volumes: vec![Volume {
            id: VolumeId("path:root".into()),
            fs_type: "overlay".into(),
            mount_point: root.path.clone(),
        }],
        names: ["bin", "bin/sleep", "added", "bin/none"].map(name).to_vec(),
        ..Trace::default()
    };
    let trace = translate(&workload.volumes, trace);
    let found = trace.names.iter().map(|name| {
        let volume = &trace.volumes[name.volume as usize];
        (volume.id.0.clone(), name.path.to_string(), name.kind)
    });
    let layers = layers(workload);
    let (upper, lower) = (&layers[0], &layers[1]);
    let wanted = [
        (upper, "bin", NameKind::Missing),
        (lower, "bin", NameKind::Directory),
        (lower, "bin/sleep", NameKind::Symlink),
        (upper, "added", NameKind::File),
        (lower, "bin/none", NameKind::Missing),
    ];
    let wanted = wanted.map(|(layer, path, kind)| (layer.clone(), path.to_owned(), kind));
    assert_eq!(found.collect::<Vec<_>>(), wanted);
}

#[test]
fn one_image_is_known_again_in_another_store() {
    let Some(scene) = Scene::new(&[]) else {
        return;
    };
    let stores = (scene.podman("one"), scene.podman("two"));
    let first = in_podman(&scene, &stores.0);
    let second = in_podman(&scene, &stores.1);
    assert!(matches!(
        place(&first.cgroup),
        Some(Place::Container {
            runtime: Some(Runtime::Podman),
            pod: None,
            ..
        })
    ));
    let (a, b) = (who(&first), who(&second));
    assert_eq!(a.kind, "container");
    assert_eq!(a.name, "web");
    assert_eq!(a.image, "localhost/web:1");
    assert!(a.keys.0[0].starts_with("image:"), "{:?}", a.keys);
    assert_eq!(
        a.keys.0[1].split('#').next(),
        Some("repository:localhost/web")
    );
    assert_eq!(a.keys, b.keys);
    assert_eq!(layers(&a), layers(&b));
    assert_eq!(layers(&a).len(), 2);
    assert!(layers(&a).iter().all(|id| id.starts_with("layer:sha256:")));
    assert!(directories(&a).is_disjoint(&directories(&b)));
    names_become_those_of_layers(&a);
    // The layer that is written to, what Podman made for it, its /etc/hosts.
    assert!(private(&a) >= 3, "{:?}", a.volumes);
}

#[test]
fn containerd_tells_image_labels_and_layers() {
    let Some(scene) = Scene::new(&["containerd", "ctr"]) else {
        return;
    };
    let (podman, daemon) = (scene.podman("one"), scene.containerd());
    let by_podman = in_podman(&scene, &podman);
    let by_containerd = in_containerd(&scene, &daemon);
    let (a, b) = (who(&by_podman), who(&by_containerd));
    let in_pod = matches!(
        place(&by_containerd.cgroup),
        Some(Place::Container { pod: Some(_), .. })
    );
    assert!(in_pod);
    assert_eq!(b.image, "localhost/web:1");
    assert_eq!(b.labels["io.kubernetes.container.name"], "app");
    assert!(b.keys.0[0].starts_with("container:app@"), "{:?}", b.keys);
    let (of_podman, of_containerd) = (layers(&a), layers(&b));
    assert_eq!(of_containerd.len(), 2);
    assert!(of_containerd[0].starts_with("layer:chain:sha256:"));
    // A chain of one is the layer.
    assert_eq!(of_podman.last(), of_containerd.last());
    // Without its API it has neither labels nor layers, and is known by less.
    let place = place(&by_containerd.cgroup).expect("a place");
    let Identified::Workload(alone) =
        identify(&place, &by_containerd.roots, || &by_containerd.mounts, &[])
    else {
        panic!("its files are there");
    };
    assert_eq!(alone.volumes.root, b.volumes.root);
    assert!(
        alone
            .volumes
            .directories
            .iter()
            .all(|directory| directory.id.is_none())
    );
}
