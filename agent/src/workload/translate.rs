//! Traces and profiles between this node's directories and volumes that hold on others.
//!
//! Property: a profile that was learned over one node's directories, translated, sent to
//! another node and localized there names the same files, wherever that node keeps them.

mod merged;

use std::collections::{BTreeMap, HashMap};

use super::{Directory, Root, Volumes};
use crate::attribute::paths::below;
use crate::model::{FileTouches, NameTouch, Profile, RelPath, Trace, Volume, VolumeId};

pub use merged::{Seen, lstat};

use merged::Merged;

/// A trace in terms of volumes, and what is no longer in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated {
    /// The trace.
    pub trace: Trace,
    /// Files in directories that are never recorded, and the runtime's own.
    pub files_private: u64,
    /// Such names.
    pub names_private: u64,
    /// Names of a container's root filesystem that no layer could be told for.
    pub names_unplaced: u64,
}

/// Puts what lies in directories that are volumes into those volumes, and leaves out what
/// is never to be recorded. Names that were looked up in a container's root filesystem
/// become the look-ups that this made in its layers, as [`lstat`] finds them now.
pub fn translate(volumes: &Volumes, trace: Trace) -> Trace {
    translate_with(volumes, trace, &mut lstat).trace
}

/// [`translate`], with what is there told by `look` ([`lstat`]) for absolute paths, and
/// counts of what is left out. Pure but for that.
pub fn translate_with(
    volumes: &Volumes,
    trace: Trace,
    look: &mut dyn FnMut(&[u8]) -> Seen,
) -> Translated {
    if volumes.directories.is_empty() && volumes.root.is_none() {
        return Translated {
            trace,
            ..Translated::default()
        };
    }
    let mut translator = Translator::new(volumes, &trace.volumes);
    let mut out = Translated::default();
    let mut files = Vec::with_capacity(trace.files.len());
    for file in trace.files {
        let to = translator.place(file.volume, &file.path);
        match to {
            To::Same if translator.is_runtimes(file.volume, &file.path) => {
                out.files_private += 1;
            }
            To::Same => files.push(file),
            To::Moved(volume, path) => files.push(FileTouches {
                volume,
                path,
                ..file
            }),
            To::Private | To::Root => out.files_private += 1,
        }
    }
    let mut names = Names::default();
    let root = volumes.root.as_ref();
    let mut merged = Merged::new(root.map_or(&[], |root| root.lower.as_slice()), look);
    for name in trace.names {
        match translator.place(name.volume, &name.path) {
            To::Same if translator.is_runtimes(name.volume, &name.path) => {
                out.names_private += 1;
            }
            To::Same => names.add(name),
            To::Moved(volume, path) => names.add(NameTouch {
                volume,
                path,
                ..name
            }),
            To::Private => out.names_private += 1,
            To::Root => {
                let mut is_placed = false;
                for (layer, kind) in merged.look_up(name.path.as_bytes()) {
                    let place = merged.path(layer, name.path.as_bytes());
                    match translator.place_absolute(&place) {
                        To::Moved(volume, path) => {
                            is_placed = true;
                            let listed = name.listed && kind == crate::model::NameKind::Directory;
                            names.add(NameTouch {
                                volume,
                                path,
                                kind,
                                listed,
                                first_use_ns: name.first_use_ns,
                            });
                        }
                        // Of a layer that is this container's alone.
                        To::Private => is_placed = true,
                        To::Same | To::Root => {}
                    }
                }
                out.names_unplaced += u64::from(!is_placed);
            }
        }
    }
    out.trace = Trace {
        volumes: translator.volumes,
        files,
        names: names.list,
        ..trace
    };
    out
}

/// Points a profile's volumes at the directories that they are in on this node. Those that
/// are not here keep the place where they were learned; how many were pointed.
pub fn localize(volumes: &Volumes, profile: &mut Profile) -> usize {
    let here = places(volumes);
    let mut pointed = 0;
    for volume in &mut profile.volumes {
        if let Some(directory) = here.get(volume.id.0.as_str()) {
            volume.mount_point.clone_from(&directory.path);
            pointed += 1;
        }
    }
    pointed
}

/// Where each volume is, by its identity.
pub fn places(volumes: &Volumes) -> BTreeMap<&str, &Directory> {
    let mut here = BTreeMap::new();
    for directory in &volumes.directories {
        if let Some(id) = &directory.id {
            // Of several the first: they hold the same.
            here.entry(id.as_str()).or_insert(directory);
        }
    }
    here
}

/// Names, each once.
#[derive(Default)]
struct Names {
    list: Vec<NameTouch>,
    index: HashMap<(u32, RelPath), usize>,
}

impl Names {
    fn add(&mut self, name: NameTouch) {
        let next = self.list.len();
        let at = *self
            .index
            .entry((name.volume, name.path.clone()))
            .or_insert(next);
        match self.list.get_mut(at) {
            Some(known) => {
                known.listed |= name.listed;
                known.first_use_ns = known.first_use_ns.min(name.first_use_ns);
            }
            None => self.list.push(name),
        }
    }
}

/// Where a path of the trace goes.
enum To {
    /// It stays.
    Same,
    /// Into this volume.
    Moved(u32, RelPath),
    /// It is not to be recorded.
    Private,
    /// It is a name in a container's root filesystem.
    Root,
}

