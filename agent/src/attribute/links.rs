//! Hard links: by which of its names a run used a file.
//!
//! The probes tell an inode's path by the first of its dentries, which is the name
//! that was looked up last by anybody. What the run itself said is better.

use std::collections::HashMap;

use super::mountinfo::{self, Mount};
use super::names::End;
use super::paths::{below, join};
use crate::model::NameKind;

/// (major, minor) of the superblock, inode number.
type Place = ((u32, u32), u64);

/// A name that the run gave; what sorts first is the better one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    /// It only asked about it.
    not_opened: bool,
    first_use_ns: u64,
    /// From the filesystem's root, without a slash at its start.
    path: Vec<u8>,
}

/// The names that the run gave of files that have several.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The best of each file.
    given: HashMap<Place, Given>,
}

impl Links {
    /// The run gave a path that led to `end`, and opened it or not.
    pub(super) fn note(&mut self, mounts: &[Mount], end: End, opened: bool, first_use_ns: u64) {
        if end.found.kind != NameKind::File || end.found.links < 2 {
            return;
        }
        let Some(mount) = mountinfo::covering(mounts, &end.path) else {
            return;
        };
        let Some(rest) = below(&mount.mount_point, &end.path) else {
            return;
        };
        let root = mount.root.strip_prefix(b"/").unwrap_or(&mount.root);
        let given = Given {
            not_opened: !opened,
            first_use_ns,
            path: join(root, rest),
        };
        self.given
            .entry((mount.device, end.found.ino))
            .and_modify(|best| {
                if given < *best {
                    *best = given.clone();
                }
            })
            .or_insert(given);
    }

    /// The path, from the filesystem's root, by which the run used an inode of this
    /// number: a candidate, for a filesystem may have several inodes of one number
    /// (subvolumes of btrfs).
    pub(super) fn of(&self, device: (u32, u32), ino: u64) -> Option<&[u8]> {
        self.given
            .get(&(device, ino))
            .map(|given| given.path.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::names::Walker;

    fn mount(root: &[u8], mount_point: &[u8]) -> Mount {
        let line = [
            b"1 0 8:1 ",
            root,
            b" ",
            mount_point,
            b" rw - ext4 /dev/x rw",
        ]
        .concat();
        mountinfo::parse(&line).expect("a table").remove(0)
    }

    #[test]
    fn a_name_that_was_opened_is_better_than_an_earlier_one() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().canonicalize().expect("real path");
        std::fs::write(root.join("a"), b"x").expect("file");
        for name in ["b", "c"] {
            std::fs::hard_link(root.join("a"), root.join(name)).expect("link");
        }
        std::fs::write(root.join("single"), b"x").expect("file");
        let base = root.as_os_str().as_bytes();
        // The directory is a part of a filesystem, as a bind mount shows it.
        let mounts = [mount(b"/part", base)];
        let allowed = |_: &[u8]| true;
        let mut walker = Walker::new(&allowed, &[]);
        let mut links = Links::default();
        let mut ino = 0;
        let mut after = |name: &[u8], opened, time| {
            let end = walker.walk(b"/", base, name, &mut |_, found| ino = found.ino);
            links.note(&mounts, end.expect("it is there"), opened, time);
            links.of((8, 1), ino).map(<[u8]>::to_vec)
        };
        assert_eq!(after(b"a", false, 5).as_deref(), Some(&b"part/a"[..]));
        assert_eq!(after(b"c", true, 9).as_deref(), Some(&b"part/c"[..]));
        assert_eq!(after(b"b", true, 7).as_deref(), Some(&b"part/b"[..]));
        assert_eq!(after(b"a", false, 1).as_deref(), Some(&b"part/b"[..]));
        assert_eq!(after(b"single", true, 1), None);
    }
}
