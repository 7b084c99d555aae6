//! A path as a program gave it → every name the kernel looks up on the way.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::paths::{below, join};
use crate::model::NameKind;

/// Symbolic links followed in one path, as in the kernel (MAXSYMLINKS).
const MAX_LINKS: u32 = 40;

/// Bytes of a path that a system call takes: PATH_MAX without the NUL. A path from a
/// deep directory can have more in all.
pub(super) const LONGEST_PATH: usize = 4095;

/// What stands at an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: NameKind,
    /// Inode number; 0 where nothing is.
    pub(super) ino: u64,
    /// Names that the inode has; 0 where nothing is.
    pub(super) links: u32,
    target: Option<Vec<u8>>,
}

/// What a container sees at a path instead of what this process sees there, because it
/// is mounted for the container alone: both absolute, as this process sees them; `None`
/// where there is nothing to be looked up (a tmpfs, a view of the kernel).
pub type Bind = (Vec<u8>, Option<Vec<u8>>);

/// Where a path led.
pub(super) struct End {
    /// Absolute, without links in it.
    pub(super) path: Vec<u8>,
    pub(super) found: Found,
}

/// Resolves paths, remembering what it has seen.
pub(super) struct Walker<'a> {
    seen: HashMap<Vec<u8>, Found>,
    /// Whether an absolute path may be looked at (not on a mount that may hang,
    /// not in a view of the kernel).
    allowed: &'a dyn Fn(&[u8]) -> bool,
    binds: &'a [Bind],
    /// A directory that is not mounted any more, and those that it showed as one, the
    /// uppermost first.
    gone: (&'a [u8], &'a [Vec<u8>]),
    too_long: u64,
}

impl<'a> Walker<'a> {
    pub(super) fn new(allowed: &'a dyn Fn(&[u8]) -> bool, binds: &'a [Bind]) -> Self {
        Self {
            seen: HashMap::new(),
            allowed,
            binds,
            gone: (b"", &[]),
            too_long: 0,
        }
    }

    /// Looks what lies below `root` up in the directories that were shown there as one.
    /// One of them that is opaque is taken for an ordinary one.
    pub(super) fn over(mut self, root: &'a [u8], layers: &'a [Vec<u8>]) -> Self {
        self.gone = (root, layers);
        self
    }

    /// Where what is seen at `path` is found now.
    pub(super) fn place(&self, path: &[u8]) -> Vec<u8> {
        let in_layers = self.look_in_layers(path).flatten();
        in_layers.map_or_else(|| path.to_vec(), |(place, _)| place)
    }

    /// Where a layer has what was shown at `path`, and what it is. `None`: it was not shown
    /// from layers; in it: none has it, or it can't be told.
    fn look_in_layers(&self, path: &[u8]) -> Option<Option<(Vec<u8>, Found)>> {
        let (root, layers) = self.gone;
        if layers.is_empty() {
            return None;
        }
        let rel = below(root, path)?;
        let mut missing = None;
        for layer in layers {
            let place = join(layer, rel);
            if !(self.allowed)(&place) || place.len() > LONGEST_PATH {
                return Some(None);
            }
            match look_up(&place) {
                Some(Looked::Is(found)) if found.kind == NameKind::Missing => {
                    missing = Some((place, found));
                }
                Some(Looked::Is(found)) => return Some(Some((place, found))),
                Some(Looked::Whiteout) => return Some(Some((place, MISSING))),
                // Where it is a file here, the layers above have a directory.
                None => {}
            }
        }
        Some(missing)
    }

