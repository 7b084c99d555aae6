//! A place → the workload there, from what the node's runtimes have on disk.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::key::{Facts, container_keys, owner};
use super::labels::{self, Labels};
use super::layers::{Layers, layers};
use super::runtime::{Container, Roots, find};
use super::{
    Containerd, Described, Directory, Place, Root, Runtime, Volumes, Workload, unit, volumes,
};
use crate::attribute::mountinfo::Mount;

/// Files that a runtime makes for each container and mounts over the image's.
const MADE_FOR_ONE: [&str; 5] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/run/.containerenv",
];

/// Digits of an id that people are shown.
const SHORT_ID: usize = 12;

/// What runs at a place: its keys, and where its volumes lie. `mounts` are those of this
/// moment: a container's root filesystem is mounted before its cgroup is made. Of
/// `containerd` those are asked that a container may be of, the one below its state
/// directory first.
///
/// `None`: no runtime knows it (any more), what is known can't be read, or it is a pod's
/// pause container. Takes a few ms, of which reading lists of layers and containers is the
/// most; as long as containerd lets it wait where that is asked.
pub fn resolve(
    place: &Place,
    roots: &Roots,
    mounts: &[Mount],
    containerd: &[Containerd],
) -> Option<Workload> {
    match place {
        Place::Unit { name, user } => Some(Workload {
            kind: "unit",
            name: name.clone(),
            namespace: String::new(),
            image: String::new(),
            labels: Labels::new(),
            keys: unit::keys(name, *user),
            volumes: Volumes::default(),
        }),
        Place::Container { id, pod, .. } => {
            let found = find(roots, id).unwrap_or_else(|error| {
                tracing::debug!("container {id}: {error}");
                None
            });
            let container = found?;
            let described = described(&container, id, containerd);
            workload(id, pod.as_deref(), container, described, roots, mounts)
        }
    }
}

/// What containerd says of one of its containers; nothing where it can't be asked.
fn described(container: &Container, id: &str, containerd: &[Containerd]) -> Described {
    let Some(namespace) = &container.containerd_namespace else {
        return Described::default();
    };
    // Docker keeps images and layers by itself.
    if container.runtime != Runtime::Containerd {
        return Described::default();
    }
    let (own, others): (Vec<_>, Vec<_>) = containerd.iter().partition(|client| {
        let directory = client.socket().parent();
        directory.is_some_and(|directory| container.bundle.starts_with(directory))
    });
    let mut answers = own.into_iter().chain(others).filter_map(|client| {
        client.describe(namespace, id).unwrap_or_else(|error| {
            tracing::debug!("container {id}: {error}");
            None
        })
    });
    answers.next().unwrap_or_default()
}

fn workload(
    id: &str,
    pod: Option<&str>,
    container: Container,
    described: Described,
    roots: &Roots,
    mounts: &[Mount],
) -> Option<Workload> {
    let labels = labels::joined([container.labels.clone(), described.labels]);
    if labels::is_sandbox(&labels) {
        return None;
    }
    let root = root_mount(&container, mounts);
    let layers = root.map_or_else(Layers::default, |mount| layers(mount, &described.chain));
    let named = labels::named(&labels);
    let owner = owner(&labels, &named.pod);
    let image = first_of([container.image.clone(), described.image]);
    let image_id = first_of([container.image_id.clone(), described.image_digest]);
    let identities = identities(&layers);
    let keys = container_keys(&Facts {
        namespace: &named.namespace,
        owner: &owner,
        name: &named.container,
        image: &image,
        image_id: &image_id,
        layers: &identities,
        args: &container.config.args,
    });
    let name = match (named.container.as_str(), owner.as_str()) {
        ("", _) => {
            let short = id.get(..SHORT_ID).unwrap_or(id);
            first_of([container.name.clone(), short.to_owned()])
        }
        (name, "") => name.to_owned(),
        (name, owner) => format!("{owner}/{name}"),
    };
    let root = root.map(|mount| Root {
        path: mount.mount_point.clone(),
        lower: layers.lower.iter().map(|layer| layer.path.clone()).collect(),
    });
    Some(Workload {
        kind: "container",
        name,
        namespace: named.namespace,
        image,
        labels,
        keys,
        volumes: Volumes {
            directories: directories(pod, &container, &layers, roots, mounts),
            root,
        },
    })
}

/// The first that says something.
fn first_of<const N: usize>(texts: [String; N]) -> String {
    let mut texts = texts.into_iter();
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

/// The mount of a container's root filesystem.
fn root_mount<'m>(container: &Container, mounts: &'m [Mount]) -> Option<&'m Mount> {
    if container.config.root.is_empty() {
        return None;
    }
    let path = container.bundle.join(&container.config.root);
    // The directory of the bundle may be reached over a link (`/var/run`).
    let real = path.canonicalize().unwrap_or(path);
    let real = real.as_os_str().as_bytes();
    mounts.iter().rev().find(|mount| mount.mount_point == real)
}

/// Identities of all layers; none where one is not known, for then they tell no images
/// apart.
fn identities(layers: &Layers) -> Vec<String> {
    let shared = layers
        .lower
        .iter()
        .filter(|layer| !layers.private.contains(&layer.path));
    let ids: Option<Vec<String>> = shared.map(|layer| layer.id.clone()).collect();
    ids.unwrap_or_default()
}

/// Each directory once; of two of a path the first.
fn directories(
    pod: Option<&str>,
    container: &Container,
    layers: &Layers,
    roots: &Roots,
    mounts: &[Mount],
) -> Vec<Directory> {
    let of_layers = layers.lower.iter().filter_map(|layer| {
        Some(Directory {
            path: layer.path.clone(),
            id: Some(layer.id.clone()?),
        })
    });
    let private = layers.private.iter().cloned();
    let own = container.private.iter().filter_map(|path| real(path));
    let made = container.config.mounts.iter().filter_map(|mount| {
        let is_made = MADE_FOR_ONE.contains(&mount.destination.as_str());
        is_made.then(|| real(Path::new(&mount.source))).flatten()
    });
    let never = private.chain(own).chain(made).map(|path| Directory { path, id: None });
    let of_pod = pod.into_iter().flat_map(|pod| {
        let kubelets = roots.kubelet.iter();
        kubelets.flat_map(move |kubelet| volumes::of_pod(kubelet, pod, mounts))
    });
    let mut all: Vec<Directory> = never.chain(of_layers).chain(of_pod).collect();
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|directory| directory.path != b"/" && seen.insert(directory.path.clone()));
    all
}

/// An absolute path without links, of what is there.
fn real(path: &Path) -> Option<Vec<u8>> {
    if !path.is_absolute() {
        return None;
    }
    Some(path.canonicalize().ok()?.into_os_string().into_vec())
}

#[cfg(test)]
mod tests;
