//! Paths inside a volume, and how bytes from outside reach a terminal.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path relative to its volume's root: components separated by `/`, none of
/// them empty, `.` or `..`, no NUL. Any other byte may appear. The empty path
/// is the volume's root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a [`RelPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A NUL byte can't be in a path.
    #[error("path holds a NUL byte at offset {0}")]
    Nul(usize),
    /// `.` or `..` would leave the volume, or name a file twice.
    #[error("path has a `.` or `..` component")]
    Dots,
    /// Empty component: a leading, trailing or doubled slash.
    #[error("path has an empty component (leading, trailing or doubled slash)")]
    EmptyComponent,
}

impl RelPath {
    /// Checks `bytes` and takes them as a path.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if let Some(at) = bytes.iter().position(|&b| b == 0) {
            return Err(PathError::Nul(at));
        }
        if !bytes.is_empty() {
            for component in bytes.split(|&b| b == b'/') {
                match component {
                    b"" => return Err(PathError::EmptyComponent),
                    b"." | b".." => return Err(PathError::Dots),
                    _ => {}
                }
            }
        }
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The volume's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as a [`Path`], still relative. Empty for the root.
    pub fn as_path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// Whether this is the volume's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the directory's path that holds it; its own are none.
    pub fn parent_bytes(&self) -> &[u8] {
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        &self.0[..end]
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        Some(Self(self.parent_bytes().into()))
    }

    /// This path with one more component, which must be a valid one.
    pub fn join(&self, component: &[u8]) -> Result<RelPath, PathError> {
        if component.is_empty() {
            return Err(PathError::EmptyComponent);
        }
        let mut bytes = self.0.to_vec();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(component);
        RelPath::new(bytes)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath({})", escape(&self.0))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// Makes bytes from outside safe for a terminal, a log line or JSON: control
/// characters, backslashes, bidirectional overrides and bytes that are not
/// UTF-8 become `\xNN` or `\u{…}`; the rest stays as it is.
pub fn escape(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let invisible = matches!(
                c,
                '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
            );
            let _ = if c == '\\' {
                out.write_str("\\\\")
            } else if c.is_control() && (c as u32) < 0x80 {
                write!(out, "\\x{:02x}", c as u32)
            } else if c.is_control() || invisible {
                write!(out, "\\u{{{:x}}}", c as u32)
            } else {
                out.write_char(c)
            };
        }
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_bytes_survive_and_bad_components_do_not() {
        let odd = RelPath::new(b"a\n\xff b/\xe2\x80\xae".to_vec()).expect("odd bytes are fine");
        assert_eq!(odd.to_string(), "a\\x0a\\xff b/\\u{202e}");
        assert_eq!(RelPath::new(b"a/../b".to_vec()), Err(PathError::Dots));
        assert_eq!(RelPath::new(b"/a".to_vec()), Err(PathError::EmptyComponent));
        assert_eq!(RelPath::new(b"a/".to_vec()), Err(PathError::EmptyComponent));
        assert_eq!(RelPath::new(b"a\0".to_vec()), Err(PathError::Nul(1)));
    }

    #[test]
    fn parents_end_at_the_root() {
        let path = RelPath::new(b"a/b".to_vec()).expect("valid");
        let a = path.parent().expect("a");
        assert_eq!(a.as_bytes(), b"a");
        assert_eq!(a.parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
    }

    proptest! {
        #[test]
        fn escaped_text_is_printable(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(escape(&bytes).chars().all(|c| !c.is_control()));
        }

        #[test]
        fn join_then_parent_is_identity(a in "[^/\0.]{1,8}", b in "[^/\0.]{1,8}") {
            let parent = RelPath::root().join(a.as_bytes()).expect("valid");
            let child = parent.join(b.as_bytes()).expect("valid");
            prop_assert_eq!(child.parent(), Some(parent));
        }
    }
}