    /// Walks that ended because a path became too long to be looked at.
    pub(super) fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Calls `each` with the absolute path of every name looked up for `path`,
    /// a path from `base` (absolute), the last one followed if it is a link, in the eyes
    /// of a process whose root directory is `root`. Where it led, if to a name that is
    /// there.
    pub(super) fn walk(
        &mut self,
        root: &[u8],
        base: &[u8],
        path: &[u8],
        each: &mut dyn FnMut(&[u8], &Found),
    ) -> Option<End> {
        let root: &[u8] = if root == b"/" { b"" } else { root };
        let is_absolute = path.first() == Some(&b'/');
        let mut current: Vec<u8> = if is_absolute { root } else { base }.to_vec();
        if current == b"/" {
            current.clear();
        }
        // A stack of components still to come, the next one last.
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        let mut last = None;
        while let Some(component) = ahead.pop() {
            last = None;
            if component == b".." {
                if current == root {
                    continue;
                }
                // Its parent is where it is mounted, and that is not in its path.
                if self
                    .binds
                    .iter()
                    .any(|(_, from)| from.as_deref() == Some(&current))
                {
                    return None;
                }
                let parent = current.iter().rposition(|&b| b == b'/').unwrap_or(0);
                current.truncate(parent);
                continue;
            }
            let parent = current.len();
            current.push(b'/');
            current.extend_from_slice(&component);
            if let Some((_, from)) = self.binds.iter().find(|(at, _)| *at == current) {
                current = from.clone()?;
            }
            let found = self.look(&current)?;
            each(&current, &found);
            match found.kind {
                NameKind::Missing => return None,
                NameKind::Symlink => {
                    links += 1;
                    let target = found.target?;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.first() == Some(&b'/') {
                        current = root.to_vec();
                    } else {
                        current.truncate(parent);
                    }
                    ahead.extend(components(&target));
                }
                NameKind::File if !ahead.is_empty() => return None,
                NameKind::File | NameKind::Directory => last = Some(found),
            }
        }
        last.map(|found| End {
            path: current,
            found,
        })
    }

    /// What stands at `path`; `None` where it may not be looked at, or can't.
    pub(super) fn look(&mut self, path: &[u8]) -> Option<Found> {
        if let Some(found) = self.seen.get(path) {
            return Some(found.clone());
        }
        if !(self.allowed)(path) {
            return None;
        }
        if path.len() > LONGEST_PATH {
            self.too_long += 1;
            return None;
        }
        let found = match self.look_in_layers(path) {
            Some(in_layers) => in_layers?.1,
            None => match look_up(path)? {
                Looked::Is(found) => found,
                // Where no layers are shown it is a device like others.
                Looked::Whiteout => Found {
                    kind: NameKind::File,
                    ..MISSING
                },
            },
        };
        self.seen.insert(path.to_vec(), found.clone());
        Some(found)
    }
}

/// What one look tells.
enum Looked {
    Is(Found),
    /// What hides whatever lower layers have by that name.
    Whiteout,
}

/// Nothing.
const MISSING: Found = Found {
    kind: NameKind::Missing,
    ino: 0,
    links: 0,
    target: None,
};

fn look_up(path: &[u8]) -> Option<Looked> {
    let os_path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK;
    match rustix::fs::statx(CWD, os_path, flags, wanted) {
        Ok(stat) => {
            let file_type = FileType::from_raw_mode(stat.stx_mode.into());
            let device = (stat.stx_rdev_major, stat.stx_rdev_minor);
            if file_type == FileType::CharacterDevice && device == (0, 0) {
                return Some(Looked::Whiteout);
            }
            let kind = match file_type {
                FileType::Directory => NameKind::Directory,
                FileType::Symlink => NameKind::Symlink,
                _ => NameKind::File,
            };
            let target = (kind == NameKind::Symlink)
                .then(|| rustix::fs::readlinkat(CWD, os_path, Vec::new()).ok())
                .flatten()
                .map(|target| target.into_bytes());
            Some(Looked::Is(Found {
                kind,
                ino: stat.stx_ino,
                links: stat.stx_nlink,
                target,
            }))
        }
        Err(rustix::io::Errno::NOENT) => Some(Looked::Is(MISSING)),
        Err(_) => None,
    }
}

