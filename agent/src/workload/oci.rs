//! A container's `config.json`, as the OCI runtime specification has it. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Largest file that is read, bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// What is of interest in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `process.args`: what is executed; empty where no process is given.
    pub args: Vec<String>,
    /// `root.path`: absolute, or below the bundle; empty where no root is given.
    pub root: String,
    /// Those whose value is text.
    pub annotations: BTreeMap<String, String>,
    /// In the order in which they are mounted.
    pub mounts: Vec<ConfigMount>,
}

/// One of the container's mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMount {
    /// Where in the container.
    pub destination: String,
    /// What: of a bind mount a path of the node, or below the bundle. May be empty.
    pub source: String,
    /// Filesystem type, or `bind`. May be empty.
    pub kind: String,
}

/// Why bytes are no container's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Larger than [`MAX_BYTES`].
    #[error("config.json of {0} bytes: at most {MAX_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or a field is not what the specification says.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
}

/// Parses the file. What it does not know it passes over; so it does annotations that are
/// not text.
///
/// # Errors
/// Too large, not JSON, or a field of interest of another type, which is named.
pub fn parse(bytes: &[u8]) -> Result<Config, ConfigError> {
    if bytes.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge(bytes.len()));
    }
    let file: File = serde_json::from_slice(bytes)?;
    let mounts = file.mounts.into_iter().map(|mount| ConfigMount {
        destination: mount.destination,
        source: mount.source,
        kind: mount.kind,
    });
    Ok(Config {
        args: file.process.map(|process| process.args).unwrap_or_default(),
        root: file.root.map(|root| root.path).unwrap_or_default(),
        annotations: file.annotations,
        mounts: mounts.collect(),
    })
}

#[derive(Deserialize)]
#[serde(expecting = "a container's configuration, which is an object")]
struct File {
    process: Option<Process>,
    root: Option<Root>,
    #[serde(default, deserialize_with = "texts_by_name")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "mounts")]
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(expecting = "`process` to be an object")]
struct Process {
    #[serde(default, deserialize_with = "args")]
    args: Vec<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "`root` to be an object")]
struct Root {
    #[serde(deserialize_with = "root_path")]
    path: String,
}

#[derive(Deserialize)]
#[serde(expecting = "each of `mounts` to be an object")]
struct Mount {
    #[serde(deserialize_with = "destination")]
    destination: String,
    #[serde(default, deserialize_with = "source")]
    source: String,
    #[serde(default, rename = "type", deserialize_with = "mount_type")]
    kind: String,
}

/// A text; the field is named where it is something else.
struct Text(&'static str);

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` to be text", self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<String, E> {
        Ok(text)
    }
}

fn root_path<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Text("root.path").deserialize(from)
}

fn destination<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Text("mounts.destination").deserialize(from)
}

fn source<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Text("mounts.source").deserialize(from)
}

fn mount_type<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Text("mounts.type").deserialize(from)
}

/// A list, which Go writes as `null` where it is empty; the field is named where it is
/// something else.
struct List<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` to be a list", self.0)
    }

    fn visit_unit<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = from.next_element()? {
            list.push(element);
        }
        Ok(list)
    }
}

fn mounts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Mount>, D::Error> {
    from.deserialize_any(List("mounts", PhantomData))
}

struct Arg(String);

impl<'de> Deserialize<'de> for Arg {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Text("process.args").deserialize(from).map(Self)
    }
}

fn args<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let args = from.deserialize_any(List::<Arg>("process.args", PhantomData))?;
    Ok(args.into_iter().map(|arg| arg.0).collect())
}

/// Text by name; a value that is not text is passed over, and so is a whole that is no
/// object, for labels are only hints.
pub(super) fn texts_by_name<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Hint::deserialize(from)?.texts)
}

/// Anything: text, an object's texts by name, or nothing of interest.
#[derive(Default)]
struct Hint {
    text: Option<String>,
    texts: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Hint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(HintVisitor)
    }
}

struct HintVisitor;

impl<'de> Visitor<'de> for HintVisitor {
    type Value = Hint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Hint, E> {
        Ok(Hint {
            text: Some(text.to_owned()),
            ..Hint::default()
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Hint, E> {
        Ok(Hint::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Hint, E> {
        Ok(Hint::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Hint, E> {
        Ok(Hint::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Hint, E> {
        Ok(Hint::default())
    }

    fn visit_unit<E>(self) -> Result<Hint, E> {
        Ok(Hint::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Hint, A::Error> {
        while from.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Hint::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Hint, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some((name, value)) = from.next_entry::<String, Hint>()? {
            if let Some(text) = value.text {
                texts.insert(name, text);
            }
        }
        Ok(Hint { text: None, texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_of_interest_is_taken_and_the_rest_passed_over() {
        let text = br#"{
            "ociVersion": "1.0.2-dev",
            "process": {"terminal": true, "user": {"uid": 0}, "args": ["sh", "-c", "x"], "cwd": "/"},
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "web",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/data"}
            ],
            "annotations": {"a": "b", "n": 1, "list": ["x"], "deep": {"a": {"b": null}}, "none": null},
            "linux": {"cgroupsPath": "/default/x"}
        }"#;
        let config = parse(text).expect("valid");
        assert_eq!(config.args, ["sh", "-c", "x"]);
        assert_eq!(config.root, "rootfs");
        assert_eq!(
            config.annotations,
            BTreeMap::from([("a".to_owned(), "b".to_owned())])
        );
        assert_eq!(config.mounts.len(), 2);
        assert_eq!(config.mounts[0].kind, "proc");
        assert_eq!(config.mounts[1].source, "");
    }

    #[test]
    fn empty_parts_are_fine() {
        assert_eq!(parse(b"{}").expect("valid"), Config::default());
        let nulls = br#"{"process": null, "root": null, "mounts": null, "annotations": null}"#;
        assert_eq!(parse(nulls).expect("valid"), Config::default());
        let odd = br#"{"annotations": [1, {"a": "b"}], "process": {"args": null}}"#;
        assert_eq!(parse(odd).expect("valid"), Config::default());
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            (&br#"{"process": {"args": "sh"}}"#[..], "`process.args`"),
            (br#"{"process": {"args": [1]}}"#, "`process.args`"),
            (br#"{"process": 3}"#, "`process`"),
            (br#"{"root": {"path": 3}}"#, "`root.path`"),
            (br#"{"root": {}}"#, "`path`"),
            (br#"{"root": "x"}"#, "`root`"),
            (br#"{"mounts": {}}"#, "`mounts`"),
            (br#"{"mounts": [1]}"#, "`mounts`"),
            (
                br#"{"mounts": [{"destination": 1}]}"#,
                "`mounts.destination`",
            ),
            (
                br#"{"mounts": [{"destination": "/", "type": 1}]}"#,
                "`mounts.type`",
            ),
            (b"[]", "a container's configuration"),
        ] {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.contains(field), "{error}");
        }
        assert!(matches!(
            parse(&vec![b' '; MAX_BYTES + 1]),
            Err(ConfigError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_object_is_parsed_or_refused(
            text in "\\{(\"(process|args|root|path|mounts|annotations)\":(\\{|\\[|\"\"|null|1|,|\\}|\\]){0,3}){0,4}\\}"
        ) {
            let _ = parse(text.as_bytes());
        }
    }
}
