//! A container's root filesystem → its layers, with identities that hold on other nodes.
//!
//! | store | directory | identity |
//! |---|---|---|
//! | Podman, CRI-O | `overlay/<layer>/diff` | `layer:<diff id>`, from `overlay-layers/layers.json` |
//! | Docker | `overlay2/<cache id>/diff` | `layer:<diff id>`, from `image/overlay2/layerdb` |
//! | containerd | `snapshots/<n>/fs` | `layer:chain:<chain id>`, from its API; the lowest's chain id is its diff id |
//!
//! A diff id names what a layer holds; a chain id names that and all layers below. Where
//! neither is known the layer has no identity, and its files are named by their path on
//! this node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::read_bounded;
use super::runtime::{Roots, Storage};
use super::{Directory, overlay};
use crate::attribute::mountinfo::Mount;

/// Largest list of layers that is read, bytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// Layers of Docker that are looked at.
const MAX_DOCKER_LAYERS: usize = 20_000;

/// Layers of one container. The kernel takes 500.
const MAX_LAYERS: usize = 512;

/// What a container's root filesystem shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layers {
    /// Read-only layers, the uppermost first.
    pub lower: Vec<Layer>,
    /// What the container writes to, and directories made for it alone.
    pub private: Vec<Vec<u8>>,
}

/// A read-only layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its directory, absolute, without symbolic links.
    pub path: Vec<u8>,
    /// `layer:…`; `None` where it is not known.
    pub id: Option<String>,
}

/// Looks a mounted root filesystem's layers up. `chain` are the chain ids of its layers,
/// the uppermost first, where containerd tells them. Other filesystems than overlay have
/// no layers.
pub fn layers(mount: &Mount, chain: &[String]) -> Layers {
    if mount.fs_type != "overlay" {
        return Layers::default();
    }
    let overlay = overlay::parse(&mount.super_options);
    let upper = overlay.upper.map(path_of);
    let bases = bases(mount, upper.as_deref());
    let mut layers = Layers::default();
    for path in overlay.lower.into_iter().take(MAX_LAYERS) {
        // All or none: which layer is which is told by their order.
        let Some(path) = absolute(path_of(path), &bases) else {
            return Layers::default();
        };
        layers.lower.push(Layer {
            path: bytes_of(path),
            id: None,
        });
    }
    layers
        .private
        .extend(upper.and_then(|path| absolute(path, &bases)).map(bytes_of));
    identify(&mut layers, chain);
    layers
}

/// Where relative paths may start: runtimes change to the directory of their layers where
/// the options would be too long. The writable layer and the mount point lie below it.
fn bases(mount: &Mount, upper: Option<&Path>) -> Vec<PathBuf> {
    let point = Path::new(std::ffi::OsStr::from_bytes(&mount.mount_point));
    [upper, Some(point)]
        .into_iter()
        .flatten()
        .filter(|path| path.is_absolute())
        .filter_map(|path| Some(path.parent()?.parent()?.to_owned()))
        .collect()
}