/// The components of a path, last first, without empty ones and `.`.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_on_the_way_is_reported() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().canonicalize().expect("real path");
        std::fs::create_dir(root.join("real")).expect("dir");
        std::fs::write(root.join("real/file"), b"x").expect("file");
        std::os::unix::fs::symlink("real", root.join("link")).expect("link");
        std::os::unix::fs::symlink("loop", root.join("loop")).expect("link");
        let base = root.as_os_str().as_bytes();
        let allowed = |_: &[u8]| true;
        let mut walker = Walker::new(&allowed, &[]);
        let mut walk = |path: &[u8]| {
            let mut names = Vec::new();
            walker.walk(b"/", base, path, &mut |name, found| {
                let short = String::from_utf8_lossy(&name[base.len() + 1..]).into_owned();
                names.push((short, found.kind));
            });
            names
        };
        assert_eq!(
            walk(b"link/../link/./file"),
            vec![
                ("link".into(), NameKind::Symlink),
                ("real".into(), NameKind::Directory),
                ("link".into(), NameKind::Symlink),
                ("real".into(), NameKind::Directory),
                ("real/file".into(), NameKind::File),
            ]
        );
        assert_eq!(
            walk(b"real/none/deeper"),
            vec![
                ("real".into(), NameKind::Directory),
                ("real/none".into(), NameKind::Missing)
            ]
        );
        assert_eq!(walk(b"real/file/x").len(), 2);
        assert_eq!(walk(b"loop").len(), MAX_LINKS as usize + 1);
    }

    #[test]
    fn what_is_not_mounted_any_more_is_found_in_its_layers() {
        let dir = tempfile::tempdir().expect("temp dir");
        let top = dir.path().canonicalize().expect("real path");
        for name in ["merged", "upper/bin", "lower/bin", "lower/etc"] {
            std::fs::create_dir_all(top.join(name)).expect("dir");
        }
        std::fs::write(top.join("lower/bin/sh"), b"x").expect("file");
        std::fs::write(top.join("upper/etc"), b"x").expect("file");
        std::fs::write(top.join("lower/etc/conf"), b"x").expect("file");
        std::os::unix::fs::symlink("/bin/sh", top.join("upper/link")).expect("link");
        let at = |name: &str| top.join(name).into_os_string().into_encoded_bytes();
        let layers = [at("upper"), at("lower")];
        let root = at("merged");
        let allowed = |_: &[u8]| true;
        let mut walker = Walker::new(&allowed, &[]).over(&root, &layers);
        let mut names = Vec::new();
        let end = walker.walk(&root, b"/", b"/link", &mut |name, found| {
            names.push((name.to_vec(), found.kind));
        });
        let wanted = [
            (at("merged/link"), NameKind::Symlink),
            (at("merged/bin"), NameKind::Directory),
            (at("merged/bin/sh"), NameKind::File),
        ];
        assert_eq!(names, wanted);
        let end = end.expect("it is there");
        assert_eq!(walker.place(&end.path), at("lower/bin/sh"));
        // A file of the upper layer hides a directory below; what none has is missing.
        assert!(
            walker
                .walk(&root, b"/", b"/etc/conf", &mut |_, _| {})
                .is_none()
        );
        let missing = walker.look(&at("merged/none")).expect("it can be told");
        assert_eq!(missing.kind, NameKind::Missing);
        // Elsewhere nothing is different.
        assert_eq!(walker.place(&at("upper/bin")), at("upper/bin"));
    }

    #[test]
    fn another_root_holds_its_links_and_its_mounts() {
        let dir = tempfile::tempdir().expect("temp dir");
        let top = dir.path().canonicalize().expect("real path");
        for name in ["root/etc", "root/data", "volume"] {
            std::fs::create_dir_all(top.join(name)).expect("dir");
        }
        std::fs::write(top.join("root/etc/conf"), b"x").expect("file");
        std::fs::write(top.join("volume/model"), b"x").expect("file");
        std::os::unix::fs::symlink("/etc/conf", top.join("root/link")).expect("link");
        let at = |name: &str| top.join(name).into_os_string().into_encoded_bytes();
        let binds = [
            (at("root/data"), Some(at("volume"))),
            (at("root/proc"), None),
        ];
        let allowed = |_: &[u8]| true;
        let mut walker = Walker::new(&allowed, &binds);
        let mut end = |path: &[u8]| {
            let end = walker.walk(&at("root"), b"/", path, &mut |_, _| {});
            end.map(|end| end.path)
        };
        assert_eq!(end(b"/link"), Some(at("root/etc/conf")));
        assert_eq!(end(b"/../../etc/conf"), Some(at("root/etc/conf")));
        assert_eq!(end(b"/data/model"), Some(at("volume/model")));
        assert_eq!(end(b"/data/../etc/conf"), None);
        assert_eq!(end(b"/proc/self"), None);
    }
}
