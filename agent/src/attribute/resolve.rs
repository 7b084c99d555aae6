//! The records of one run → its trace.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::collect::{At, Collector, Origin};
use super::elf::{interpreter, mapping_starts};
use super::mountinfo::{self, Mount};
use super::names::{Found, Walker};
use super::tally::{Gap, Gaps, Tally};
use super::touches::{push_faults, push_runs};
use super::volume::{identify, is_pseudo, may_hang};
use crate::model::{
    BlockTouch, FileTouches, FileVersion, NameKind, NameTouch, PAGE_SIZE, RelPath, StageCounts,
    Trace, Volume, VolumeId,
};
use crate::probe::{Fault, Inode, InodeKey};

/// A trace and what is not in it.
#[derive(Debug, Default)]
pub struct Attributed {
    /// The trace.
    pub trace: Trace,
    /// What it lacks.
    pub gaps: Gaps,
    /// What became of each record, from the ring buffer on.
    pub stages: Vec<StageCounts>,
}

/// Names the files and names of a run. `around` is the kernel's fault-around
/// window in pages.
///
/// # Errors
/// The mount table can't be read.
pub fn attribute(records: &Collector, origin: Origin, around: u64) -> std::io::Result<Attributed> {
    Ok(attribute_in(&mountinfo::read()?, records, origin, around))
}

/// The same, among these mounts.
pub(super) fn attribute_in(
    mounts: &[Mount],
    records: &Collector,
    origin: Origin,
    around: u64,
) -> Attributed {
    let mut resolver = Resolver::new(mounts, records, origin);
    resolver.files(around);
    resolver.names();
    resolver.blocks();
    resolver.finish()
}

struct Resolver<'a> {
    mounts: &'a [Mount],
    records: &'a Collector,
    origin: Origin,
    volumes: Vec<Volume>,
    /// Mount id → index into `volumes`.
    by_mount: HashMap<u64, u32>,
    /// Absolute path → what is known of the name.
    found: BTreeMap<Vec<u8>, NameState>,
    tally: Tally,
    trace: Trace,
}

struct NameState {
    kind: NameKind,
    listed: bool,
    first_use_ns: u64,
}

impl<'a> Resolver<'a> {
    fn new(mounts: &'a [Mount], records: &'a Collector, origin: Origin) -> Self {
        Self {
            mounts,
            records,
            origin,
            volumes: Vec::new(),
            by_mount: HashMap::new(),
            found: BTreeMap::new(),
            tally: records.tally(),
            trace: Trace::default(),
        }
    }

    fn files(&mut self, around: u64) {
        let records = self.records;
        let mut files: BTreeMap<InodeKey, Vec<&[(At, Fault)]>> = BTreeMap::new();
        for key in records.touches.keys() {
            files.entry(*key).or_default();
        }
        for ((key, _process), faults) in &records.faults {
            files.entry(*key).or_default().push(faults);
        }
        for (key, faults) in files {
            let reads = records.touches.get(&key).map_or(&[][..], Vec::as_slice);
            let times = reads.iter().map(|(at, ..)| at);
            let times = times.chain(faults.iter().copied().flatten().map(|(at, _)| at));
            let (records, during) = self.count(times);
            let held = match during {
                0 => Ok(0),
                _ => self.file(key, reads, &faults, around),
            };
            self.tally.file(records, during, held);
        }
    }