fn absolute(path: PathBuf, bases: &[PathBuf]) -> Option<PathBuf> {
    if path.is_absolute() {
        return path.canonicalize().ok();
    }
    bases
        .iter()
        .find_map(|base| base.join(&path).canonicalize().ok())
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

fn bytes_of(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

fn identify(layers: &mut Layers, chain: &[String]) {
    if chain.len() == layers.lower.len() {
        let lowest = chain.len().saturating_sub(1);
        for (at, (layer, chain)) in layers.lower.iter_mut().zip(chain).enumerate() {
            layer.id = is_digest(chain).then(|| match at == lowest {
                true => format!("layer:{chain}"),
                false => format!("layer:chain:{chain}"),
            });
        }
        if !chain.is_empty() {
            return;
        }
    }
    // One store, of one driver, has all layers of a container; wherever they lie, each
    // store is read once.
    let mut wanted: BTreeMap<(PathBuf, Driver), BTreeMap<String, usize>> = BTreeMap::new();
    for (at, layer) in layers.lower.iter().enumerate() {
        let Some((store, driver, name)) = in_store(&layer.path) else {
            continue;
        };
        if driver == Driver::Docker && name.ends_with("-init") {
            // Mount points that Docker makes for each container.
            layers.private.push(layer.path.clone());
            continue;
        }
        wanted.entry((store, driver)).or_default().insert(name, at);
    }
    for ((store, driver), mut names) in wanted {
        let mut found = |name: &str, digest: String| {
            if let Some(layer) = names.remove(name).and_then(|at| layers.lower.get_mut(at)) {
                layer.id = Some(format!("layer:{digest}"));
            }
            !names.is_empty()
        };
        match driver {
            Driver::Containers => containers_layers(&store, &mut found),
            Driver::Docker => docker_layers(&store, &mut found),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Driver {
    /// containers/storage: Podman, CRI-O, Buildah.
    Containers,
    Docker,
}

/// The store that a layer's directory lies in, and the layer's name there.
fn in_store(path: &[u8]) -> Option<(PathBuf, Driver, String)> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if path.file_name()? != "diff" {
        return None;
    }
    let layer = path.parent()?;
    let overlay = layer.parent()?;
    let driver = match overlay.file_name()?.to_str()? {
        "overlay" => Driver::Containers,
        "overlay2" => Driver::Docker,
        _ => return None,
    };
    let name = layer.file_name()?.to_str()?.to_owned();
    Some((overlay.parent()?.to_owned(), driver, name))
}

/// Calls `found` with layers of a storage and their diff ids until it has seen enough.
fn containers_layers(store: &Path, found: &mut dyn FnMut(&str, String) -> bool) {
    for list in ["layers.json", "volatile-layers.json"] {
        let path = store.join("overlay-layers").join(list);
        let bytes = read_bounded(&path, MAX_LIST_BYTES).unwrap_or_default();
        for (name, digest) in parse_layers(&bytes).unwrap_or_default() {
            if !found(&name, digest) {
                return;
            }
        }
    }
}

/// Diff ids by layer, from `layers.json` of containers/storage. Layers without one (those
/// that containers write to) are left out.
///
/// # Errors
/// Not a JSON list of layers.
pub fn parse_layers(bytes: &[u8]) -> Result<HashMap<String, String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Record {
        id: String,
        #[serde(default, rename = "diff-digest")]
        digest: Option<String>,
    }
    let records: Vec<Record> = serde_json::from_slice(bytes)?;
    let known = records.into_iter().filter_map(|record| {
        let digest = record.digest.filter(|digest| is_digest(digest))?;
        Some((record.id, digest))
    });
    Ok(known.collect())
}

/// As [`containers_layers`], by cache id.
fn docker_layers(store: &Path, found: &mut dyn FnMut(&str, String) -> bool) {
    let text = |path: PathBuf| {
        let bytes = read_bounded(&path, 1024).ok()?;
        Some(String::from_utf8(bytes).ok()?.trim().to_owned())
    };
    let layers = std::fs::read_dir(store.join("image/overlay2/layerdb/sha256"));
    for entry in layers
        .into_iter()
        .flatten()
        .take(MAX_DOCKER_LAYERS)
        .flatten()
    {
        let digest = text(entry.path().join("diff")).filter(|digest| is_digest(digest));
        let (Some(digest), Some(cache)) = (digest, text(entry.path().join("cache-id"))) else {
            continue;
        };
        if !found(&cache, digest) {
            return;
        }
    }
}

/// Where layers of these identities lie in the stores of Podman, CRI-O and Docker on this
/// node, whether or not a container shows them. containerd does not tell before there is
/// one.
pub fn stored(roots: &Roots, wanted: &BTreeSet<&str>) -> Vec<Directory> {
    let mut directories = Vec::new();
    let mut found = |store: &Path, driver: &str, name: &str, digest: String| {
        let id = format!("layer:{digest}");
        // One component, whatever the list says.
        let is_name = !name.contains('/') && !matches!(name, "" | "." | "..");
        if is_name
            && wanted.contains(id.as_str())
            && let Ok(path) = store.join(driver).join(name).join("diff").canonicalize()
        {
            directories.push(Directory {
                path: bytes_of(path),
                id: Some(id),
            });
        }
        true
    };
    if wanted.is_empty() {
        return directories;
    }
    for Storage { graph, .. } in &roots.storage {
        containers_layers(graph, &mut |name, digest| {
            found(graph, "overlay", name, digest)
        });
    }
    for docker in &roots.docker {
        docker_layers(docker, &mut |name, digest| {
            found(docker, "overlay2", name, digest)
        });
    }
    directories
}

/// `<algorithm>:<digits>`.
pub(super) fn is_digest(text: &str) -> bool {
    let Some((algorithm, digits)) = text.split_once(':') else {
        return false;
    };
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !algorithm.is_empty()
        && algorithm.len() <= 16
        && algorithm.bytes().all(is_name)
        && (32..=128).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn mount(options: &str, point: &Path) -> Mount {
        let mut mount = crate::attribute::mountinfo::parse(b"1 0 0:99 / /x rw - overlay o rw\n")
            .expect("valid")
            .remove(0);
        mount.mount_point = point.as_os_str().as_bytes().to_vec();
        mount.super_options = options.as_bytes().to_vec();
        mount
    }

    fn dir(path: PathBuf) -> String {
        fs::create_dir_all(&path).expect("directory");
        path.to_str().expect("text").to_owned()
    }

    #[test]
    fn short_links_lead_to_layers_with_their_digests() {
        let temp = tempfile::tempdir().expect("temp dir");
        let store = temp.path().canonicalize().expect("real path");
        let a = dir(store.join("overlay/aa/diff"));
        let b = dir(store.join("overlay/bb/diff"));
        let upper = dir(store.join("overlay/cc/diff"));
        dir(store.join("overlay/l"));
        dir(store.join("overlay-layers"));
        for (link, layer) in [("AAA", "aa"), ("BBB", "bb")] {
            let target = format!("../{layer}/diff");
            std::os::unix::fs::symlink(target, store.join("overlay/l").join(link)).expect("link");
        }
        let list = format!(
            r#"[{{"id": "aa", "diff-digest": "{}"}}, {{"id": "bb", "diff-digest": "odd"}}, {{"id": "cc"}}]"#,
            digest('a')
        );
        fs::write(store.join("overlay-layers/layers.json"), list).expect("list");
        let point = store.join("overlay/cc/merged");
        for options in [
            "rw,lowerdir=l/BBB:l/AAA,upperdir=cc/diff".to_owned(),
            format!("rw,lowerdir=l/BBB:l/AAA,upperdir={upper}"),
            format!(
                "rw,lowerdir={b}:{}/overlay/l/AAA,upperdir={upper}",
                store.display()
            ),
        ] {
            let layers = layers(&mount(&options, &point), &[]);
            assert_eq!(layers.private, [upper.clone().into_bytes()], "{options}");
            assert_eq!(layers.lower.len(), 2);
            assert_eq!(layers.lower[0].path, b.as_bytes());
            assert_eq!(layers.lower[0].id, None);
            assert_eq!(layers.lower[1].path, a.as_bytes());
            assert_eq!(layers.lower[1].id, Some(format!("layer:{}", digest('a'))));
        }
        let roots = Roots {
            storage: vec![Storage {
                graph: store.clone(),
                run: store.join("run"),
            }],
            docker: Vec::new(),
            ..Roots::default()
        };
        let (wanted, other) = (format!("layer:{}", digest('a')), "layer:x".to_owned());
        let known = super::stored(&roots, &BTreeSet::from([&*wanted, &*other]));
        let directory = Directory {
            path: a.clone().into_bytes(),
            id: Some(wanted),
        };
        assert_eq!(known, [directory]);
        // One that is not there: none is known.
        let gone = layers(&mount("rw,lowerdir=l/BBB:l/ZZZ", &point), &[]);
        assert_eq!(gone, Layers::default());
    }

    #[test]
    fn layers_of_docker() {
        let temp = tempfile::tempdir().expect("temp dir");
        let store = temp.path().canonicalize().expect("real path");
        let init = dir(store.join("overlay2/cc-init/diff"));
        let a = dir(store.join("overlay2/aa/diff"));
        let known = store.join("image/overlay2/layerdb/sha256/00");
        dir(known.clone());
        fs::write(known.join("cache-id"), "aa").expect("file");
        fs::write(known.join("diff"), digest('a')).expect("file");
        let options = format!("rw,lowerdir={init}:{a}");
        let layers = layers(&mount(&options, &store.join("overlay2/cc/merged")), &[]);
        assert_eq!(layers.private, [init.into_bytes()]);
        assert_eq!(layers.lower[1].id, Some(format!("layer:{}", digest('a'))));
    }

    #[test]
    fn chain_ids_come_in_the_order_of_the_layers() {
        let temp = tempfile::tempdir().expect("temp dir");
        let store = temp.path().canonicalize().expect("real path");
        for n in 1..=2 {
            dir(store.join(format!("snapshots/{n}/fs")));
        }
        let upper = dir(store.join("snapshots/3/fs"));
        let options = format!("rw,lowerdir=2/fs:1/fs,upperdir={upper}");
        let mount = mount(&options, Path::new("/run/x/rootfs"));
        let chain = [digest('2'), digest('1')];
        let ids = |chain: &[String]| {
            let layers = layers(&mount, chain);
            layers
                .lower
                .into_iter()
                .map(|layer| layer.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ids(&chain),
            [
                Some(format!("layer:chain:{}", digest('2'))),
                Some(format!("layer:{}", digest('1')))
            ]
        );
        // Another number of them: which is which is not known.
        assert_eq!(ids(&chain[..1]), [None, None]);
        assert_eq!(ids(&[]), [None, None]);
        assert_eq!(ids(&[digest('2'), "odd".into()])[1], None);
    }

    proptest! {
        #[test]
        fn any_list_is_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_layers(&bytes);
        }
    }
}
