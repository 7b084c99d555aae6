//! The records of one run → its trace.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};

use super::collect::{At, Collector, Origin};
use super::elf::{interpreter, mapping_starts};
use super::links::Links;
use super::mountinfo::{self, Mount};
use super::names::{LONGEST_PATH, Walker};
use super::paths::{below, join};
use super::touches::{push_faults, push_runs};
use super::volume::{identify, is_pseudo, may_hang};
use crate::model::{
    BlockTouch, FileTouches, FileVersion, NameKind, NameTouch, PAGE_SIZE, RelPath, Trace, Volume,
    VolumeId,
};
use crate::probe::{Fault, InodeKey};

/// What a run touched that its trace does not hold, and why. Counts of inodes,
/// except where said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Gaps {
    /// Their path did not come through: the kernel has no name of them in memory, or
    /// its record was lost.
    pub no_path: u64,
    /// Their path did not come through whole: below their filesystem's root it has
    /// more than 63 components or more than 3,840 bytes. Or it did, and is longer
    /// than a system call takes with the mount point before it.
    pub path_too_long: u64,
    /// No mount of this namespace shows them.
    pub no_mount: u64,
    /// In memory anyway (tmpfs) or views of the kernel (procfs): not to be warmed.
    pub not_on_disk: u64,
    /// Gone, or another file by now.
    pub vanished: u64,
    /// Names whose base directory is not known, has too long a path itself, or lies
    /// in another root, and names whose absolute path is longer than a system call
    /// takes (4,095 bytes).
    pub names_unresolved: u64,
}

/// A trace and what is not in it.
#[derive(Debug, Default)]
pub struct Attributed {
    /// The trace.
    pub trace: Trace,
    /// What it lacks.
    pub gaps: Gaps,
}

/// Names the files and names of a run. `around` is the kernel's fault-around
/// window in pages.
///
/// # Errors
/// The mount table can't be read.
pub fn attribute(records: &Collector, origin: Origin, around: u64) -> std::io::Result<Attributed> {
    let mounts = mountinfo::read()?;
    let allowed = |path: &[u8]| {
        mountinfo::covering(&mounts, path).is_some_and(|mount| {
            !is_pseudo(&mount.fs_type)
                && !may_hang(&mount.fs_type)
                && !matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs")
        })
    };
    let mut walker = Walker::new(&allowed);
    let mut resolver = Resolver::new(&mounts, records, origin);
    // Names first: they say which of a file's names the run used.
    resolver.names(&mut walker);
    resolver.files(&mut walker, around);
    resolver.lists(&mut walker);
    resolver.blocks();
    resolver.out.gaps.names_unresolved += walker.too_long();
    Ok(resolver.finish())
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
    links: Links,
    out: Attributed,
}

/// A path of a filesystem where a mount shows it.
struct Place<'a> {
    mount: &'a Mount,
    /// Below the mount's root.
    rel: Vec<u8>,
}

