//! Who reads, and what: a cgroup's path → a workload, its key in the store, and the
//! volumes that its files lie in.
//!
//! Invariant: what is not known stays unknown. A workload whose identity can't be told
//! has a key of less confidence, or none.

mod bundles;
mod cgroup;
mod containerd;
mod file;
mod key;
mod labels;
pub mod layers;
pub mod oci;
pub mod overlay;
mod resolve;
pub mod runtime;
mod translate;
pub mod unit;
pub mod volumes;

pub use bundles::Bundles;
pub use cgroup::{place, topmost};
pub use containerd::{
    Containerd, ContainerdError, Described, Heard, decode as decode_event, follow,
};
pub use key::{Facts, container_keys, named_by};
pub use resolve::{Identified, foresee, identify, resolve};
pub use runtime::Roots;
pub use translate::{Seen, Translated, localize, lstat, places, translate, translate_with};

use std::collections::BTreeMap;

/// A cgroup that is, or belongs to, something that starts again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A container.
    Container {
        /// As its runtime calls it.
        id: String,
        /// As far as the path tells; `None` where several runtimes make such paths.
        runtime: Option<Runtime>,
        /// UID of its pod: a UUID with dashes, of a static pod 32 digits without.
        pod: Option<String>,
    },
    /// A systemd unit.
    Unit {
        /// With its suffix, unescaped by nobody: `nginx.service`.
        name: String,
        /// Of the user manager that it belongs to; `None` for the system's.
        user: Option<u32>,
    },
}

/// What made a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// containerd, with or without Kubernetes.
    Containerd,
    /// CRI-O.
    Crio,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
}

/// What a workload is called in the store, the surest first: the first that has a
/// profile is warmed from, the first of all is what is learned into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(pub Vec<String>);

/// Something that starts again and again and reads alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `unit` or `container`.
    pub kind: &'static str,
    /// For people.
    pub name: String,
    /// Kubernetes namespace; empty where it is not known.
    pub namespace: String,
    /// Image reference; empty where it is not known.
    pub image: String,
    /// Labels and annotations, as the runtime has them.
    pub labels: BTreeMap<String, String>,
    /// Its keys.
    pub keys: Keys,
    /// Where its volumes lie on this node.
    pub volumes: Volumes,
}

/// Directories of this node that are volumes with an identity of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// Each directory once.
    pub directories: Vec<Directory>,
    /// The container's root filesystem and the layers that it shows, the uppermost
    /// first (without the writable one); `None` for what is no container.
    pub root: Option<Root>,
}

/// A directory that is a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Absolute, without symbolic links.
    pub path: Vec<u8>,
    /// What holds on another node too (`layer:sha256:…`, `claim:…`); `None`: what is
    /// below it is never recorded.
    pub id: Option<String>,
}

/// A container's root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Where this node has it mounted.
    pub path: Vec<u8>,
    /// The mount itself: when it is learned what the container read, it may be gone.
    pub mount: crate::attribute::mountinfo::Mount,
    /// Directories of the layers, absolute, the uppermost first.
    pub lower: Vec<Vec<u8>>,
    /// Directories and files of this node that it shows besides, by every path that they
    /// have here.
    pub shown: Vec<Vec<u8>>,
    /// What is mounted for the container alone: where, below `path`, and what of this
    /// node is there instead; `None` for what holds no data (proc, tmpfs).
    pub binds: Vec<crate::attribute::Bind>,
}
