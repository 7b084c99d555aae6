//! The kubelet's directories of a pod → its volumes, by claim.
//!
//! | below `pods/<uid>/` | identity |
//! |---|---|
//! | `volumes/kubernetes.io~csi/<pv>/mount` | `claim:<driver>:<volume handle>`, from `vol_data.json` beside it; none of an ephemeral one, which belongs to this pod alone |
//! | `volumes/kubernetes.io~{secret,configmap,projected,downward-api,empty-dir}/…` | never recorded |
//! | `volumes/<vendor>~<plugin>/<name>` | `claim:<vendor>/<plugin>:<name>` |
//! | all else (`etc-hosts`, `containers/…`) | never recorded |
//!
//! `volume-subpaths/…` are mounts of directories in those, and the kernel tells of files by
//! their filesystem: they are found as part of their volume.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Deserialize;

use super::Directory;
use super::file::read_bounded;
use super::key::fit;
use crate::attribute::mountinfo::{Mount, covering};
use crate::attribute::paths::{below, join};

/// Plugins looked at in one pod, and volumes of each.
const MOST: usize = 256;

/// Largest `vol_data.json` that is read, bytes.
const MAX_DATA_BYTES: u64 = 64 << 10;

/// `vol_data.json`, which the kubelet writes beside a CSI volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeData {
    /// The driver.
    #[serde(rename = "driverName")]
    pub driver: String,
    /// What the driver calls the volume, on every node.
    #[serde(rename = "volumeHandle")]
    pub handle: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(rename = "volumeLifecycleMode")]
    pub mode: String,
}

/// What a volume is called on every node; `None`: it is never recorded. `data` is that of
/// a CSI volume. Pure.
pub fn identity(plugin: &str, name: &str, data: Option<&VolumeData>) -> Option<String> {
    let (vendor, kind) = plugin.split_once('~')?;
    if vendor == "kubernetes.io" {
        match kind {
            // Secrets, and what a pod has for itself.
            "secret" | "configmap" | "projected" | "downward-api" | "empty-dir" | "git-repo" => {
                return None;
            }
            "csi" => {
                let data = data?;
                let is_known = !data.driver.is_empty() && !data.handle.is_empty();
                // Drivers of secrets are ephemeral.
                let is_kept = data.mode != "Ephemeral";
                return (is_known && is_kept)
                    .then(|| fit(&format!("claim:{}:{}", data.driver, data.handle)));
            }
            _ => {}
        }
    }
    Some(fit(&format!("claim:{vendor}/{kind}:{name}")))
}

/// Directories of a pod's volumes, and those that nothing is recorded of. None where there
/// is no such pod.
pub fn of_pod(kubelet: &Path, uid: &str) -> Vec<Directory> {
    let is_name = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let Some(kubelet) = kubelet.canonicalize().ok().filter(|_| is_name) else {
        return Vec::new();
    };
    let pod = kubelet.join("pods").join(uid);
    if !pod.is_dir() {
        return Vec::new();
    }
    let mut directories = vec![Directory {
        path: pod.as_os_str().as_bytes().to_vec(),
        id: None,
    }];
    for plugin in names_in(&pod.join("volumes")) {
        let of_plugin = pod.join("volumes").join(&plugin);
        for name in names_in(&of_plugin) {
            let volume = of_plugin.join(&name);
            let is_csi = plugin == "kubernetes.io~csi";
            let data = is_csi.then(|| volume_data(&volume)).flatten();
            let Some(id) = identity(&plugin, &name, data.as_ref()) else {
                continue;
            };
            let root = if is_csi { volume.join("mount") } else { volume };
            let root = root.as_os_str().as_bytes();
            directories.push(Directory {
                path: root.to_vec(),
                id: Some(id),
            });
        }
    }
    directories
}

/// Names in a directory that are text; what is mounted on them is not touched.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.take(MOST).flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn volume_data(volume: &Path) -> Option<VolumeData> {
    let bytes = read_bounded(&volume.join("vol_data.json"), MAX_DATA_BYTES).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Where else the filesystem that a directory lies in shows it: at a driver's own mount
