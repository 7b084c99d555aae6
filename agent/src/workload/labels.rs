//! What a container's labels and annotations say of it. Pure.

use std::collections::BTreeMap;

use super::oci::texts_by_name;

/// Values longer than this many bytes are not kept: they are whole manifests.
const LONGEST: usize = 1024;

/// Labels kept of one container.
const MOST: usize = 256;

/// Labels and annotations, by name.
pub(super) type Labels = BTreeMap<String, String>;

const CONTAINER: [&str; 2] = [
    "io.kubernetes.container.name",
    "io.kubernetes.cri.container-name",
];
const NAMESPACE: [&str; 2] = [
    "io.kubernetes.pod.namespace",
    "io.kubernetes.cri.sandbox-namespace",
];
const POD: [&str; 2] = ["io.kubernetes.pod.name", "io.kubernetes.cri.sandbox-name"];
const POD_UID: [&str; 2] = ["io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"];
const IMAGE: [&str; 2] = [
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
];
/// What a container is for, and the value of a pause container.
const KIND: [(&str, &str); 3] = [
    ("io.kubernetes.cri.container-type", "sandbox"),
    ("io.kubernetes.cri-o.ContainerType", "sandbox"),
    ("io.kubernetes.docker.type", "podsandbox"),
];
/// CRI-O keeps the container's labels in one annotation, as JSON.
const NESTED: &str = "io.kubernetes.cri-o.Labels";

/// A container's name in terms that hold at its next start; empty where not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Kubernetes namespace, or compose project.
    pub(super) namespace: String,
    /// Pod; another one at the next start.
    pub(super) pod: String,
    /// Container of the pod, or service of the project.
    pub(super) container: String,
}

/// Joins what several places say; what comes first stays. Long values are left out.
pub(super) fn joined(sources: impl IntoIterator<Item = Labels>) -> Labels {
    let mut labels = Labels::new();
    for source in sources {
        let nested = source.get(NESTED).map(|json| parse(json));
        for (name, value) in source.into_iter().chain(nested.unwrap_or_default()) {
            let fits = name.len() + value.len() <= LONGEST && labels.len() < MOST;
            if fits {
                labels.entry(name).or_insert(value);
            }
        }
    }
    labels
}

fn parse(json: &str) -> Labels {
    let mut from = serde_json::Deserializer::from_str(json);
    texts_by_name(&mut from).unwrap_or_default()
}

/// Whether it only holds a pod's namespaces.
pub(super) fn is_sandbox(labels: &Labels) -> bool {
    KIND.iter()
        .any(|(name, value)| labels.get(*name).is_some_and(|kind| kind == value))
}

/// The image's reference, where labels carry it.
pub(super) fn image(labels: &Labels) -> Option<&str> {
    first(labels, &IMAGE)
}

/// UID of its pod, where labels carry it.
pub(super) fn pod_uid(labels: &Labels) -> Option<&str> {
    first(labels, &POD_UID)
}

/// Its name, where labels carry one that the next start has too.
pub(super) fn named(labels: &Labels) -> Named {
    let text = |names: &[&str]| first(labels, names).unwrap_or_default().to_owned();
    let container = text(&CONTAINER);
    if !container.is_empty() {
        return Named {
            namespace: text(&NAMESPACE),
            pod: text(&POD),
            container,
        };
    }
    Named {
        namespace: text(&["com.docker.compose.project"]),
        pod: String::new(),
        container: text(&["com.docker.compose.service"]),
    }
}

fn first<'l>(labels: &'l Labels, names: &[&str]) -> Option<&'l str> {
    names
        .iter()
        .find_map(|name| labels.get(*name).filter(|value| !value.is_empty()))
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn names_by_each_runtimes_labels() {
        let wanted = Named {
            namespace: "shop".into(),
            pod: "web-0".into(),
            container: "app".into(),
        };
        let containerd = labels(&[
            ("io.kubernetes.cri.container-name", "app"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.cri.sandbox-name", "web-0"),
        ]);
        assert_eq!(named(&containerd), wanted);
        let crio = labels(&[
            ("io.kubernetes.container.name", "app"),
            ("io.kubernetes.pod.namespace", "shop"),
            ("io.kubernetes.pod.name", "web-0"),
        ]);
        assert_eq!(named(&crio), wanted);
        let compose = labels(&[
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", "app"),
        ]);
        assert_eq!(named(&compose).container, "app");
        assert_eq!(named(&Labels::new()), Named::default());
    }

    #[test]
    fn sandboxes_are_told_apart() {
        assert!(is_sandbox(&labels(&[(
            "io.kubernetes.cri.container-type",
            "sandbox"
        )])));
        assert!(is_sandbox(&labels(&[(
            "io.kubernetes.cri-o.ContainerType",
            "sandbox"
        )])));
        assert!(!is_sandbox(&labels(&[(
            "io.kubernetes.cri-o.ContainerType",
            "container"
        )])));
        assert!(!is_sandbox(&Labels::new()));
    }

    #[test]
    fn what_comes_first_stays_and_manifests_do_not() {
        let long = "x".repeat(LONGEST);
        let joined = joined([
            labels(&[
                ("a", "1"),
                ("long", &long),
                (NESTED, r#"{"c": "3", "a": "9", "n": 1}"#),
            ]),
            labels(&[("a", "2"), ("b", "2")]),
        ]);
        assert_eq!(joined["a"], "1");
        assert_eq!(joined["b"], "2");
        assert_eq!(joined["c"], "3");
        assert!(!joined.contains_key("long") && !joined.contains_key("n"));
        assert_eq!(super::joined([labels(&[(NESTED, "{broken")])]).len(), 1);
    }
}
