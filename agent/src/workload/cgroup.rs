//! A cgroup's path → the container or unit that it belongs to. Pure.
//!
//! Only what a path says for certain is taken: container ids are the 64 hexadecimal digits
//! that every runtime here gives them, and what surrounds them tells no more than which
//! runtime and which pod. Pause containers look like any other and are found out later
//! ([`super::runtime`]).

use super::{Place, Runtime};

/// Digits of a container's id.
const ID_DIGITS: usize = 64;

/// What the kernel puts behind the path of a cgroup that is gone.
const DELETED: &[u8] = b" (deleted)";

/// Where a cgroup of the v2 hierarchy belongs, by its path below the root of the hierarchy
/// (`/kubepods/burstable/pod…/…`). `None`: it is no workload, or nothing that is known.
///
/// The innermost container counts, for containers run in containers (kind, k3s in Docker);
/// what a container or a unit has below itself is part of it.
pub fn place(path: &[u8]) -> Option<Place> {
    let path = path.strip_suffix(DELETED).unwrap_or(path);
    let below_root = path.strip_prefix(b"/")?;
    let components: Vec<&[u8]> = below_root.split(|&b| b == b'/').collect();
    // A path from outside of the reader's cgroup namespace; our own recordings.
    if components.iter().any(|c| *c == b".." || is_recording(c)) {
        return None;
    }
    container(&components).or_else(|| unit(&components))
}

/// The workload whose own cgroup is at `path`: the topmost one of it. `None`: it is within
/// one's own, or in none.
pub fn topmost(path: &[u8]) -> Option<Place> {
    let path = path.strip_suffix(DELETED).unwrap_or(path);
    let parent = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    let found = place(path)?;
    (place(&path[..parent]).as_ref() != Some(&found)).then_some(found)
}

fn container(components: &[&[u8]]) -> Option<Place> {
    let mut found = None;
    let mut pod = None;
    let mut parent: &[u8] = b"";
    for &component in components {
        if let Some(uid) = pod_of_directory(component) {
            pod = Some(uid);
        } else if let Some((runtime, id)) = container_of(component, parent) {
            found = Some(Place::Container {
                id: id.to_owned(),
                runtime,
                // Whatever pod comes further down is of a container inside of this one.
                pod: pod_of_prefix(component).or_else(|| pod.take()),
            });
            pod = None;
        }
        parent = component;
    }
    found
}

/// Names that runtimes give the cgroup of a container, without the id.
const NAMES: [(&str, Runtime); 6] = [
    ("cri-containerd-", Runtime::Containerd),
    ("nerdctl-", Runtime::Containerd),
    ("crio-", Runtime::Crio),
    ("docker-", Runtime::Docker),
    ("libpod-payload-", Runtime::Podman),
    ("libpod-", Runtime::Podman),
];

/// The runtime and id that one component of a path tells.
fn container_of<'c>(component: &'c [u8], parent: &[u8]) -> Option<(Option<Runtime>, &'c str)> {
    let name = std::str::from_utf8(component).ok()?;
    if is_id(name) {
        return match parent {
            // Podman's pods; their containers are `libpod-<id>` below them.
            b"libpod_parent" => None,
            b"docker" => Some((Some(Runtime::Docker), name)),
            _ => Some((None, name)),
        };
    }
    // containerd asked for a systemd cgroup and run without systemd's driver:
    // `<slice>:cri-containerd:<id>`.
    let mut parts = name.rsplitn(3, ':');
    if let (Some(id), Some("cri-containerd")) = (parts.next(), parts.next())
        && is_id(id)
    {
        return Some((Some(Runtime::Containerd), id));
    }
    let name = name.strip_suffix(".scope").unwrap_or(name);
    // `crio-conmon-<id>` and `libpod-conmon-<id>` are monitors, and fail here: what is
    // left of them is no id.
    NAMES.iter().find_map(|&(prefix, runtime)| {
        let id = name.strip_prefix(prefix)?;
        is_id(id).then_some((Some(runtime), id))
    })
}

fn is_id(name: &str) -> bool {
    name.len() == ID_DIGITS && name.bytes().all(is_hex)
}

fn is_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// The pod's UID from its directory: `pod<uid>`, or a slice that ends in `-pod<uid>`.
fn pod_of_directory(component: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(component).ok()?;
    match name.strip_suffix(".slice") {
        Some(slice) => pod_of_slice(slice),
        None => uid(name.strip_prefix("pod")?),
    }
}

/// The pod's UID from `<slice>:cri-containerd:<id>`.
fn pod_of_prefix(component: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(component).ok()?;
    let (slice, _) = name.split_once(':')?;
    match slice.strip_suffix(".slice") {
        Some(slice) => pod_of_slice(slice),
        None => uid(slice.strip_prefix("pod")?),
    }
}

