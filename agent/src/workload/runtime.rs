//! What runtimes have on disk of a container: its bundle, its name, its image.
//!
//! Nobody is asked: the files are there before the container's cgroup is, and as long as
//! the container is. One that is missing is an ordinary "not known".

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Runtime;
use super::file::read_bounded;
use super::labels::{self, Labels};
use super::oci::{self, Config};

/// Largest list of containers that is read, bytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// containerd namespaces looked at in one state directory.
const MAX_NAMESPACES: usize = 256;

/// Below a state directory of containerd: `<namespace>/<id>` are bundles.
pub(super) const TASKS: &str = "io.containerd.runtime.v2.task";

/// Where the runtimes of a node keep what they know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// State directories of containerd (`/run/containerd`), Docker's too.
    pub containerd: Vec<PathBuf>,
    /// Podman's and CRI-O's storage.
    pub storage: Vec<Storage>,
    /// Docker's data directories (`/var/lib/docker`).
    pub docker: Vec<PathBuf>,
    /// The kubelet's directories (`/var/lib/kubelet`).
    pub kubelet: Vec<PathBuf>,
}

/// A storage of Podman or CRI-O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// `/var/lib/containers/storage`.
    pub graph: PathBuf,
    /// `/run/containers/storage`.
    pub run: PathBuf,
}

impl Default for Roots {
    /// Where packages put them; k3s, k0s and MicroK8s too.
    fn default() -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Self {
            containerd: paths(&[
                "/run/containerd",
                "/run/docker/containerd/daemon",
                "/run/k3s/containerd",
                "/run/k0s/containerd",
                "/var/snap/microk8s/common/run/containerd",
            ]),
            storage: vec![Storage {
                graph: "/var/lib/containers/storage".into(),
                run: "/run/containers/storage".into(),
            }],
            docker: paths(&["/var/lib/docker"]),
            kubelet: paths(&[
                "/var/lib/kubelet",
                "/var/lib/k0s/kubelet",
                "/var/snap/microk8s/common/var/lib/kubelet",
            ]),
        }
    }
}

/// A container, as its runtime's files describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What made it.
    pub runtime: Runtime,
    /// Namespace of containerd, not of Kubernetes.
    pub containerd_namespace: Option<String>,
    /// Where its `config.json` is.
    pub bundle: PathBuf,
    /// Its `config.json`.
    pub config: Config,
    /// The runtime's name for it; empty where it has none.
    pub name: String,
    /// Image reference; empty where it is not known.
    pub image: String,
    /// Image id; empty where it is not known.
    pub image_id: String,
    /// Labels and annotations.
    pub labels: Labels,
    /// Directories that hold nothing but this container's own files (`/etc/hosts`).
    pub private: Vec<PathBuf>,
}

impl Container {
    /// A container of containerd, of which there is its configuration; its bundle may still
    /// have to be written.
    pub(super) fn planned(state: &Path, namespace: &str, id: &str, config: Config) -> Self {
        let bundle = state.join(TASKS).join(namespace).join(id);
        let labels = labels::joined([config.annotations.clone()]);
        Self {
            runtime: Runtime::Containerd,
            containerd_namespace: Some(namespace.to_owned()),
            image: image_of(&labels),
            image_id: String::new(),
            name: String::new(),
            labels,
            private: vec![bundle.clone()],
            config,
            bundle,
        }
    }
}

fn image_of(labels: &Labels) -> String {
    labels::image(labels).unwrap_or_default().to_owned()
}

/// Why what there is of a container can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file of the runtime can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The container's configuration is not understood.
    #[error("{path}: {source}")]
    Config {
        /// Which.
        path: String,
        /// Why.
        source: oci::ConfigError,
    },
}

/// Finds a container by its id. `None`: no runtime here knows it (any more).
///
/// # Errors
/// Its bundle is there and can't be read or understood.
pub fn find(roots: &Roots, id: &str) -> Result<Option<Container>, RuntimeError> {
    if !is_id(id) {
        return Ok(None);
    }
    if let Some(container) = in_containerd(roots, id)? {
        return Ok(Some(container));
    }
    for storage in &roots.storage {
        if let Some(container) = in_storage(storage, id)? {
            return Ok(Some(container));
        }
    }
    Ok(None)
}

