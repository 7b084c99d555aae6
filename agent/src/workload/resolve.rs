//! A place → the workload there, from what the node's runtimes have on disk.

use std::collections::BTreeSet;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::key::{Facts, container_keys, owner};
use super::labels::{self, Labels};
use super::layers::{Layers, layers};
use super::runtime::{Container, Roots, find};
use super::{
    Containerd, ContainerdError, Described, Directory, Place, Root, Runtime, Volumes, Workload,
    oci, unit, volumes,
};
use crate::attribute::Bind;
use crate::attribute::mountinfo::{self, Mount};
use crate::attribute::paths::join;
use crate::attribute::volume::may_hang;

/// Files that a runtime makes for each container and mounts over the image's.
const MADE_FOR_ONE: [&str; 5] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/run/.containerenv",
];

/// Directories by other names.
const MOST_OTHERS: usize = 4096;

/// Digits of an id that people are shown.
const SHORT_ID: usize = 12;

/// What is known of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identified {
    /// Who it is.
    Workload(Box<Workload>),
    /// A pod's pause container, which holds its namespaces and reads nothing worth it.
    Sandbox,
    /// No runtime knows it (yet, or any more), or what is known can't be read.
    Unknown,
}

/// What runs at a place: its keys, and where its volumes lie; `None` as for
/// [`Identified::Sandbox`] and [`Identified::Unknown`]. See [`identify`].
pub fn resolve<M: AsRef<[Mount]>>(
    place: &Place,
    roots: &Roots,
    mounts: impl FnOnce() -> M,
    containerd: &[Containerd],
) -> Option<Workload> {
    match identify(place, roots, mounts, containerd) {
        Identified::Workload(workload) => Some(*workload),
        Identified::Sandbox | Identified::Unknown => None,
    }
}

/// What runs at a place. `mounts` gives those of the moment in which it is asked, which it is
/// for containers that are known: their root filesystem is mounted before their cgroup is
/// made. Of `containerd` ([`Containerd::of`]) those are
/// asked that a container may be of, the one beside its state directory first; without any
/// of them its layers have no identity.
///
/// Takes a few ms, most of it for reading the lists of layers and containers, and as long
/// as containerd lets it wait: at most a second for each, and then not again for a while.
pub fn identify<M: AsRef<[Mount]>>(
    place: &Place,
    roots: &Roots,
    mounts: impl FnOnce() -> M,
    containerd: &[Containerd],
) -> Identified {
    let (id, pod) = match place {
        Place::Unit { name, user } => {
            return Identified::Workload(Box::new(Workload {
                kind: "unit",
                name: name.clone(),
                namespace: String::new(),
                image: String::new(),
                labels: Labels::new(),
                keys: unit::keys(name, *user),
                volumes: Volumes::default(),
            }));
        }
        Place::Container { id, pod, .. } => (id, pod.as_deref()),
    };
    let found = find(roots, id).unwrap_or_else(|error| {
        tracing::debug!(%error, "a container is not known");
        None
    });
    let Some(container) = found else {
        return Identified::Unknown;
    };
    if labels::is_sandbox(&container.labels) {
        return Identified::Sandbox;
    }
    let described = described(&container, id, containerd, Containerd::describe);
    let workload = workload(id, pod, container, described, roots, mounts().as_ref());
    Identified::Workload(Box::new(workload))
}

/// Who a container is that its runtime has made and not started: it has no cgroup, and
/// perhaps no root filesystem yet. What is not known now may be when it starts; see
/// [`identify`]. `namespace` is containerd's, where that told of the container.
pub fn foresee<M: AsRef<[Mount]>>(
    id: &str,
    namespace: Option<&str>,
    roots: &Roots,
    mounts: impl FnOnce() -> M,
    containerd: &[Containerd],
) -> Identified {
    let found = find(roots, id).unwrap_or_else(|error| {
        tracing::debug!(%error, "a container is not known");
        None
    });
    let (container, described) = match (found, namespace) {
        (Some(container), _) => {
            let described = described(&container, id, containerd, Containerd::foresee);
            (container, described)
        }
        (None, Some(namespace)) => {
            let answer = containerd.iter().find_map(|client| {
                let described = answer(client.foresee(namespace, id))?;
                Some((of_containerd(client, namespace, id, &described)?, described))
            });
            let Some(known) = answer else {
                return Identified::Unknown;
            };
            known
        }
        (None, None) => return Identified::Unknown,
    };
    let labels = labels::joined([container.labels.clone(), described.labels.clone()]);
    if labels::is_sandbox(&labels) {
        return Identified::Sandbox;
    }
    let will_be = root_path(&container).filter(|_| !described.overlay.is_empty());
    let will_be = will_be.map(|path| overlay_at(path, described.overlay.clone()));
    // What is mounted already is last, for that is what counts.
    let mounts: Vec<Mount> = will_be
        .into_iter()
        .chain(mounts().as_ref().iter().cloned())
        .collect();
    let pod = labels::pod_uid(&labels).map(str::to_owned);
    let workload = workload(id, pod.as_deref(), container, described, roots, &mounts);
    Identified::Workload(Box::new(workload))
}

/// A container whose bundle is not written yet; `None` where its configuration is not
/// understood.
fn of_containerd(
    client: &Containerd,
    namespace: &str,
    id: &str,
    described: &Described,
) -> Option<Container> {
    let config = oci::parse(&described.config);
    let config = config.inspect_err(|error| {
        tracing::debug!(%error, "a container is not known before it starts");
    });
    let state = client.sockets().first()?.parent()?;
    Some(Container::planned(state, namespace, id, config.ok()?))
}

