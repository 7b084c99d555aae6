//! Options of a mounted overlay filesystem → the directories that it shows. Pure.

/// What an overlay filesystem is made of, as it was mounted: paths may be relative, and
/// lead over symbolic links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, the uppermost first; those that hold data only are last.
    pub lower: Vec<Vec<u8>>,
    /// The layer that is written to.
    pub upper: Option<Vec<u8>>,
}

/// Takes the superblock's options apart, as mountinfo prints them.
///
/// Kernels differ. `lowerdir=` is what was given to mount(2), with a backslash before
/// colons of a path, or (6.5 to 6.7) the paths with such colons as octal digits; from 6.8
/// on there may be one `lowerdir+=` for each layer instead. In all of them commas, blanks
/// and backslashes are octal digits on top.
pub fn parse(options: &[u8]) -> Overlay {
    let mut overlay = Overlay::default();
    let mut data = Vec::new();
    for option in options.split(|&b| b == b',') {
        if let Some(list) = option.strip_prefix(b"lowerdir=") {
            overlay.lower.extend(split(list));
        } else if let Some(path) = option.strip_prefix(b"lowerdir+=") {
            overlay.lower.push(unescape_octal(path));
        } else if let Some(path) = option.strip_prefix(b"datadir+=") {
            data.push(unescape_octal(path));
        } else if let Some(path) = option.strip_prefix(b"upperdir=") {
            overlay.upper = Some(unescape_octal(path));
        }
    }
    overlay.lower.extend(data);
    overlay.lower.retain(|path| !path.is_empty());
    overlay
}

/// Splits at colons that no backslash stands before. Two in a row, before layers of data
/// only, leave an empty path between.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    let mut path = Vec::new();
    let mut rest = list;
    let mut is_escaped = false;
    while let Some((byte, was_octal, after)) = next(rest) {
        rest = after;
        match byte {
            _ if is_escaped => {
                path.push(byte);
                is_escaped = false;
            }
            b'\\' => is_escaped = true,
            // One in octal digits is part of a path.
            b':' if !was_octal => paths.push(std::mem::take(&mut path)),
            _ => path.push(byte),
        }
    }
    paths.push(path);
    paths
}

/// The next byte, whether it was written as octal digits, and what follows.
fn next(text: &[u8]) -> Option<(u8, bool, &[u8])> {
    match text {
        [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            rest @ ..,
        ] => Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), true, rest)),
        [byte, rest @ ..] => Some((*byte, false, rest)),
        [] => None,
    }
}

fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, _, after)) = next(rest) {
        out.push(byte);
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lower(options: &str) -> Vec<String> {
        let overlay = parse(options.as_bytes());
        overlay
            .lower
            .iter()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect()
    }

    #[test]
    fn layers_in_each_kernels_words() {
        assert_eq!(
            lower("rw,lowerdir=/l/AB:/l/CD,upperdir=/u/diff,workdir=/u/work,xino=off"),
            ["/l/AB", "/l/CD"]
        );
        assert_eq!(lower("rw,lowerdir=l/AB:l/CD"), ["l/AB", "l/CD"]);
        // As given to mount(2), its backslash in octal digits.
        assert_eq!(lower("rw,lowerdir=/a\\134:b:/c\\040d"), ["/a:b", "/c d"]);
        // 6.5.
        assert_eq!(lower("rw,lowerdir=/a\\072b:/c\\054d"), ["/a:b", "/c,d"]);
        // 6.8.
        assert_eq!(
            lower("rw,lowerdir+=/a:b,lowerdir+=/c\\134,datadir+=/d"),
            ["/a:b", "/c\\", "/d"]
        );
        // Data only.
        assert_eq!(lower("rw,lowerdir=/a:/b::/c::/d"), ["/a", "/b", "/c", "/d"]);
        assert_eq!(lower("rw"), [""; 0]);
        assert_eq!(
            parse(b"rw,lowerdir=/a,upperdir=/u\\040x").upper.as_deref(),
            Some(&b"/u x"[..])
        );
    }

    fn escape(path: &[u8], special: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &b in path {
            if special.contains(&b) {
                out.extend(format!("\\{b:03o}").bytes());
            } else {
                out.push(b);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(options in proptest::collection::vec(any::<u8>(), 0..200)) {
            let overlay = parse(&options);
            prop_assert!(overlay.lower.iter().all(|path| !path.is_empty()));
        }

        #[test]
        fn paths_come_back(
            paths in proptest::collection::vec(proptest::collection::vec(1u8..=255, 1..12), 1..5),
        ) {
            // What runtimes give to mount(2), as the kernel prints it.
            let mut given = Vec::new();
            for path in &paths {
                if !given.is_empty() {
                    given.push(b':');
                }
                for &b in path {
                    if matches!(b, b':' | b'\\') {
                        given.push(b'\\');
                    }
                    given.push(b);
                }
            }
            let mut options = b"rw,lowerdir=".to_vec();
            options.extend(escape(&given, b", \t\n\\"));
            prop_assert_eq!(&parse(&options).lower, &paths);
            // Each by itself.
            let mut options = b"rw".to_vec();
            for path in &paths {
                options.extend_from_slice(b",lowerdir+=");
                options.extend(escape(path, b", \t\n\\"));
            }
            prop_assert_eq!(&parse(&options).lower, &paths);
        }
    }
}