/// One component of a path, as runtimes make ids.
pub(super) fn is_id(id: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=128).contains(&id.len()) && id.bytes().all(is_fine) && !id.starts_with('.')
}

fn in_containerd(roots: &Roots, id: &str) -> Result<Option<Container>, RuntimeError> {
    for state in &roots.containerd {
        let Ok(namespaces) = std::fs::read_dir(state.join(TASKS)) else {
            continue;
        };
        for entry in namespaces.take(MAX_NAMESPACES).flatten() {
            let bundle = entry.path().join(id);
            let Some(config) = config(&bundle)? else {
                continue;
            };
            let namespace = entry.file_name().to_string_lossy().into_owned();
            let mut container = Container::planned(state, &namespace, id, config);
            let is_dockers = container.containerd_namespace.as_deref() == Some("moby");
            let known = is_dockers.then(|| docker(roots, id)).flatten();
            let (of_docker, directory) = known.unzip();
            if let Some(docker) = of_docker {
                container.runtime = Runtime::Docker;
                container.name = docker.name.trim_start_matches('/').to_owned();
                container.image_id = docker.image;
                container.labels = labels::joined([container.labels, docker.config.labels]);
                container.image = match docker.config.image.as_str() {
                    "" => image_of(&container.labels),
                    _ => docker.config.image,
                };
                container.private.extend(directory);
            }
            return Ok(Some(container));
        }
    }
    Ok(None)
}

/// `config.v2.json`, of which this much is of interest.
#[derive(Deserialize)]
struct Docker {
    #[serde(default, rename = "Name")]
    name: String,
    #[serde(default, rename = "Image")]
    image: String,
    #[serde(default, rename = "Config")]
    config: DockerConfig,
}

#[derive(Default, Deserialize)]
struct DockerConfig {
    #[serde(default, rename = "Image")]
    image: String,
    #[serde(default, rename = "Labels", deserialize_with = "oci::texts_by_name")]
    labels: Labels,
}

fn docker(roots: &Roots, id: &str) -> Option<(Docker, PathBuf)> {
    roots.docker.iter().find_map(|root| {
        let directory = root.join("containers").join(id);
        let path = directory.join("config.v2.json");
        let bytes = read_bounded(&path, oci::MAX_BYTES as u64).ok()?;
        Some((serde_json::from_slice(&bytes).ok()?, directory))
    })
}

fn in_storage(storage: &Storage, id: &str) -> Result<Option<Container>, RuntimeError> {
    // CRI-O starts the one below the run directory and keeps a copy; Podman has one only.
    for directory in [&storage.run, &storage.graph] {
        let own = directory.join("overlay-containers").join(id);
        let bundle = own.join("userdata");
        let Some(config) = config(&bundle)? else {
            continue;
        };
        let labels = labels::joined([config.annotations.clone()]);
        // Podman has an annotation of the same name in containers of pods.
        let is_crio = labels.contains_key("io.kubernetes.cri-o.Name")
            || labels.contains_key("io.kubernetes.cri-o.ContainerID");
        let record = listed(storage, id).unwrap_or_default();
        let metadata: Metadata = serde_json::from_str(&record.metadata).unwrap_or_default();
        let name = metadata.name.or(record.names.into_iter().flatten().next());
        let from_labels = image_of(&labels);
        return Ok(Some(Container {
            runtime: if is_crio {
                Runtime::Crio
            } else {
                Runtime::Podman
            },
            containerd_namespace: None,
            bundle,
            config,
            name: name.unwrap_or_default(),
            image: metadata.image_name.unwrap_or(from_labels),
            image_id: record.image,
            labels,
            private: [&storage.run, &storage.graph]
                .map(|root| root.join("overlay-containers").join(id))
                .to_vec(),
        }));
    }
    Ok(None)
}

/// A container in the storage's lists.
#[derive(Default, Deserialize)]
struct Record {
    #[serde(default)]
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    image: String,
    /// JSON once more.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(rename = "image-name")]
    image_name: Option<String>,
    name: Option<String>,
}

fn listed(storage: &Storage, id: &str) -> Option<Record> {
    let lists = [
        storage.graph.join("overlay-containers/containers.json"),
        // Of containers that are not to outlive a reboot.
        storage
            .run
            .join("overlay-containers/volatile-containers.json"),
    ];
    lists.iter().find_map(|path| {
        let bytes = read_bounded(path, MAX_LIST_BYTES).ok()?;
        let records: Vec<Record> = serde_json::from_slice(&bytes).ok()?;
        records.into_iter().find(|record| record.id == id)
    })
}

