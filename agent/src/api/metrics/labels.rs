//! Label values that are safe to show and few in number.

use crate::model::escape;
use crate::probe::Group;

/// Hexadecimal digits in a row from which on they are taken for an identifier.
const IDENTIFIER: usize = 12;

/// What stands for an identifier.
const MASK: &str = "*";

/// A name without what differs from one container, pod or image to the next: digests,
/// ids and UIDs become `*`, of a path the last component is left. Escaped.
pub(super) fn plain(name: &str) -> String {
    // An image reference keeps its repository's last part; a path its file's name.
    let last = name
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let mut out = String::with_capacity(last.len());
    let mut rest = last;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let length = word.unwrap_or(rest.len()).max(c.len_utf8());
        let (part, after) = rest.split_at(length);
        mask_word(part, &mut out);
        rest = after;
    }
    // A backslash is itself, as in `dev-disk-by\\x2duuid.mount`: by that name systemd and other
    // exporters know it.
    escape(out.as_bytes()).replace("\\\\", "\\")
}

/// A stretch of letters, digits, dashes and underscores.
fn mask_word(word: &str, out: &mut String) {
    let mut rest = word;
    while !rest.is_empty() {
        let length = identifier(rest);
        if length > 0 {
            out.push_str(MASK);
            rest = &rest[length..];
            continue;
        }
        // On to where the next one can begin: after the next separator.
        let next = rest.find(['-', '_']).map_or(rest.len(), |at| at + 1);
        let next = if rest.is_char_boundary(next) {
            next
        } else {
            rest.len()
        };
        out.push_str(&rest[..next]);
        rest = &rest[next..];
    }
}

/// Bytes of an identifier that `text` begins with; 0 where it begins with none. A UID
/// has groups of 8, 4, 4, 4 and 12 digits; anything else is digits in a row. What has no
/// decimal digit is a word (`defaced`, `deadbeefcafe` is bad luck).
fn identifier(text: &str) -> usize {
    let run = |text: &str| text.bytes().take_while(u8::is_ascii_hexdigit).count();
    let mut uid = 0;
    for (group, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 {
            if !matches!(text.as_bytes().get(uid), Some(b'-' | b'_')) {
                uid = 0;
                break;
            }
            uid += 1;
        }
        if run(&text[uid..]) != digits {
            uid = 0;
            break;
        }
        uid += digits;
    }
    if uid > 0 {
        return uid;
    }
    let length = run(text);
    let ends = text[length..]
        .chars()
        .next()
        .is_none_or(|c| !c.is_ascii_alphanumeric());
    let digits = text[..length].bytes().any(|b| b.is_ascii_digit());
    if ends && digits && length >= IDENTIFIER {
        length
    } else {
        0
    }
}

/// A hook's group, as a label has it.
pub(super) fn group_name(group: Group) -> String {
    format!("{group:?}").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_stay_and_identifiers_go() {
        let id = "4f3c2b1a".repeat(8);
        let cases = [
            ("nginx.service", "nginx.service"),
            ("getty@tty1.service", "getty@tty1.service"),
            ("web-5d4f8", "web-5d4f8"),
            ("defaced-facade.service", "defaced-facade.service"),
            ("größe", "größe"),
            ("/usr/bin/python3", "python3"),
            (
                "docker.io/library/redis@sha256:4f3c2b1a4f3c2b1a4f3c2b1a",
                "redis@sha256:*",
            ),
            (
                "pod9a8b7c6d-1234-4abc-8def-0123456789ab",
                "pod9a8b7c6d-1234-4abc-8def-*",
            ),
            ("9a8b7c6d-1234-4abc-8def-0123456789ab", "*"),
            (
                "pod-9a8b7c6d_1234_4abc_8def_0123456789ab.slice",
                "pod-*.slice",
            ),
            ("", ""),
        ];
        for (name, plain_name) in cases {
            assert_eq!(plain(name), plain_name, "{name}");
        }
        assert_eq!(plain(&format!("docker-{id}.scope")), "docker-*.scope");
        assert_eq!(plain(&id), "*");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(plain("a\n\x1b[2Jb"), "a\\x0a\\x1b[2Jb");
        assert_eq!(plain("a\\x2db.service"), "a\\x2db.service");
    }

    proptest! {
        #[test]
        fn any_name_is_taken(name in "\\PC{0,40}|[0-9a-f_/-]{0,80}") {
            let plain = plain(&name);
            let longest = plain.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max();
            prop_assert!(longest.is_none_or(|n| n < 64), "{}", plain);
        }
    }
}
