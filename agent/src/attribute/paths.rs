//! Paths as bytes, by components.

/// `path` below `dir`, by components, without a leading slash; both may have one.
pub(crate) fn below<'p>(dir: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    let path_start = path.strip_prefix(b"/").unwrap_or(path);
    let dir = dir.strip_prefix(b"/").unwrap_or(dir);
    if dir.is_empty() {
        return Some(path_start);
    }
    let rest = path_start.strip_prefix(dir)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix(b"/")
    }
}

pub(crate) fn join(dir: &[u8], rel: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !rel.is_empty() {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(rel);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_a_root() {
        assert_eq!(below(b"/", b"/a/b"), Some(&b"a/b"[..]));
        assert_eq!(below(b"sub", b"sub/x"), Some(&b"x"[..]));
        assert_eq!(below(b"/sub", b"subway/x"), None);
        assert_eq!(below(b"sub", b"sub"), Some(&b""[..]));
    }
}