/// Slices are nested by dashes, so systemd's driver writes UIDs with underscores.
fn pod_of_slice(slice: &str) -> Option<String> {
    let (_, after) = slice.rsplit_once("-pod")?;
    uid(&after.replace('_', "-"))
}

/// A UUID; of a static pod the 32 digits of a hash, which have no dashes.
fn uid(text: &str) -> Option<String> {
    let is_hash = text.len() == 32 && text.bytes().all(is_hex);
    (is_hash || is_uuid(text)).then(|| text.to_owned())
}

/// Eight, four, four, four and twelve digits.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => is_hex(b),
        })
}

fn unit(components: &[&[u8]]) -> Option<Place> {
    let (name, below) = first_unit(components)?;
    let Some(user) = user_of_manager(name) else {
        return is_workload(name).then(|| Place::Unit {
            name: name.to_owned(),
            user: None,
        });
    };
    let (name, _) = first_unit(below)?;
    is_workload(name).then(|| Place::Unit {
        name: name.to_owned(),
        user: Some(user),
    })
}

/// The first component that is no slice, if it is a unit's name, and what is below it.
fn first_unit<'c, 's>(components: &'s [&'c [u8]]) -> Option<(&'c str, &'s [&'c [u8]])> {
    let at = components.iter().position(|c| !c.ends_with(b".slice"))?;
    let name = std::str::from_utf8(components[at]).ok()?;
    // systemd puts this before names that the kernel has a use for (`cpu.service`).
    let name = name.strip_prefix('_').unwrap_or(name);
    let stem = name
        .strip_suffix(".service")
        .or_else(|| name.strip_suffix(".scope"))?;
    let is_clean = !name.chars().any(|c| c.is_control() || c.is_whitespace());
    (!stem.is_empty() && is_clean).then(|| (name, &components[at + 1..]))
}

/// The user of `user@1000.service`.
fn user_of_manager(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("user@")?.strip_suffix(".service")?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Whether a unit starts the same thing again and again: not what holds a login, a
/// terminal or a command that somebody gave to `systemd-run`.
fn is_workload(name: &str) -> bool {
    if name.starts_with("user@") || name.starts_with("user-runtime-dir@") {
        return false;
    }
    let Some((stem, suffix)) = name.rsplit_once('.') else {
        return false;
    };
    if suffix == "scope" {
        let is_session = stem
            .strip_prefix("session-")
            .is_some_and(|rest| !rest.is_empty());
        let is_terminal = stem.starts_with("vte-spawn-") || stem.starts_with("tmux-spawn-");
        // Podman's and CRI-O's monitors.
        let is_monitor = ["crio-conmon-", "libpod-conmon-"]
            .iter()
            .any(|prefix| stem.strip_prefix(prefix).is_some_and(is_id));
        if stem == "init" || is_session || is_terminal || is_monitor {
            return false;
        }
    }
    !is_transient(stem)
}

/// `run-r<hex>`, `run-u<number>`, `run-p<number>-i<number>`, `run-<number>`: names that
/// `systemd-run` makes up.
fn is_transient(stem: &str) -> bool {
    let Some(rest) = stem.strip_prefix("run-") else {
        return false;
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(rest) || rest.strip_prefix('u').is_some_and(is_number) {
        return true;
    }
    if let Some(hex) = rest.strip_prefix('r') {
        return hex.len() >= 8 && hex.bytes().all(is_hex);
    }
    rest.strip_prefix('p')
        .and_then(|rest| rest.split_once("-i"))
        .is_some_and(|(process, invocation)| is_number(process) && is_number(invocation))
}

/// `headstart-<pid>-<n>`: what our own commands are recorded in.
fn is_recording(component: &[u8]) -> bool {
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    component.strip_prefix(b"headstart-").is_some_and(|rest| {
        let mut parts = rest.splitn(2, |&b| b == b'-');
        parts.next().is_some_and(is_number) && parts.next().is_some_and(is_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "4e2a7f0c9d3b5a6e8f1c2d4b6a8e0f1325476980badcfe1032547698abcdef01";
    const OTHER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const UID: &str = "3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6";
    const UID_: &str = "3c5e8f5a_1b2c_4d6e_9f80_a1b2c3d4e5f6";
    const STATIC: &str = "d4f1e2c3b5a697887766554433221100";

    /// A path's text with its ids filled in.
    fn of(path: &str) -> Option<Place> {
        let path = path
            .replace("<id>", ID)
            .replace("<other>", OTHER)
            .replace("<uid>", UID)
            .replace("<uid_>", UID_)
            .replace("<static>", STATIC);
        place(path.as_bytes())
    }

    #[test]
    fn containers() {
        use Runtime::*;
        let table: &[(&str, Option<Runtime>, Option<&str>)] = &[
            // Kubernetes, cgroupfs driver.
            ("/kubepods/burstable/pod<uid>/<id>", None, Some(UID)),
            ("/kubepods/besteffort/pod<uid>/<id>", None, Some(UID)),
            ("/kubepods/pod<uid>/<id>", None, Some(UID)),
            ("/kubepods/burstable/pod<static>/<id>", None, Some(STATIC)),
            (
                "/kubepods/besteffort/pod<uid>/crio-<id>",
                Some(Crio),
                Some(UID),
            ),
            // Kubernetes, systemd driver.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice/cri-containerd-<id>.scope",
                Some(Containerd),
                Some(UID),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid_>.slice/crio-<id>.scope",
                Some(Crio),
                Some(UID),
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid_>.slice/crio-<id>.scope/container",
                Some(Crio),
                Some(UID),
            ),
            (
                "/kubepods.slice/kubepods-pod<uid_>.slice/docker-<id>.scope",
                Some(Docker),
                Some(UID),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<static>.slice/cri-containerd-<id>.scope",
                Some(Containerd),
                Some(STATIC),
            ),
            // A systemd path given to the cgroupfs driver.
            (
                "/system.slice/containerd.service/kubepods-burstable-pod<uid_>.slice:cri-containerd:<id>",
                Some(Containerd),
                Some(UID),
            ),
            // Docker.
            ("/docker/<id>", Some(Docker), None),
            ("/system.slice/docker-<id>.scope", Some(Docker), None),
            ("/my.slice/docker-<id>.scope/init.scope", Some(Docker), None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-<id>.scope",
                Some(Docker),
                None,
            ),
            // Podman.
            ("/machine.slice/libpod-<id>.scope", Some(Podman), None),
            (
                "/machine.slice/libpod-<id>.scope/container",
                Some(Podman),
                None,
            ),
            (
                "/machine.slice/machine-libpod_pod_<other>.slice/libpod-<id>.scope/container",
                Some(Podman),
                None,
            ),
            ("/libpod_parent/libpod-<id>", Some(Podman), None),
            ("/libpod_parent/<other>/libpod-<id>", Some(Podman), None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-<id>.scope/container",
                Some(Podman),
                None,
            ),
            (
                "/system.slice/web.service/libpod-payload-<id>",
                Some(Podman),
                None,
            ),
            // containerd without Kubernetes.
            ("/default/<id>", None, None),
            ("/buildkit/<id>", None, None),
            ("/system.slice/nerdctl-<id>.scope", Some(Containerd), None),
            // Inside of others: the innermost counts.
            (
                "/docker/<other>/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod<uid_>.slice/cri-containerd-<id>.scope",
                Some(Containerd),
                Some(UID),
            ),
            (
                "/system.slice/docker-<other>.scope/kubelet/kubepods/burstable/pod<uid>/<id>",
                None,
                Some(UID),
            ),
            ("/docker/<other>/docker/<id>", Some(Docker), None),
            (
                "/kubepods/burstable/pod<uid>/<other>/docker/<id>",
                Some(Docker),
                None,
            ),
            (
                "/docker/<id>/kubepods/burstable/pod<uid>",
                Some(Docker),
                None,
            ),
            // What it has below itself.
            (
                "/docker/<id>/system.slice/nginx.service",
                Some(Docker),
                None,
            ),
            ("/docker/<id>/init.scope", Some(Docker), None),
            ("/kubepods/pod<uid>/<id>/a b/\u{fffd}", None, Some(UID)),
            // Gone.
            ("/docker/<id> (deleted)", Some(Docker), None),
        ];
        for (path, runtime, pod) in table {
            let wanted = Place::Container {
                id: ID.to_owned(),
                runtime: *runtime,
                pod: pod.map(str::to_owned),
            };
            assert_eq!(of(path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn units() {
        let table: &[(&str, &str, Option<u32>)] = &[
            ("/system.slice/nginx.service", "nginx.service", None),
            ("/system.slice/nginx.service/worker", "nginx.service", None),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                "getty@tty1.service",
                None,
            ),
            (
                "/a.slice/a-b.slice/a-b-c.slice/x.service/y.service",
                "x.service",
                None,
            ),
            ("/system.slice/_cpu.service", "cpu.service", None),
            (
                "/system.slice/dev\\x2dfoo.service",
                "dev\\x2dfoo.service",
                None,
            ),
            (
                "/machine.slice/machine-web.scope/payload",
                "machine-web.scope",
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service",
                "syncthing.service",
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-12345.scope",
                "app-gnome-firefox-12345.scope",
                Some(1000),
            ),
            (
                "/user.slice/user-0.slice/user@0.service/session.slice/dbus.service/x",
                "dbus.service",
                Some(0),
            ),
            (
                "/system.slice/web.service/libpod-conmon-x",
                "web.service",
                None,
            ),
            ("/system.slice/run-parts.service", "run-parts.service", None),
            (
                "/system.slice/session-migration.service",
                "session-migration.service",
                None,
            ),
            ("/system.slice/k3s.service", "k3s.service", None),
            (
                "/system.slice/snap.microk8s.daemon-kubelite.service",
                "snap.microk8s.daemon-kubelite.service",
                None,
            ),
        ];
        for (path, name, user) in table {
            let wanted = Place::Unit {
                name: (*name).to_owned(),
                user: *user,
            };
            assert_eq!(of(path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn what_is_no_workload() {
        for path in [
            "",
            "/",
            "relative/docker/<id>",
            "/..",
            "/../docker/<id>",
            "/system.slice",
            "/init.scope",
            "/kubepods",
            "/kubepods/burstable/pod<uid>",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid_>.slice",
            "/kubepods.slice/kubepods-pod<uid_>.slice/crio-conmon-<id>.scope",
            "/kubepods/pod<uid>/crio-conmon-<id>",
            "/machine.slice/libpod-conmon-<id>.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-<id>.scope",
            "/libpod_parent/<id>",
            "/libpod_parent/conmon",
            "/default/web",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/session-c1.scope",
            "/user.slice/user-1000.slice/user@1000.service",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-<uid>.scope",
            "/user.slice/user-1000.slice/user-runtime-dir@1000.service",
            "/system.slice/run-r0123456789abcdef0123456789abcdef.scope",
            "/system.slice/run-u17.service",
            "/system.slice/run-p4711-i4712.service",
            "/system.slice/run-4711.scope",
            "/system.slice/dev-hugepages.mount",
            "/system.slice/.service",
            "/lxc.payload.web/system.slice/nginx.service",
            "/headstart-17-3",
            "/system.slice/headstart.service/headstart-17-3",
            "/system.slice/a b.service",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(place(b"/system.slice/\xff.service"), None);
        let id_in_capitals = format!("/docker/{}", ID.to_uppercase());
        assert_eq!(place(id_in_capitals.as_bytes()), None);
    }

    #[test]
    fn a_workloads_own_cgroup_is_its_topmost() {
        let path = |path: &str| path.replace("<id>", ID).into_bytes();
        for own in [
            "/system.slice/a.service",
            "/system.slice/a.service/libpod-payload-<id>",
            "/machine.slice/libpod-<id>.scope",
            "/docker/<id>",
            "/docker/<id> (deleted)",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/b.service",
        ] {
            assert_eq!(topmost(&path(own)), place(&path(own)), "{own}");
            assert!(topmost(&path(own)).is_some(), "{own}");
        }
        for within in [
            "/system.slice/a.service/x",
            "/system.slice/a.service/x/y",
            "/machine.slice/libpod-<id>.scope/container",
            "/docker/<id>/system.slice/b.service",
            "/system.slice",
            "/",
            "",
        ] {
            assert_eq!(topmost(&path(within)), None, "{within}");
        }
        let kind = format!("/docker/{ID}/kubelet/kubepods/{}", ID.replace('a', "b"));
        assert!(topmost(kind.as_bytes()).is_some());
    }

    #[test]
    fn odd_bytes_below_a_container_change_nothing() {
        let path = [b"/docker/".as_slice(), ID.as_bytes(), b"/\xff\n/\x01"].concat();
        assert!(matches!(place(&path), Some(Place::Container { id, .. }) if id == ID));
    }

    proptest! {
        #[test]
        fn any_bytes_are_placed_or_refused(path in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = place(&path);
        }

        #[test]
        fn what_is_placed_is_well_formed(
            path in "/?((kubepods|docker|pod|user@1|run-u|[0-9a-f]{64}|session-)?[a-c/:_.-]{0,3}(slice|scope|service)?/?){0,6}"
        ) {
            match place(path.as_bytes()) {
                Some(Place::Container { id, pod, .. }) => {
                    prop_assert!(is_id(&id));
                    prop_assert!(pod.is_none_or(|pod| uid(&pod).is_some()));
                }
                Some(Place::Unit { name, .. }) => {
                    prop_assert!(name.ends_with(".service") || name.ends_with(".scope"));
                    prop_assert!(!name.contains('/'));
                }
                None => {}
            }
        }
    }
}
