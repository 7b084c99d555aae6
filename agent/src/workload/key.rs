//! What is known of a container → its keys. Pure.
//!
//! | known | keys, the surest first |
//! |---|---|
//! | namespace, container name and perhaps owner, from labels; image | `container:<namespace>/<owner>/<name>@<image>#<command>`, then as below, and between the two `container:<namespace>/<owner>/<name>`, whatever the image's version |
//! | image only | `image:<image>#<command>`, then `repository:<repository>#<command>` |
//!
//! `<image>` is the first 12 digits of the image's id or digest; where it is not known, of a
//! hash over the identities of its layers; where those are not known, of a hash of its
//! reference. `<command>` is 16 digits of a hash of the arguments. `<repository>` is the
//! image's reference without tag and digest.
//!
//! In order: the same container of the same image; any container of that image with that
//! command; the same container of another image; another version of that image. A profile
//! is learned into the first. Files are checked by size and modification time whatever key
//! they were found by, so a wrong key costs reads and never wrong data.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::Keys;
use crate::model::escape;

/// Longest key in bytes: what a profile's name may have.
const LONGEST: usize = 200;

/// Digits that an image's id is shortened to.
const IMAGE_DIGITS: usize = 12;

/// Digits of a hash.
const HASH_DIGITS: usize = 16;

/// What a container's keys are made of; empty where it is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Kubernetes namespace, or a compose project.
    pub namespace: &'a str,
    /// What made the pod: a Deployment's name, a StatefulSet's, a Job's.
    pub owner: &'a str,
    /// The container's name, where it is the same at each start.
    pub name: &'a str,
    /// Image reference.
    pub image: &'a str,
    /// Image id or digest, `sha256:…` or its digits.
    pub image_id: &'a str,
    /// Identities of the image's layers, the uppermost first.
    pub layers: &'a [String],
    /// What is executed.
    pub args: &'a [String],
}

/// Keys of a container, the surest first; each is fit to be a profile's name. None where
/// neither its name nor its image is known.
pub fn container_keys(facts: &Facts<'_>) -> Keys {
    let image = image_identity(facts);
    let command = hash(facts.args.iter().map(String::as_bytes));
    let mut keys = Vec::with_capacity(4);
    let name = (!facts.name.is_empty()).then(|| {
        let parts = [facts.namespace, facts.owner, facts.name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("/")
    });
    if let (Some(name), Some(image)) = (&name, &image) {
        keys.push(format!("container:{name}@{image}#{command}"));
    }
    if let Some(image) = &image {
        keys.push(format!("image:{image}#{command}"));
    }
    if let Some(name) = &name {
        keys.push(format!("container:{name}"));
    }
    let repository = repository(facts.image);
    if !repository.is_empty() {
        keys.push(format!("repository:{repository}#{command}"));
    }
    Keys(keys.iter().map(|key| fit(key)).collect())
}

/// Kind of the workload that has this key, and what to call it where nothing but the key is
/// known: `unit`, `container`, or `command` for a profile that no agent made.
pub fn named_by(key: &str) -> (&'static str, &str) {
    match key.split_once(':') {
        Some(("unit", name)) => ("unit", name),
        Some(("user-unit", name)) => {
            let name = name.split_once('/').map_or(name, |(_, name)| name);
            ("unit", name)
        }
        Some(("container" | "image" | "repository", name)) => {
            let name = name.split(['@', '#']).next().unwrap_or_default();
            ("container", name)
        }
        _ => ("command", key),
    }
}

fn image_identity(facts: &Facts<'_>) -> Option<String> {
    if let Some(digits) = digest_digits(facts.image_id) {
        return Some(digits[..IMAGE_DIGITS].to_owned());
    }
    let mut hash = if !facts.layers.is_empty() {
        hash(facts.layers.iter().map(String::as_bytes))
    } else if !facts.image.is_empty() {
        hash([facts.image.as_bytes()])
    } else {
        return None;
    };
    hash.truncate(IMAGE_DIGITS);
    Some(hash)
}

/// The digits of `sha256:…`, or of a bare id; `None` for what is neither.
fn digest_digits(id: &str) -> Option<&str> {
    let digits = id.rsplit_once(':').map_or(id, |(_, digits)| digits);
    let is_digest = digits.len() >= IMAGE_DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_digest.then_some(digits)
}

/// An image's reference without its tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    match name.rsplit_once(':') {
        // A colon before a slash is a registry's port.
        Some((before, tag)) if !tag.contains('/') => {
            // Only a digest: `sha256:…`.
            if digest_digits(name).is_some() {
                ""
            } else {
                before
            }
        }
        _ if digest_digits(name).is_some_and(|digits| digits.len() == 64) => "",
        _ => name,
    }
}