    /// Records, and those of them that the command made.
    fn count<'t>(&self, times: impl Iterator<Item = &'t At>) -> (u64, u64) {
        times.fold((0, 0), |(records, during), at| {
            let is_commands = self.origin.since(*at).is_some();
            (records + 1, during + u64::from(is_commands))
        })
    }

    /// The number of records that hold pages of the file.
    fn file(
        &mut self,
        key: InodeKey,
        reads: &[(At, u64, u64)],
        faults: &[&[(At, Fault)]],
        around: u64,
    ) -> Result<u64, Gap> {
        let Some(inode) = self
            .records
            .inodes
            .get(&key)
            .filter(|inode| !inode.truncated)
        else {
            return Err(Gap::NoPath);
        };
        let (mount, rel) = self.place(inode)?;
        let absolute = join(&mount.mount_point, &rel);
        let Some(version) = version_of(&absolute, key.ino) else {
            return Err(Gap::Vanished);
        };
        let mut touches = Vec::new();
        for &(at, base, bits) in reads {
            if let Some(first_use_ns) = self.origin.since(at) {
                push_runs(&mut touches, base, bits, first_use_ns);
            }
        }
        if !faults.is_empty() {
            let starts = read_head(&absolute).as_deref().and_then(mapping_starts);
            for faults in faults {
                push_faults(&mut touches, faults, self.origin, around, starts.as_deref());
            }
        }
        let end = version.size.div_ceil(PAGE_SIZE);
        let reads = reads.iter().map(|&(at, base, bits)| {
            let first_page = base + u64::from(bits.trailing_zeros());
            (at, first_page)
        });
        let faults = faults.iter().copied().flatten();
        let held = reads
            .chain(faults.map(|(at, fault)| (*at, fault.start)))
            .filter(|&(at, first_page)| first_page < end && self.origin.since(at).is_some())
            .count();
        touches.retain_mut(|touch| {
            let left = end.saturating_sub(touch.start_page);
            touch.pages = touch.pages.min(left.try_into().unwrap_or(u32::MAX));
            touch.pages > 0
        });
        let first = touches.iter().map(|t| t.first_use_ns).min();
        let Some(first_use_ns) = first else {
            return Ok(0);
        };
        let path = RelPath::new(rel).map_err(|_| Gap::NoPath)?;
        let volume = self.volume(mount);
        self.trace.files.push(FileTouches {
            volume,
            path,
            version,
            touches,
        });
        self.note(&absolute, NameKind::File, first_use_ns);
        Ok(held as u64)
    }

    /// The mount that shows an inode, and its path below the mount's root.
    fn place(&self, inode: &Inode) -> Result<(&'a Mount, Vec<u8>), Gap> {
        let device = inode.inode.device();
        let mut best: Option<(&Mount, &[u8])> = None;
        for mount in self.mounts.iter().filter(|mount| mount.device == device) {
            let root = mount.root.strip_prefix(b"/").unwrap_or(&mount.root);
            let Some(rest) = below(root, &inode.path) else {
                continue;
            };
            // The filesystem's own root is best: its paths hold elsewhere too.
            if best.is_none_or(|(other, _)| mount.root.len() < other.root.len()) {
                best = Some((mount, rest));
            }
        }
        let (mount, rest) = best.ok_or(Gap::NoMount)?;
        if is_pseudo(&mount.fs_type) || matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs") {
            return Err(Gap::NotOnDisk);
        }
        Ok((mount, rest.to_vec()))
    }

    fn names(&mut self) {
        let mounts = self.mounts;
        let allowed = |path: &[u8]| {
            mountinfo::covering(mounts, path).is_some_and(|mount| {
                !is_pseudo(&mount.fs_type)
                    && !may_hang(&mount.fs_type)
                    && !matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs")
            })
        };
        let mut walker = Walker::new(&allowed);
        // Files by their own path: also those that no system call named.
        let files: Vec<(Vec<u8>, u64)> = self
            .found
            .iter()
            .map(|(path, state)| (path.clone(), state.first_use_ns))
            .collect();
        for (path, time) in files {
            walker.walk(b"/", &path, &mut |name, found| {
                self.note_found(name, found, time)
            });
        }
        let records = self.records;
        for name in &records.names {
            let Some(time) = self.origin.since(name.at) else {
                self.tally.name_before();
                continue;
            };
            let base = match (name.path.first(), name.base) {
                (Some(b'/'), Some(base)) if !self.is_root(&base) => None,
                (Some(b'/'), _) => Some(b"/".to_vec()),
                (_, Some(base)) => self.absolute(&base),
                _ => None,
            };
            let Some(base) = base else {
                self.tally.name_unresolved();
                continue;
            };
            let mut is_found = false;
            walker.walk(&base, &name.path, &mut |path, found| {
                is_found = true;
                self.note_found(path, found, time)
            });
            self.tally.name_walked(is_found);
            if name.exec {
                self.interpreters(&mut walker, &name.path, time);
            }
        }
        for (at, key) in &records.lists {
            let Some(time) = self.origin.since(*at) else {
                self.tally.name_before();
                continue;
            };
            let Some(path) = key.and_then(|key| self.absolute(&key)) else {
                self.tally.name_unresolved();
                continue;
            };
            let mut is_found = false;
            walker.walk(b"/", &path, &mut |name, found| {
                is_found = true;
                self.note_found(name, found, time)
            });
            self.tally.name_walked(is_found);
            if let Some(state) = self.found.get_mut(&path) {
                state.listed = true;
            }
        }
    }

    /// The chain of interpreters of a program, two deep as in the kernel's
    /// commonest case (script → ELF → its loader).
    fn interpreters(&mut self, walker: &mut Walker<'_>, program: &[u8], time: u64) {
        let mut path = program.to_vec();
        for _ in 0..3 {
            let Some(head) = read_head(&path) else { return };
            let Some(next) = interpreter(&head) else {
                return;
            };
            walker.walk(b"/", next, &mut |name, found| {
                self.note_found(name, found, time)
            });
            path = next.to_vec();
        }
    }

    /// Whether an inode is this process' own root directory.
    fn is_root(&self, key: &InodeKey) -> bool {
        self.absolute(key).is_some_and(|path| path == b"/")
    }

    /// The absolute path of an inode whose record came through.
    fn absolute(&self, key: &InodeKey) -> Option<Vec<u8>> {
        let inode = self
            .records
            .inodes
            .get(key)
            .filter(|inode| !inode.truncated)?;
        let device = key.device();
        let mounts = self.mounts.iter().filter(|mount| mount.device == device);
        mounts
            .filter_map(|mount| {
                let root = mount.root.strip_prefix(b"/").unwrap_or(&mount.root);
                Some((
                    mount.root.len(),
                    join(&mount.mount_point, below(root, &inode.path)?),
                ))
            })
            .min()
            .map(|(_, path)| path)
    }

    fn note_found(&mut self, path: &[u8], found: &Found, time: u64) {
        self.note(path, found.kind, time);
    }

    fn note(&mut self, path: &[u8], kind: NameKind, first_use_ns: u64) {
        match self.found.get_mut(path) {
            Some(state) => {
                state.first_use_ns = state.first_use_ns.min(first_use_ns);
                state.kind = kind;
            }
            None => {
                let state = NameState {
                    kind,
                    listed: false,
                    first_use_ns,
                };
                self.found.insert(path.to_vec(), state);
            }
        }
    }

    fn blocks(&mut self) {
        let records = self.records;
        for (key, seen) in &records.blocks {
            let device = key.device();
            let mount = self
                .mounts
                .iter()
                .find(|mount| mount.device == device && mount.root == b"/");
            let (all, during) = self.count(seen.iter().map(|(at, ..)| at));
            self.tally.device(all, during, mount.is_some());
            let Some(mount) = mount else { continue };
            let volume = self.volume(mount);
            for &(at, base, bits) in seen {
                let Some(first_use_ns) = self.origin.since(at) else {
                    continue;
                };
                let mut runs = Vec::new();
                push_runs(&mut runs, base, bits, first_use_ns);
                self.trace.blocks.extend(runs.iter().map(|run| BlockTouch {
                    volume,
                    start_page: run.start_page,
                    pages: run.pages,
                    first_use_ns,
                }));
            }
        }
    }

    fn volume(&mut self, mount: &Mount) -> u32 {
        if let Some(&index) = self.by_mount.get(&mount.id) {
            return index;
        }
        let mut volume = identify(mount);
        if mount.root != b"/" {
            // Only a part of the filesystem is mounted: the part is the volume.
            volume.id = VolumeId(format!("path:{}", crate::model::escape(&mount.mount_point)));
        }
        let index = match self.volumes.iter().position(|v| v.id == volume.id) {
            Some(index) => index,
            None => {
                self.volumes.push(volume);
                self.volumes.len() - 1
            }
        } as u32;
        self.by_mount.insert(mount.id, index);
        index
    }

    fn finish(mut self) -> Attributed {
        let found = std::mem::take(&mut self.found);
        for (path, state) in found {
            let Some(mount) = mountinfo::covering(self.mounts, &path) else {
                continue;
            };
            let Some(rest) = below(&mount.mount_point, &path) else {
                continue;
            };
            let Ok(rel) = RelPath::new(rest) else {
                continue;
            };
            let volume = self.volume(mount);
            self.trace.names.push(NameTouch {
                volume,
                path: rel,
                kind: state.kind,
                listed: state.listed,
                first_use_ns: state.first_use_ns,
            });
        }
        self.trace.volumes = self.volumes;
        let mut stages = self.records.stages();
        let gaps = self.tally.gaps;
        stages.extend(self.tally.into_stages());
        Attributed {
            trace: self.trace,
            gaps,
            stages,
        }
    }
}

/// `path` below `dir`, by components, without a leading slash; both may have one.
fn below<'p>(dir: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
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

fn join(dir: &[u8], rel: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !rel.is_empty() {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(rel);
    }
    path
}

/// Size and mtime of the regular file at `path` if its inode is still `ino`.
fn version_of(path: &[u8], ino: u64) -> Option<FileVersion> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).ok()?;
    let regular = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
    (regular && stat.stx_ino == ino).then(|| FileVersion {
        size: stat.stx_size,
        mtime_ns: stat.stx_mtime.tv_sec * 1_000_000_000 + i64::from(stat.stx_mtime.tv_nsec),
    })
}

/// The first page of a regular file.
fn read_head(path: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if !path.is_absolute() || !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut head = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(PAGE_SIZE)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
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