/// point, at the mount of the whole where it is itself a bind mount. Files are told of by
/// any of these. Never `/`. Pure.
pub(super) fn elsewhere(directory: &[u8], mounts: &[Mount]) -> Vec<Vec<u8>> {
    let Some(mount) = covering(mounts, directory) else {
        return Vec::new();
    };
    let rest = below(&mount.mount_point, directory).unwrap_or_default();
    let path = join(&mount.root, rest);
    let same = mounts.iter().filter(|m| m.device == mount.device);
    let mut paths: Vec<Vec<u8>> = same
        .filter_map(|m| Some(join(&m.mount_point, below(&m.root, &path)?)))
        .filter(|path| path != directory && path != b"/")
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::mountinfo;

    fn data(driver: &str, handle: &str, mode: &str) -> VolumeData {
        VolumeData {
            driver: driver.into(),
            handle: handle.into(),
            mode: mode.into(),
        }
    }

    #[test]
    fn identities() {
        let csi = data("ebs.csi.aws.com", "vol-1", "Persistent");
        assert_eq!(
            identity("kubernetes.io~csi", "pvc-1", Some(&csi)).as_deref(),
            Some("claim:ebs.csi.aws.com:vol-1")
        );
        let secrets = data("secrets-store.csi.k8s.io", "csi-1", "Ephemeral");
        assert_eq!(identity("kubernetes.io~csi", "x", Some(&secrets)), None);
        assert_eq!(identity("kubernetes.io~csi", "x", None), None);
        for kind in [
            "secret",
            "configmap",
            "projected",
            "downward-api",
            "empty-dir",
        ] {
            assert_eq!(identity(&format!("kubernetes.io~{kind}"), "x", None), None);
        }
        assert_eq!(
            identity("kubernetes.io~nfs", "data", None).as_deref(),
            Some("claim:kubernetes.io/nfs:data")
        );
        assert_eq!(
            identity("example.com~flex", "pv1", None).as_deref(),
            Some("claim:example.com/flex:pv1")
        );
        assert_eq!(identity("lost+found", "x", None), None);
    }

    #[test]
    fn a_pods_directories() {
        let temp = tempfile::tempdir().expect("temp dir");
        let kubelet = temp.path().canonicalize().expect("real path");
        let pod = kubelet.join("pods/u1");
        let csi = pod.join("volumes/kubernetes.io~csi/pvc-1");
        std::fs::create_dir_all(csi.join("mount")).expect("directory");
        std::fs::create_dir_all(pod.join("volumes/kubernetes.io~secret/token")).expect("directory");
        std::fs::create_dir_all(pod.join("volumes/kubernetes.io~nfs/data")).expect("directory");
        std::fs::write(
            csi.join("vol_data.json"),
            r#"{"driverName": "d", "volumeHandle": "h", "volumeLifecycleMode": "Persistent", "x": 1}"#,
        )
        .expect("file");
        let mut found = of_pod(&kubelet, "u1");
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let path = |rel: &str| pod.join(rel).as_os_str().as_bytes().to_vec();
        let wanted = [
            (path(""), None),
            (
                path("volumes/kubernetes.io~csi/pvc-1/mount"),
                Some("claim:d:h"),
            ),
            (
                path("volumes/kubernetes.io~nfs/data"),
                Some("claim:kubernetes.io/nfs:data"),
            ),
        ];
        let wanted = wanted.map(|(path, id)| Directory {
            path: path.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(path),
            id: id.map(str::to_owned),
        });
        assert_eq!(found, wanted);
        assert_eq!(of_pod(&kubelet, "u2"), []);
        assert_eq!(of_pod(&kubelet.join("none"), "u1"), []);
    }

    #[test]
    fn the_same_directory_at_other_places() {
        let mounts = mountinfo::parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
              2 1 8:2 / /plugins/globalmount rw - ext4 /dev/b rw\n\
              3 1 8:2 / /pods/u/csi/mount rw - ext4 /dev/b rw\n\
              4 1 8:1 /data/x /pods/u/local rw - ext4 /dev/a rw\n\
              5 1 8:1 / /pods/u/all rw - ext4 /dev/a rw\n",
        )
        .expect("valid");
        assert_eq!(
            elsewhere(b"/pods/u/csi/mount", &mounts),
            [b"/plugins/globalmount"]
        );
        let local = elsewhere(b"/pods/u/local", &mounts);
        assert_eq!(local, [b"/data/x".to_vec(), b"/pods/u/all/data/x".to_vec()]);
        // Within a mount.
        assert_eq!(
            elsewhere(b"/data/x/deep", &mounts),
            [
                b"/pods/u/all/data/x/deep".to_vec(),
                b"/pods/u/local/deep".to_vec()
            ]
        );
        // `/` is not taken for a claim.
        assert!(elsewhere(b"/pods/u/all", &mounts).is_empty());
        assert_eq!(elsewhere(b"/x", &mounts), [b"/pods/u/all/x"]);
        assert!(elsewhere(b"/x", &[]).is_empty());
    }
}