/// What made a pod, from its labels or, where Kubernetes made the name up, from that;
/// empty where neither tells.
pub(super) fn owner(labels: &BTreeMap<String, String>, pod: &str) -> String {
    let label = |name: &str| labels.get(name).filter(|value| !value.is_empty());
    // A CronJob's Job is called by the minute that it was made for.
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        return without_minute(job).to_owned();
    }
    if let Some(hash) = label("pod-template-hash")
        && let Some((owner, random)) = pod.rsplit_once('-')
        && is_generated(random, 5)
        && let Some(owner) = owner.strip_suffix(hash).and_then(|o| o.strip_suffix('-'))
    {
        return owner.to_owned();
    }
    if let Some(index) = label("apps.kubernetes.io/pod-index")
        && let Some(owner) = pod.strip_suffix(index).and_then(|o| o.strip_suffix('-'))
    {
        return owner.to_owned();
    }
    owner_by_name(pod).to_owned()
}

/// The owner, from a name that ends as controllers make names end.
fn owner_by_name(pod: &str) -> &str {
    let Some((rest, last)) = pod.rsplit_once('-') else {
        return "";
    };
    if is_generated(last, 5) {
        // A Deployment's: its ReplicaSet's hash is between.
        return match rest.rsplit_once('-') {
            Some((owner, hash)) if (8..=10).any(|digits| is_generated(hash, digits)) => owner,
            _ => without_minute(rest),
        };
    }
    // A StatefulSet's.
    let is_ordinal = (1..=5).contains(&last.len()) && last.bytes().all(|b| b.is_ascii_digit());
    if is_ordinal { rest } else { "" }
}

/// Kubernetes makes names up of these alone, which spell nothing.
fn is_generated(text: &str, digits: usize) -> bool {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.len() == digits && text.bytes().all(|b| ALPHABET.contains(&b))
}

fn without_minute(job: &str) -> &str {
    match job.rsplit_once('-') {
        Some((name, minute)) if minute.len() == 8 && minute.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        _ => job,
    }
}

/// [`HASH_DIGITS`] digits that tell lists apart.
fn hash<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // The length keeps `ab, c` from being `a, bc`.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut digits = String::with_capacity(HASH_DIGITS);
    for byte in hasher.finalize().iter().take(HASH_DIGITS / 2) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Makes `key`, which starts with a letter, fit to be a profile's name: where it is too
/// long or not all printable it is cleaned, cut, and ends with a hash of the whole.
pub(super) fn fit(key: &str) -> String {
    let mut clean = String::with_capacity(key.len());
    for c in key.chars() {
        let mut buffer = [0; 4];
        match c {
            '\\' => clean.push(c),
            c => clean.push_str(&escape(c.encode_utf8(&mut buffer).as_bytes())),
        }
    }
    if clean == key && key.len() <= LONGEST && key.trim() == key {
        return clean;
    }
    let mut end = (LONGEST - HASH_DIGITS - 1).min(clean.len());
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean.truncate(end);
    clean.push('~');
    clean.push_str(&hash([key.as_bytes()]));
    clean
}

