//! The mount table, as `/proc/self/mountinfo` prints it.
//!
//! Paths are bytes: the kernel escapes space, tab, newline and backslash as
//! three octal digits and passes everything else through.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

/// One mount of this mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Identifies the mount while it exists (`STATX_MNT_ID`).
    pub id: u64,
    /// The mount this one sits on.
    pub parent: u64,
    /// Major and minor number of the superblock.
    pub device: (u32, u32),
    /// What of the filesystem is mounted: `/`, or a directory (bind mount, subvolume).
    pub root: Vec<u8>,
    /// Where, relative to the process's root.
    pub mount_point: Vec<u8>,
    /// Options of the mount, unparsed.
    pub options: Vec<u8>,
    /// Filesystem type (`ext4`, `fuse.sshfs`); bytes that are not UTF-8 replaced.
    pub fs_type: String,
    /// What was mounted (`/dev/sda1`, `server:/export`).
    pub source: Vec<u8>,
    /// Options of the superblock, unparsed.
    pub super_options: Vec<u8>,
}

/// A line that is not one of mountinfo's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mountinfo line {line}: {what}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Parses the whole table.
///
/// # Errors
/// The first line that does not have mountinfo's form.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    text.split(|&b| b == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(at, line)| parse_line(line).map_err(|what| ParseError { line: at + 1, what }))
        .collect()
}

/// Reads this process's table.
///
/// # Errors
/// `/proc` is not mounted or not readable, or the text is not what is expected
/// ([`io::ErrorKind::InvalidData`]).
pub fn read() -> io::Result<Vec<Mount>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    parse(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// This process's table, read again only where it has changed. The kernel tells of that by
/// `poll(2)` (`mounts_poll`, fs/namespace.c), which costs 1 µs; a table of 1,600 mounts takes
/// 2 ms to be printed.
#[derive(Debug, Default)]
pub struct Table {
    watched: Option<File>,
    mounts: Option<Arc<[Mount]>>,
}

impl Table {
    /// The table as it is now.
    ///
    /// # Errors
    /// As [`read`].
    pub fn now(&mut self) -> io::Result<Arc<[Mount]>> {
        // Before it is read: what changes meanwhile is told of by the next question.
        let watched = match &self.watched {
            Some(file) => file,
            None => self.watched.insert(File::open("/proc/self/mountinfo")?),
        };
        let mut asked = [PollFd::new(watched, PollFlags::PRI)];
        poll(&mut asked, Some(&Timespec::default()))?;
        let told = asked[0].revents();
        if told.intersects(PollFlags::PRI | PollFlags::ERR) {
            self.mounts = None;
        }
        Ok(match &self.mounts {
            Some(mounts) => mounts.clone(),
            None => self.mounts.insert(read()?.into()).clone(),
        })
    }
}

/// The mount that `path` (absolute, no symbolic links in it) lies in.
///
/// Of several mounts on one point the last mounted one, which hides the others.
pub fn covering<'a>(mounts: &'a [Mount], path: &[u8]) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|m| contains(&m.mount_point, path))
        .max_by_key(|m| m.mount_point.len())
}

/// Whether `path` is `dir` or lies below it, by components.
fn contains(dir: &[u8], path: &[u8]) -> bool {
    if dir == b"/" {
        return path.first() == Some(&b'/');
    }
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    // 36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext3 /dev/root rw
    let mut fields = line.split(|&b| b == b' ');
    let mut next = |what| fields.next().ok_or(what);
    let id = number(next("no mount id")?).ok_or("mount id is not a number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is not a number")?;
    let device = next("no device")?;
    let colon = device
        .iter()
        .position(|&b| b == b':')
        .ok_or("device has no colon")?;
    let major = number(&device[..colon]).ok_or("major is not a number")?;
    let minor = number(&device[colon + 1..]).ok_or("minor is not a number")?;
    let root = unescape(next("no root")?);
    let mount_point = unescape(next("no mount point")?);
    let options = next("no options")?.to_vec();
    // Any number of optional fields (`shared:N`, `master:N`), ended by a dash.
    while next("no separator")? != b"-" {}
    let fs_type = String::from_utf8_lossy(&unescape(next("no type")?)).into_owned();
    let source = unescape(next("no source")?);
    // A filesystem may print no superblock options at all.
    let super_options = fields.next().unwrap_or_default().to_vec();
    Ok(Mount {
        id,
        parent,
        device: (
            u32::try_from(major).map_err(|_| "major is too large")?,
            u32::try_from(minor).map_err(|_| "minor is too large")?,
        ),
        root,
        mount_point,
        options,
        fs_type,
        source,
        super_options,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    // `parse` alone would take a leading plus sign.
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Undoes the kernel's `\ooo` escapes; a backslash that starts none is kept.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] = tail
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escape_like_the_kernel(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &b in bytes {
            match b {
                b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{b:03o}").bytes()),
                _ => out.push(b),
            }
        }
        out
    }

    #[test]
    fn optional_fields_escapes_and_missing_options() {
        let text = b"36 35 98:0 / /a\\040b\\134\xff rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
                     37 36 0:5 /sub /x ro - fuse.x none \n";
        let mounts = parse(text).expect("valid");
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, b"/a b\\\xff");
        assert_eq!(mounts[0].device, (98, 0));
        assert_eq!(mounts[0].fs_type, "ext3");
        assert_eq!(mounts[1].root, b"/sub");
        assert_eq!(mounts[1].super_options, b"");
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        let error = parse(b"36 35 98:0 / /a rw shared:1 ext3 /dev/root rw\n").expect_err("no dash");
        assert_eq!(error.to_string(), "mountinfo line 1: no separator");
        assert!(parse(b"+1 35 98:0 / / rw - a b c").is_err());
        assert!(parse(b"1 35 980 / / rw - a b c").is_err());
    }

    #[test]
    fn the_deepest_and_last_mount_covers() {
        let text =
            b"1 0 1:1 / / rw - a x rw\n2 1 1:2 / /ab rw - a x rw\n3 1 1:3 / /ab rw - a x rw\n";
        let mounts = parse(text).expect("valid");
        let id = |path: &[u8]| covering(&mounts, path).map(|m| m.id);
        assert_eq!(id(b"/ab/c"), Some(3));
        assert_eq!(id(b"/ab"), Some(3));
        assert_eq!(id(b"/abc"), Some(1));
        assert_eq!(id(b"relative"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        let mounts = read().expect("/proc is mounted");
        assert!(covering(&mounts, b"/").is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }

        #[test]
        fn what_the_kernel_escapes_comes_back(
            point in proptest::collection::vec(1u8..=255, 1..40),
            source in proptest::collection::vec(1u8..=255, 1..40),
            optional in 0usize..4,
        ) {
            let mut line = b"1 2 3:4 / ".to_vec();
            line.extend(escape_like_the_kernel(&point));
            line.extend_from_slice(b" rw ");
            for _ in 0..optional {
                line.extend_from_slice(b"shared:1 ");
            }
            line.extend_from_slice(b"- ext4 ");
            line.extend(escape_like_the_kernel(&source));
            line.extend_from_slice(b" rw\n");
            let mounts = parse(&line).expect("valid");
            prop_assert_eq!(&mounts[0].mount_point, &point);
            prop_assert_eq!(&mounts[0].source, &source);
        }
    }
}
