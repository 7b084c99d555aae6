//! Takes paths out of what leaves the machine.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Bytes of a hash that are shown: few enough to read, enough to tell files apart.
const SHOWN: usize = 5;

/// Below these nothing is anybody's own.
const KNOWN: [&str; 6] = [
    "/dev",
    "/etc/headstart",
    "/proc",
    "/run/headstart",
    "/sys",
    "/var/lib/headstart",
];

/// Fields that hold a path that does not begin with a slash.
const PATHS: [&str; 2] = ["path", "file"];

/// Fields whose values are nobody's business.
const SECRETS: [&str; 4] = ["key_file", "password", "secret", "token"];

/// Replaces components of paths by hashes: the same component has the same hash, so that
/// paths can still be compared, and directories told.
pub(super) struct Redaction {
    salt: Vec<u8>,
}

impl Redaction {
    /// With this machine's identity as salt: hashes of common paths can't be looked up,
    /// nor compared with those of another machine.
    pub(super) fn of_this_machine() -> Self {
        let salt = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"]
            .iter()
            .find_map(|file| std::fs::read(file).ok().filter(|id| !id.is_empty()));
        Self {
            salt: salt.unwrap_or_default(),
        }
    }

    /// Redacts all texts of a value.
    pub(super) fn redact(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact(item)),
            Value::Object(fields) => {
                for (name, value) in fields.iter_mut() {
                    match value {
                        Value::String(text) if PATHS.contains(&name.as_str()) => {
                            *text = self.path(text);
                        }
                        value if SECRETS.iter().any(|secret| name.contains(secret)) => {
                            *value = Value::String("removed".to_owned());
                        }
                        value => self.redact(value),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Every word that has a slash in it.
    fn text(&self, text: &str) -> String {
        let stops =
            |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '(' | ')' | ',' | ';');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(stops).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.contains('/') {
                // `path:/data`, `/a/b: no such file`.
                let begin = if word.starts_with('/') {
                    0
                } else {
                    word.find(":/").map_or(0, |at| at + 1)
                };
                let (before, path) = word.split_at(begin);
                let bare = path.trim_end_matches([':', '.']);
                out.push_str(before);
                out.push_str(&self.path(bare));
                out.push_str(&path[bare.len()..]);
            } else {
                out.push_str(word);
            }
            let stop = after.chars().next();
            out.extend(stop);
            rest = &after[stop.map_or(0, char::len_utf8)..];
        }
        out
    }

    fn path(&self, path: &str) -> String {
        let known = KNOWN.iter().any(|known| {
            path.strip_prefix(known)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if known {
            return path.to_owned();
        }
        let parts: Vec<String> = path.split('/').map(|part| self.component(part)).collect();
        parts.join("/")
    }

    fn component(&self, component: &str) -> String {
        if component.is_empty() {
            return String::new();
        }
        let hash = Sha256::new()
            .chain_update(&self.salt)
            // The salt ends where the component begins.
            .chain_update([0])
            .chain_update(component)
            .finalize();
        hash[..SHOWN].iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redacted(mut value: Value) -> Value {
        let salt = b"a machine".to_vec();
        Redaction { salt }.redact(&mut value);
        value
    }

    #[test]
    fn paths_go_and_stay_comparable() {
        let value = redacted(json!({
            "files": [
                { "path": "data/secret.bin", "volume": "path:/home/me" },
                { "path": "data/other.bin", "volume": "uuid:12-34" },
            ],
            "error": "opening /home/me/secret.bin: no such file",
            "name": "web.service",
        }));
        let text = value.to_string();
        for gone in ["data", "secret", "home", "me/", "other"] {
            assert!(!text.contains(gone), "{gone} in {text}");
        }
        let path = |n: usize| value["files"][n]["path"].as_str().expect("a path");
        let directory = |n: usize| path(n).split_once('/').expect("two parts").0;
        assert_eq!(directory(0), directory(1));
        assert_ne!(path(0), path(1));
        assert_eq!(value["files"][1]["volume"], "uuid:12-34");
        assert_eq!(value["name"], "web.service");
        let error = value["error"].as_str().expect("text");
        assert!(
            error.starts_with("opening /") && error.ends_with(": no such file"),
            "{error}"
        );
        // The same file, named from the root and from its volume.
        let last = path(0).rsplit('/').next().expect("a part");
        assert!(error.contains(last), "{error}");
    }

    #[test]
    fn what_every_machine_has_stays_and_secrets_never_do() {
        let value = redacted(json!({
            "found": "/sys/kernel/btf/vmlinux (6 MiB), /procure/x",
            "state_dir": "/var/lib/headstart",
            "token": "abc",
        }));
        let found = value["found"].as_str().expect("text");
        assert!(
            found.starts_with("/sys/kernel/btf/vmlinux (6 MiB), /"),
            "{found}"
        );
        assert!(!found.contains("procure"), "{found}");
        assert_eq!(value["state_dir"], "/var/lib/headstart");
        assert_eq!(value["token"], "removed");
    }

    #[test]
    fn another_machine_has_other_hashes() {
        let hash = |salt: &str| {
            let salt = salt.as_bytes().to_vec();
            Redaction { salt }.path("/home/me")
        };
        assert_ne!(hash("one"), hash("two"));
        assert_eq!(hash("one"), hash("one"));
    }
}