/// What `profile` asks of a name, in so far as it can fail for one that starts with a
/// letter. It comes after this module, so it can't be asked; `tests/workload` asks it.
#[cfg(test)]
pub(super) fn names_a_profile(key: &str) -> bool {
    let printable = escape(key.replace('\\', "").as_bytes());
    printable == key.replace('\\', "") && key.trim() == key && key.len() <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_pods_container_has_four_keys() {
        let args = strings(&["python3", "-m", "web"]);
        let facts = Facts {
            namespace: "shop",
            owner: "web",
            name: "app",
            image: "registry:5000/shop/web:1.2",
            image_id: "sha256:0123456789abcdef0123",
            layers: &[],
            args: &args,
        };
        let command = hash(args.iter().map(String::as_bytes));
        assert_eq!(
            container_keys(&facts).0,
            [
                format!("container:shop/web/app@0123456789ab#{command}"),
                format!("image:0123456789ab#{command}"),
                "container:shop/web/app".to_owned(),
                format!("repository:registry:5000/shop/web#{command}"),
            ]
        );
        let other_args = strings(&["python3", "-mweb"]);
        let other = container_keys(&Facts {
            args: &other_args,
            ..facts
        });
        assert_ne!(other.0[0], container_keys(&facts).0[0]);
        assert_eq!(other.0[2], "container:shop/web/app");
    }

    #[test]
    fn less_known_is_fewer_keys_and_nothing_known_is_none() {
        assert!(container_keys(&Facts::default()).0.is_empty());
        let layers = strings(&["layer:sha256:aa", "layer:sha256:bb"]);
        let by_layers = container_keys(&Facts {
            layers: &layers,
            image: "web:1",
            ..Facts::default()
        });
        let by_reference = container_keys(&Facts {
            image: "web:1",
            ..Facts::default()
        });
        assert_eq!(by_layers.0.len(), 2);
        assert_ne!(by_layers.0[0], by_reference.0[0]);
        assert_eq!(by_layers.0[1], by_reference.0[1]);
        let by_name = container_keys(&Facts {
            name: "web",
            ..Facts::default()
        });
        assert_eq!(by_name.0, ["container:web"]);
    }

    #[test]
    fn references_lose_tag_and_digest() {
        for (image, wanted) in [
            ("nginx", "nginx"),
            ("docker.io/library/nginx:1.27", "docker.io/library/nginx"),
            ("localhost:5000/a", "localhost:5000/a"),
            ("localhost:5000/a:b@sha256:0123", "localhost:5000/a"),
            ("sha256:0123456789abcdef", ""),
            ("", ""),
        ] {
            assert_eq!(repository(image), wanted, "{image}");
        }
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(repository(&id), "");
    }

    #[test]
    fn owners() {
        let none = BTreeMap::new();
        for (pod, wanted) in [
            ("web-7d4b9c6f5d-x2x8p", "web"),
            ("node-agent-x2x8p", "node-agent"),
            ("backup-29412345-x2x8p", "backup"),
            ("db-0", "db"),
            ("etcd-node1", ""),
            ("web", ""),
            ("my-tools", ""),
        ] {
            assert_eq!(owner(&none, pod), wanted, "{pod}");
        }
        let of = |label: &str, value: &str, pod: &str| {
            owner(&BTreeMap::from([(label.to_owned(), value.to_owned())]), pod)
        };
        assert_eq!(of("pod-template-hash", "abc", "web-abc-x2x8p"), "web");
        assert_eq!(of("job-name", "backup-29412345", "whatever"), "backup");
        assert_eq!(
            of("apps.kubernetes.io/pod-index", "123456", "db-123456"),
            "db"
        );
    }

    #[test]
    fn long_keys_stay_apart() {
        let long = "x".repeat(300);
        let (a, b) = (fit(&format!("unit:{long}a")), fit(&format!("unit:{long}b")));
        assert_eq!(a.len(), LONGEST);
        assert_ne!(a, b);
        assert_ne!(fit("unit:a\n"), fit("unit:a\t"));
    }

    proptest! {
        #[test]
        fn keys_can_name_profiles(
            namespace in ".{0,100}",
            name in ".{0,100}",
            image in ".{0,250}",
            image_id in "(sha256:)?[0-9a-fé]{0,70}",
            args in proptest::collection::vec(".{0,20}", 0..4),
            pod in ".{0,40}",
        ) {
            let owner = owner(&BTreeMap::new(), &pod);
            let keys = container_keys(&Facts {
                namespace: &namespace,
                owner: &owner,
                name: &name,
                image: &image,
                image_id: &image_id,
                layers: &[],
                args: &args,
            });
            for key in &keys.0 {
                prop_assert!(names_a_profile(key), "{key:?}");
            }
        }
    }
}
