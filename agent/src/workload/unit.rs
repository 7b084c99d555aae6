//! A systemd unit's name → its keys. Pure.

use super::Keys;
use super::cgroup::is_uuid;
use super::key::fit;

/// Keys of a unit, the surest first; each is fit to be a profile's name.
///
/// | unit | keys |
/// |---|---|
/// | `nginx.service` | `unit:nginx.service` |
/// | `getty@tty1.service` | `unit:getty@tty1.service`, `unit:getty@.service` |
/// | `sshd@3-10.0.0.1:22-10.0.0.9:4242.service` (one a connection) | `unit:sshd@.service` |
/// | user 1000's `syncthing.service` | `user-unit:1000/syncthing.service`, `user-unit:syncthing.service` |
/// | user 1000's `app-gnome-firefox-4711.scope` | `user-unit:1000/app-gnome-firefox.scope`, `user-unit:app-gnome-firefox.scope` |
///
/// A user's units have keys of their own: what is called alike reads that user's files.
pub fn keys(name: &str, user: Option<u32>) -> Keys {
    let stable = stable(name);
    let template = template(&stable);
    let mut keys = Vec::with_capacity(3);
    match user {
        None => keys.push(fit(&format!("unit:{stable}"))),
        Some(user) => {
            keys.push(fit(&format!("user-unit:{user}/{stable}")));
            keys.push(fit(&format!("user-unit:{stable}")));
        }
    }
    if let Some(template) = template {
        let kind = if user.is_some() { "user-unit" } else { "unit" };
        keys.push(fit(&format!("{kind}:{template}")));
    }
    Keys(keys)
}

/// The name without what is different each time it starts.
pub fn stable(name: &str) -> String {
    let Some((stem, suffix)) = name.rsplit_once('.') else {
        return name.to_owned();
    };
    if let Some((prefix, instance)) = stem.split_once('@') {
        // dbus-broker's: `dbus-:1.2-org.example.Name@0.service`.
        if let Some(service) = bus_name(prefix) {
            return format!("dbus-{service}@.{suffix}");
        }
        let is_app = prefix.starts_with("app-") && is_random(instance);
        if is_app || is_connection(instance) {
            return format!("{prefix}@.{suffix}");
        }
        return name.to_owned();
    }
    // Scopes are made by whoever starts the program, and named for that one start:
    // desktops (`app-<launcher>-<application>-<random>.scope`), snap (a UUID).
    if suffix == "scope"
        && let Some(kept) = without_random(stem)
    {
        return format!("{kept}.{suffix}");
    }
    name.to_owned()
}

/// `getty@.service` for `getty@tty1.service`; `None` for what has no instance.
fn template(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{suffix}"))
}

fn without_random(stem: &str) -> Option<&str> {
    if let Some(at) = stem.len().checked_sub(36)
        && stem.get(at..).is_some_and(is_uuid)
    {
        return stem[..at]
            .strip_suffix(['-', '.'])
            .filter(|s| !s.is_empty());
    }
    let (kept, last) = stem.rsplit_once('-')?;
    (is_random(last) && !kept.is_empty()).then_some(kept)
}

/// A process id, a UUID, or at least eight hexadecimal digits with a number among them.
fn is_random(text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    let has_digit = text.bytes().any(|b| b.is_ascii_digit());
    let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    text.bytes().all(|b| b.is_ascii_digit())
        || (text.len() >= 8 && is_hex && has_digit)
        || is_uuid(text)
}

/// An instance that systemd makes up for a connection that it accepted:
/// `<n>-<pid>-<uid>` (local), `<n>-<address>:<port>-<address>:<port>`, `<n>-unknown`.
fn is_connection(instance: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = instance.splitn(3, '-');
    let (Some(count), Some(first)) = (parts.next(), parts.next()) else {
        return false;
    };
    if !is_number(count) {
        return false;
    }
    match parts.next() {
        None => first == "unknown",
        Some(second) => {
            let is_process = |text: &str| text.split('_').all(is_number);
            (is_process(first) && is_number(second))
                || (first.contains(':') && second.contains(':'))
        }
    }
}

/// The service in `dbus-:<bus number>-<service>`.
fn bus_name(prefix: &str) -> Option<&str> {
    let (number, service) = prefix.strip_prefix("dbus-:")?.split_once('-')?;
    let is_number = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (is_number && !number.is_empty() && !service.is_empty()).then_some(service)
}

#[cfg(test)]
mod tests {
    use super::super::key::names_a_profile;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_lose_what_changes() {
        for (name, wanted) in [
            ("nginx.service", "nginx.service"),
            ("app-gnome-firefox-12345.scope", "app-gnome-firefox.scope"),
            (
                "app-gnome-org.gnome.Foo\\x2dbar-77.scope",
                "app-gnome-org.gnome.Foo\\x2dbar.scope",
            ),
            (
                "app-firefox-3c5e8f5a1b2c4d6e9f80a1b2c3d4e5f6.scope",
                "app-firefox.scope",
            ),
            ("app-foo@abcdef0123456789.service", "app-foo@.service"),
            ("app-foo@autostart.service", "app-foo@autostart.service"),
            (
                "snap.firefox.firefox-3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6.scope",
                "snap.firefox.firefox.scope",
            ),
            ("machine-web.scope", "machine-web.scope"),
            ("app-facade.scope", "app-facade.scope"),
            ("postgresql-15.service", "postgresql-15.service"),
            ("getty@tty1.service", "getty@tty1.service"),
            ("sshd@3-10.0.0.1:22-10.0.0.9:4242.service", "sshd@.service"),
            ("sshd@12-4711-1000.service", "sshd@.service"),
            ("sshd@12-4711_99-1000.service", "sshd@.service"),
            (
                "systemd-coredump@0-4711-0.service",
                "systemd-coredump@.service",
            ),
            ("postgresql@15-main.service", "postgresql@15-main.service"),
            (
                "dbus-:1.2-org.example.Name@0.service",
                "dbus-org.example.Name@.service",
            ),
            ("-1.scope", "-1.scope"),
        ] {
            assert_eq!(stable(name), wanted, "{name}");
        }
    }

    #[test]
    fn keys_fall_in_confidence() {
        assert_eq!(keys("nginx.service", None).0, ["unit:nginx.service"]);
        assert_eq!(
            keys("getty@tty1.service", None).0,
            ["unit:getty@tty1.service", "unit:getty@.service"]
        );
        assert_eq!(
            keys("pipewire@a.service", Some(7)).0,
            [
                "user-unit:7/pipewire@a.service",
                "user-unit:pipewire@a.service",
                "user-unit:pipewire@.service"
            ]
        );
        assert_eq!(
            keys("sshd@3-10.0.0.1:22-10.0.0.9:4242.service", None).0,
            ["unit:sshd@.service"]
        );
    }

    proptest! {
        #[test]
        fn keys_can_name_profiles(name in ".{0,300}", user in proptest::option::of(any::<u32>())) {
            let keys = keys(&name, user);
            prop_assert!(!keys.0.is_empty());
            for key in &keys.0 {
                prop_assert!(names_a_profile(key), "{key:?}");
            }
        }

        #[test]
        fn users_units_never_meet_the_systems(a in "[a-z0-9:@/-]{1,20}", b in "[a-z0-9:@/-]{1,20}") {
            let system = keys(&format!("{a}.service"), None);
            let user = keys(&format!("{b}.service"), Some(0));
            prop_assert!(system.0.iter().all(|key| !user.0.contains(key)));
        }
    }
}
