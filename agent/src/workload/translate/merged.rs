//! A name in an overlay filesystem → the look-ups that the kernel makes for it in the
//! layers.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use crate::attribute::paths::join;
use crate::model::NameKind;

/// What stands at a path of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// This; [`NameKind::Missing`] too.
    Is(NameKind),
    /// What hides whatever layers below have by that name.
    Whiteout,
    /// It can't be told.
    Unknown,
}

/// What stands at an absolute path now. Follows no link, starts no automount.
pub fn lstat(path: &[u8]) -> Seen {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(stat) => match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Seen::Is(NameKind::Directory),
            FileType::Symlink => Seen::Is(NameKind::Symlink),
            FileType::CharacterDevice if stat.stx_rdev_major == 0 && stat.stx_rdev_minor == 0 => {
                Seen::Whiteout
            }
            _ => Seen::Is(NameKind::File),
        },
        Err(rustix::io::Errno::NOENT) => Seen::Is(NameKind::Missing),
        Err(_) => Seen::Unknown,
    }
}

/// Layers that are shown as one. Opaque directories are taken for ordinary ones: that
/// costs look-ups that nobody needs.
pub(super) struct Merged<'a> {
    /// The uppermost first.
    layers: &'a [Vec<u8>],
    look: &'a mut dyn FnMut(&[u8]) -> Seen,
    /// Path of a directory → layers that have it as one and are looked in.
    directories: HashMap<Vec<u8>, Rc<[usize]>>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(layers: &'a [Vec<u8>], look: &'a mut dyn FnMut(&[u8]) -> Seen) -> Self {
        let all = (0..layers.len()).collect();
        Self {
            layers,
            look,
            directories: HashMap::from([(Vec::new(), all)]),
        }
    }

    /// Where `path` is in a layer.
    pub(super) fn path(&self, layer: usize, path: &[u8]) -> Vec<u8> {
        let dir = self.layers.get(layer).map_or(&b"/"[..], Vec::as_slice);
        join(dir, path)
    }

    /// Layers in which `path` (relative) is looked up, the uppermost first, and what is
    /// found in each.
    pub(super) fn look_up(&mut self, path: &[u8]) -> Vec<(usize, NameKind)> {
        if path.is_empty() {
            return (0..self.layers.len())
                .map(|layer| (layer, NameKind::Directory))
                .collect();
        }
        let end = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let parents = self.directories(&path[..end]);
        self.visit(path, &parents)
    }

    /// Layers that have `path` as a directory.
    fn directories(&mut self, path: &[u8]) -> Rc<[usize]> {
        if let Some(known) = self.directories.get(path) {
            return known.clone();
        }
        // From the root down, without recursion: paths may be deep.
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends = ends.map(|(at, _)| at).chain([path.len()]);
        let mut parents = self.directories(b"");
        for end in ends {
            let prefix = &path[..end];
            parents = match self.directories.get(prefix) {
                Some(known) => known.clone(),
                None => {
                    self.visit(prefix, &parents);
                    self.directories.get(prefix).cloned().unwrap_or_default()
                }
            };
        }
        parents
    }

    fn visit(&mut self, path: &[u8], parents: &[usize]) -> Vec<(usize, NameKind)> {
        let mut found = Vec::new();
        let mut directories = Vec::new();
        for &layer in parents {
            let place = self.path(layer, path);
            match (self.look)(&place) {
                Seen::Is(kind) => {
                    found.push((layer, kind));
                    match kind {
                        NameKind::Missing => {}
                        NameKind::Directory => directories.push(layer),
                        NameKind::File | NameKind::Symlink => break,
                    }
                }
                Seen::Whiteout => {
                    found.push((layer, NameKind::File));
                    break;
                }
                Seen::Unknown => break,
            }
        }
        self.directories.insert(path.to_vec(), directories.into());
        found
    }
}