impl Place<'_> {
    fn absolute(&self) -> Vec<u8> {
        join(&self.mount.mount_point, &self.rel)
    }
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
            links: Links::default(),
            out: Attributed::default(),
        }
    }

    fn files(&mut self, walker: &mut Walker<'_>, around: u64) {
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
            let mut times = times.chain(faults.iter().copied().flatten().map(|(at, _)| at));
            if times.any(|at| self.origin.since(*at).is_some()) {
                self.file(walker, key, reads, &faults, around);
            }
        }
    }

    fn file(
        &mut self,
        walker: &mut Walker<'_>,
        key: InodeKey,
        reads: &[(At, u64, u64)],
        faults: &[&[(At, Fault)]],
        around: u64,
    ) {
        let Some(inode) = self.records.inodes.get(&key) else {
            self.out.gaps.no_path += 1;
            return;
        };
        if inode.truncated {
            self.out.gaps.path_too_long += 1;
            return;
        }
        let Some(mut place) = self.place(key.device(), &inode.path) else {
            return;
        };
        if place.absolute().len() > LONGEST_PATH {
            self.out.gaps.path_too_long += 1;
            return;
        }
        let Some(mut stat) = stat(&place.absolute(), key.ino) else {
            self.out.gaps.vanished += 1;
            return;
        };
        if stat.links > 1
            && let Some(better) = self.better_place(key, &stat)
        {
            (place, stat) = better;
        }
        let Place { mount, rel } = place;
        let absolute = join(&mount.mount_point, &rel);
        let version = stat.version;
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
        touches.retain_mut(|touch| {
            let left = end.saturating_sub(touch.start_page);
            touch.pages = touch.pages.min(left.try_into().unwrap_or(u32::MAX));
            touch.pages > 0
        });
        let first = touches.iter().map(|t| t.first_use_ns).min();
        let (Some(first_use_ns), Ok(path)) = (first, RelPath::new(rel)) else {
            return;
        };
        let volume = self.volume(mount);
        self.out.trace.files.push(FileTouches {
            volume,
            path,
            version,
            touches,
        });
        self.note(&absolute, NameKind::File, first_use_ns);
        // Also those that no system call named.
        walker.walk(b"/", &absolute, &mut |name, found| {
            self.note(name, found.kind, first_use_ns)
        });
    }

    /// Where a file with several names, found by one of them, has the name that the
    /// run used.
    fn better_place(&mut self, key: InodeKey, known: &Stat) -> Option<(Place<'a>, Stat)> {
        let path = self.links.of(key.device(), key.ino)?.to_vec();
        let place = self.place(key.device(), &path)?;
        // The same file, for certain: a number alone could be that of another.
        let stat = stat(&place.absolute(), key.ino).filter(|stat| stat.device == known.device)?;
        Some((place, stat))
    }

    /// The mount that shows a path of a filesystem.
    fn place(&mut self, device: (u32, u32), path: &[u8]) -> Option<Place<'a>> {
        let mut best: Option<(&Mount, &[u8])> = None;
        for mount in self.mounts.iter().filter(|mount| mount.device == device) {
            let root = mount.root.strip_prefix(b"/").unwrap_or(&mount.root);
            let Some(rest) = below(root, path) else {
                continue;
            };
            // The filesystem's own root is best: its paths hold elsewhere too.
            if best.is_none_or(|(other, _)| mount.root.len() < other.root.len()) {
                best = Some((mount, rest));
            }
        }
        let Some((mount, rest)) = best else {
            self.out.gaps.no_mount += 1;
            return None;
        };
        if is_pseudo(&mount.fs_type) || matches!(mount.fs_type.as_str(), "tmpfs" | "ramfs") {
            self.out.gaps.not_on_disk += 1;
            return None;
        }
        Some(Place {
            mount,
            rel: rest.to_vec(),
        })
    }

    /// Names given to system calls.
    fn names(&mut self, walker: &mut Walker<'_>) {
        let records = self.records;
        for name in &records.names {
            let Some(time) = self.origin.since(name.at) else {
                continue;
            };
            let base = match (name.path.first(), name.base) {
                (Some(b'/'), Some(base)) if !self.is_root(&base) => None,
                (Some(b'/'), _) => Some(b"/".to_vec()),
                (_, Some(base)) => self.absolute(&base),
                _ => None,
            };
            let Some(base) = base else {
                self.out.gaps.names_unresolved += 1;
                continue;
            };
            self.walk(walker, &base, &name.path, time, name.opened);
            if name.exec {
                self.interpreters(walker, &name.path, time);
            }
        }
    }

    fn lists(&mut self, walker: &mut Walker<'_>) {
        let records = self.records;
        for (at, key) in &records.lists {
            let Some(time) = self.origin.since(*at) else {
                continue;
            };
            let Some(path) = self.absolute(key) else {
                self.out.gaps.names_unresolved += 1;
                continue;
            };
            self.walk(walker, b"/", &path, time, false);
            if let Some(state) = self.found.get_mut(&path) {
                state.listed = true;
            }
        }
    }

    /// Notes every name on the way of a path.
    fn walk(&mut self, walker: &mut Walker<'_>, base: &[u8], path: &[u8], time: u64, opened: bool) {
        let end = walker.walk(base, path, &mut |name, found| {
            self.note(name, found.kind, time)
        });
        if let Some(end) = end {
            self.links.note(self.mounts, end, opened, time);
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
            self.walk(walker, b"/", next, time, true);
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
            let Some(mount) = self
                .mounts
                .iter()
                .find(|mount| mount.device == device && mount.root == b"/")
            else {
                self.out.gaps.no_mount += 1;
                continue;
            };
            let volume = self.volume(mount);
            for &(at, base, bits) in seen {
                let Some(first_use_ns) = self.origin.since(at) else {
                    continue;
                };
                let mut runs = Vec::new();
                push_runs(&mut runs, base, bits, first_use_ns);
                self.out
                    .trace
                    .blocks
                    .extend(runs.iter().map(|run| BlockTouch {
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
            self.out.trace.names.push(NameTouch {
                volume,
                path: rel,
                kind: state.kind,
                listed: state.listed,
                first_use_ns: state.first_use_ns,
            });
        }
        self.out.trace.volumes = self.volumes;
        self.out
    }
}

/// What is known of a regular file.
struct Stat {
    version: FileVersion,
    /// As statx(2) says: on btrfs the subvolume's, not the superblock's.
    device: (u32, u32),
    /// Names that it has.
    links: u32,
}

/// The regular file at `path`, if its inode number is still `ino`.
fn stat(path: &[u8], ino: u64) -> Option<Stat> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS).ok()?;
    let regular = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
    (regular && stat.stx_ino == ino).then(|| Stat {
        version: FileVersion {
            size: stat.stx_size,
            mtime_ns: stat.stx_mtime.tv_sec * 1_000_000_000 + i64::from(stat.stx_mtime.tv_nsec),
        },
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        links: stat.stx_nlink,
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