/// What will be mounted.
fn overlay_at(mount_point: Vec<u8>, options: Vec<u8>) -> Mount {
    Mount {
        id: 0,
        parent: 0,
        device: (0, 0),
        root: b"/".to_vec(),
        mount_point,
        options: Vec::new(),
        fs_type: "overlay".to_owned(),
        source: b"overlay".to_vec(),
        super_options: options,
    }
}

/// What containerd says of one of its containers; nothing where it can't be asked.
fn described(
    container: &Container,
    id: &str,
    containerd: &[Containerd],
    ask: fn(&Containerd, &str, &str) -> Result<Option<Described>, ContainerdError>,
) -> Described {
    let Some(namespace) = &container.containerd_namespace else {
        return Described::default();
    };
    // Docker keeps images and layers by itself.
    if container.runtime != Runtime::Containerd {
        return Described::default();
    }
    let (own, others): (Vec<_>, Vec<_>) = containerd.iter().partition(|client| {
        let directory = client.sockets().first().and_then(|socket| socket.parent());
        directory.is_some_and(|directory| container.bundle.starts_with(directory))
    });
    let mut clients = own.into_iter().chain(others);
    let described = clients.find_map(|client| answer(ask(client, namespace, id)));
    described.unwrap_or_default()
}

fn answer(answer: Result<Option<Described>, ContainerdError>) -> Option<Described> {
    answer.unwrap_or_else(|error| {
        tracing::debug!(%error, "a container is known by its files alone");
        None
    })
}

fn workload(
    id: &str,
    pod: Option<&str>,
    container: Container,
    described: Described,
    roots: &Roots,
    mounts: &[Mount],
) -> Workload {
    let labels = labels::joined([container.labels.clone(), described.labels]);
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
    let root = root.map(|mount| (mount, binds(&mount.mount_point, &container, mounts)));
    let root = root.map(|(mount, binds)| Root {
        path: mount.mount_point.clone(),
        mount: mount.clone(),
        lower: layers
            .lower
            .iter()
            .map(|layer| layer.path.clone())
            .collect(),
        shown: shown(&binds, mounts),
        binds,
    });
    Workload {
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
    }
}

/// The first that says something.
fn first_of<const N: usize>(texts: [String; N]) -> String {
    let mut texts = texts.into_iter();
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

/// The mount of a container's root filesystem.
fn root_mount<'m>(container: &Container, mounts: &'m [Mount]) -> Option<&'m Mount> {
    let path = root_path(container)?;
    mounts.iter().rev().find(|mount| mount.mount_point == path)
}

/// Where a container's root filesystem is, or will be, mounted.
fn root_path(container: &Container) -> Option<Vec<u8>> {
    if container.config.root.is_empty() {
        return None;
    }
    let path = container.bundle.join(&container.config.root);
    // The directory of the bundle may be reached over a link (`/var/run`).
    let real = path.canonicalize().unwrap_or(path);
    Some(real.into_os_string().into_vec())
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
    let own = container
        .private
        .iter()
        .filter_map(|path| real(path, mounts));
    let made = container.config.mounts.iter().filter_map(|mount| {
        let is_made = MADE_FOR_ONE.contains(&mount.destination.as_str());
        is_made
            .then(|| real(Path::new(&mount.source), mounts))
            .flatten()
    });
    let never = private
        .chain(own)
        .chain(made)
        .map(|path| Directory { path, id: None });
    let of_pod = pod.into_iter().flat_map(|pod| {
        let kubelets = roots.kubelet.iter();
        kubelets.flat_map(move |kubelet| volumes::of_pod(kubelet, pod))
    });
    let mut all: Vec<Directory> = never.chain(of_layers).chain(of_pod).collect();
    // Last, for what is read from a profile is read where runtimes have it.
    let others: Vec<Directory> = all
        .iter()
        .flat_map(|directory| {
            let paths = volumes::elsewhere(&directory.path, mounts).into_iter();
            paths.map(|path| Directory {
                path,
                id: directory.id.clone(),
            })
        })
        .take(MOST_OTHERS)
        .collect();
    all.extend(others);
    let mut seen = BTreeSet::new();
    all.retain(|directory| directory.path != b"/" && seen.insert(directory.path.clone()));
    all
}

/// What is mounted in the container and nowhere else. Destinations are taken as they are
/// written: over a link of the image they are not found.
fn binds(root: &[u8], container: &Container, mounts: &[Mount]) -> Vec<Bind> {
    let binds = container.config.mounts.iter().filter_map(|mount| {
        let destination = mount.destination.trim_end_matches('/');
        let rel = destination
            .strip_prefix('/')
            .filter(|rel| !rel.is_empty())?;
        let is_bind = matches!(mount.kind.as_str(), "" | "bind" | "none");
        let from = is_bind.then(|| real(Path::new(&mount.source), mounts));
        Some((join(root, rel.as_bytes()), from.flatten()))
    });
    binds.collect()
}

/// Where the sources of mounts are on this node.
fn shown(binds: &[Bind], mounts: &[Mount]) -> Vec<Vec<u8>> {
    let sources = binds.iter().filter_map(|(_, from)| from.clone());
    sources
        .flat_map(|from| {
            let others = volumes::elsewhere(&from, mounts);
            std::iter::once(from).chain(others)
        })
        .take(MOST_OTHERS)
        .collect()
}

/// An absolute path without links, of what is there; as it is where looking might wait for
/// ever.
fn real(path: &Path, mounts: &[Mount]) -> Option<Vec<u8>> {
    if !path.is_absolute() {
        return None;
    }
    let bytes = path.as_os_str().as_bytes();
    let is_remote = mountinfo::covering(mounts, bytes).is_some_and(|m| may_hang(&m.fs_type));
    if is_remote {
        return Some(bytes.to_vec());
    }
    Some(path.canonicalize().ok()?.into_os_string().into_vec())
}

#[cfg(test)]
mod tests;