fn config(bundle: &Path) -> Result<Option<Config>, RuntimeError> {
    let path = bundle.join("config.json");
    let escaped = || {
        use std::os::unix::ffi::OsStrExt;
        crate::model::escape(path.as_os_str().as_bytes())
    };
    let bytes = match read_bounded(&path, oci::MAX_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(source) => {
            return Err(RuntimeError::Read {
                path: escaped(),
                source,
            });
        }
    };
    match oci::parse(&bytes) {
        Ok(config) => Ok(Some(config)),
        Err(source) => Err(RuntimeError::Config {
            path: escaped(),
            source,
        }),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4e2a7f0c9d3b5a6e8f1c2d4b6a8e0f1325476980badcfe1032547698abcdef01";

    fn roots(dir: &Path) -> Roots {
        Roots {
            containerd: vec![dir.join("none"), dir.join("run/containerd")],
            storage: vec![Storage {
                graph: dir.join("storage"),
                run: dir.join("run/storage"),
            }],
            docker: vec![dir.join("docker")],
            kubelet: Vec::new(),
        }
    }

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        std::fs::write(path, text).expect("file");
    }

    #[test]
    fn containers_of_containerd() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        assert_eq!(find(&roots, ID).expect("nothing there"), None);
        let bundle = roots.containerd[1].join(TASKS).join("k8s.io").join(ID);
        write(
            bundle.join("config.json"),
            r#"{"process": {"args": ["x"]}, "root": {"path": "rootfs"}, "annotations":
                {"io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.image-name": "a:1"}}"#,
        );
        let container = find(&roots, ID).expect("readable").expect("known");
        assert_eq!(container.runtime, Runtime::Containerd);
        assert_eq!(container.containerd_namespace.as_deref(), Some("k8s.io"));
        assert_eq!(container.bundle, bundle);
        assert_eq!(container.image, "a:1");
        write(bundle.join("config.json"), "{");
        assert!(find(&roots, ID).is_err());
    }

    #[test]
    fn containers_of_docker() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let bundle = roots.containerd[1].join(TASKS).join("moby").join(ID);
        write(
            bundle.join("config.json"),
            r#"{"process": {"args": ["x"]}}"#,
        );
        write(
            roots.docker[0]
                .join("containers")
                .join(ID)
                .join("config.v2.json"),
            r#"{"Name": "/web", "Image": "sha256:00", "Config": {"Image": "nginx:1", "Labels": {"a": "b"}}}"#,
        );
        let container = find(&roots, ID).expect("readable").expect("known");
        assert_eq!(container.runtime, Runtime::Docker);
        assert_eq!(container.name, "web");
        assert_eq!(container.image, "nginx:1");
        assert_eq!(container.image_id, "sha256:00");
        assert_eq!(container.labels["a"], "b");
    }

    #[test]
    fn containers_of_podman() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let containers = roots.storage[0].graph.join("overlay-containers");
        let bundle = containers.join(ID).join("userdata");
        write(
            bundle.join("config.json"),
            r#"{"process": {"args": ["x"]}}"#,
        );
        // Known by its bundle alone while the list is written.
        let container = find(&roots, ID).expect("readable").expect("known");
        assert_eq!(container.runtime, Runtime::Podman);
        assert_eq!(container.name, "");
        let list = format!(
            r#"[{{"id": "other"}}, {{"id": "{ID}", "names": ["web"], "image": "abc",
                "metadata": "{{\"image-name\": \"localhost/web:1\", \"name\": \"web\"}}"}}]"#
        );
        write(containers.join("containers.json"), &list);
        let container = find(&roots, ID).expect("readable").expect("known");
        assert_eq!(container.name, "web");
        assert_eq!(container.image, "localhost/web:1");
        assert_eq!(container.image_id, "abc");
    }

    #[test]
    fn ids_are_no_paths() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        for id in ["", "..", "../x", "a/b", ".x", "a\0"] {
            assert!(!is_id(id), "{id}");
            assert_eq!(find(&roots, id).expect("refused before looking"), None);
        }
    }
}