struct Translator<'a> {
    directories: HashMap<&'a [u8], Option<&'a str>>,
    /// The trace's, then those made here.
    volumes: Vec<Volume>,
    by_id: HashMap<&'a str, u32>,
    /// Of each of the trace's volumes: whether any of the directories lies in it, or it
    /// in one of them.
    concerned: Vec<Concern>,
    /// The container's root filesystem, if it is known what that shows.
    layered: Option<&'a Root>,
    /// The directory that was found for files of the last parent.
    last: Option<(Vec<u8>, Option<&'a [u8]>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Concern {
    None,
    Some,
    Root,
}

impl<'a> Translator<'a> {
    fn new(volumes: &'a Volumes, of_trace: &[Volume]) -> Self {
        let root = volumes.root.as_ref().map(|root| root.path.as_slice());
        let directories: HashMap<&[u8], Option<&str>> = volumes
            .directories
            .iter()
            .map(|directory| (directory.path.as_slice(), directory.id.as_deref()))
            .collect();
        let concern = |volume: &Volume| {
            let point = &volume.mount_point;
            if volume.fs_type == "overlay" && root == Some(point) {
                return Concern::Root;
            }
            let is_near = |dir: &&[u8]| below(point, dir).is_some() || below(dir, point).is_some();
            match directories.keys().any(is_near) {
                true => Concern::Some,
                false => Concern::None,
            }
        };
        Self {
            layered: volumes.root.as_ref().filter(|root| !root.lower.is_empty()),
            concerned: of_trace.iter().map(concern).collect(),
            directories,
            volumes: of_trace.to_vec(),
            by_id: HashMap::new(),
            last: None,
        }
    }

    fn place(&mut self, volume: u32, path: &RelPath) -> To {
        let at = volume as usize;
        let concern = self.concerned.get(at).copied().unwrap_or(Concern::None);
        let Some(volume) = self.volumes.get(at).filter(|_| concern == Concern::Some) else {
            return match concern {
                Concern::Root => To::Root,
                _ => To::Same,
            };
        };
        let absolute = volume.absolute(path);
        match self.directory(&absolute) {
            Some(directory) => self.moved(directory, &absolute, Some(at)),
            None => To::Same,
        }
    }

    /// Whether a path of the trace is of nothing that the container sees. Before a runtime
    /// becomes the container's program it reads its own, and that of this one container, in
    /// the container's cgroup.
    fn is_runtimes(&self, volume: u32, path: &RelPath) -> bool {
        let (Some(root), Some(volume)) = (self.layered, self.volumes.get(volume as usize)) else {
            return false;
        };
        let absolute = volume.absolute(path);
        let mut seen = root.lower.iter().chain(&root.shown);
        !seen.any(|dir| below(dir, &absolute).is_some())
    }

    /// Where an absolute path of a layer goes: into its volume, or into that of the trace
    /// which it lies in.
    fn place_absolute(&mut self, absolute: &[u8]) -> To {
        let covering = self.covering(absolute);
        if let Some(directory) = self.directory(absolute) {
            return self.moved(directory, absolute, covering);
        }
        let Some(at) = covering else { return To::Same };
        let rel = below(&self.volumes[at].mount_point, absolute).map(RelPath::new);
        match (u32::try_from(at), rel) {
            (Ok(volume), Some(Ok(path))) => To::Moved(volume, path),
            _ => To::Same,
        }
    }

    /// The deepest of the trace's volumes that an absolute path lies in.
    fn covering(&self, absolute: &[u8]) -> Option<usize> {
        let of_trace = self.volumes.iter().zip(&self.concerned).enumerate();
        of_trace
            .filter(|(_, (_, concern))| **concern != Concern::Root)
            .filter(|(_, (volume, _))| below(&volume.mount_point, absolute).is_some())
            .max_by_key(|(_, (volume, _))| volume.mount_point.len())
            .map(|(at, _)| at)
    }

    /// The deepest of the directories that an absolute path is, or lies in.
    fn directory(&mut self, absolute: &[u8]) -> Option<&'a [u8]> {
        if let Some((&directory, _)) = self.directories.get_key_value(absolute) {
            return Some(directory);
        }
        let mut parent = parent_of(absolute)?;
        if let Some((known, directory)) = &self.last
            && known == parent
        {
            return *directory;
        }
        let asked = parent.to_vec();
        let directory = loop {
            if let Some((&directory, _)) = self.directories.get_key_value(parent) {
                break Some(directory);
            }
            match parent_of(parent) {
                Some(next) => parent = next,
                None => break None,
            }
        };
        self.last = Some((asked, directory));
        directory
    }

    /// `of` is the trace's volume that the path lies in.
    fn moved(&mut self, directory: &'a [u8], absolute: &[u8], of: Option<usize>) -> To {
        let Some(&Some(id)) = self.directories.get(directory) else {
            return To::Private;
        };
        let Some(Ok(path)) = below(directory, absolute).map(RelPath::new) else {
            return To::Same;
        };
        if let Some(&volume) = self.by_id.get(id) {
            return To::Moved(volume, path);
        }
        let Ok(volume) = u32::try_from(self.volumes.len()) else {
            return To::Same;
        };
        let fs_type = of.and_then(|at| self.volumes.get(at));
        let fs_type = fs_type.map(|volume| volume.fs_type.clone());
        self.volumes.push(Volume {
            id: VolumeId(id.to_owned()),
            fs_type: fs_type.unwrap_or_default(),
            mount_point: directory.to_vec(),
        });
        self.by_id.insert(id, volume);
        To::Moved(volume, path)
    }
}

/// The directory that an absolute path lies in; `None` for `/`.
fn parent_of(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|&b| b == b'/')? {
        0 => (path.len() > 1).then_some(&path[..1]),
        end => Some(&path[..end]),
    }
}

#[cfg(test)]
mod tests;
