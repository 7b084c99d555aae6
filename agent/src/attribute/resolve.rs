//! The records of one run → its trace.

use std::collections::{BTreeMap, HashMap};

use super::collect::{At, Collector, Origin};
use super::elf::{interpreter, mapping_starts};
use super::links::Links;
use super::metadata;
use super::mountinfo::{self, Mount};
use super::names::{LONGEST_PATH, Walker};
use super::paths::{below, join};
use super::stat::{Stat, read_head, stat};
use super::surroundings::Surroundings;
use super::tally::{Gap, Gaps, Tally, Walked};
use super::touches::{push_faults, push_runs};
use super::volume::{identify, is_pseudo, may_hang};
use crate::model::{
    BlockTouch, FileTouches, NameKind, NameTouch, PAGE_SIZE, RelPath, StageCounts, Trace, Volume,
    VolumeId,
};
use crate::probe::{Fault, InodeKey};

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
    let mounts = mountinfo::read()?;
    let here = Surroundings::here(&mounts);
    Ok(attribute_in(here, records, origin, around))
}

/// [`attribute`] in given surroundings.
pub fn attribute_in(
    around_it: Surroundings<'_>,
    records: &Collector,
    origin: Origin,
    around: u64,
) -> Attributed {
    let Surroundings {
        mounts,
        binds,
        root,
        layers,
    } = around_it;
    let allowed = |path: &[u8]| {
        mountinfo::covering(mounts, path)
            .is_some_and(|mount| is_on_disk(&mount.fs_type) && !may_hang(&mount.fs_type))
    };
    let mut walker = Walker::new(&allowed, binds).over(root, layers);
    let mut resolver = Resolver::new(mounts, root, records, origin);
    // Names first: they say which of a file's names the run used.
    resolver.names(&mut walker);
    resolver.files(&mut walker, around);
    resolver.lists(&mut walker);
    resolver.blocks();
    let mut attributed = resolver.finish();
    attributed.gaps.names_without_blocks = metadata::complete(&mut attributed.trace, mounts);
    attributed
}

struct Resolver<'a> {
    mounts: &'a [Mount],
    records: &'a Collector,
    origin: Origin,
    volumes: Vec<Volume>,
    /// Mount id → index into `volumes`.
    by_mount: HashMap<u64, u32>,
    /// Root directory of processes that don't tell theirs.
    root: &'a [u8],
    /// Process → its root directory, as this process sees it.
    roots: HashMap<u32, Vec<u8>>,
    /// Absolute path → what is known of the name.
    found: BTreeMap<Vec<u8>, NameState>,
    links: Links,
    tally: Tally,
    trace: Trace,
}

/// A path of a filesystem where a mount shows it.
struct Place<'a> {
    mount: &'a Mount,
    /// Below the mount's root.
    rel: Vec<u8>,
}

/// Neither in memory anyway nor a view of the kernel.
fn is_on_disk(fs_type: &str) -> bool {
    !is_pseudo(fs_type) && !matches!(fs_type, "tmpfs" | "ramfs")
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
    fn new(mounts: &'a [Mount], root: &'a [u8], records: &'a Collector, origin: Origin) -> Self {
        Self {
            mounts,
            records,
            origin,
            volumes: Vec::new(),
            by_mount: HashMap::new(),
            root,
            roots: HashMap::new(),
            found: BTreeMap::new(),
            links: Links::default(),
            tally: records.tally(),
            trace: Trace::default(),
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
            let times = times.chain(faults.iter().copied().flatten().map(|(at, _)| at));
            let (records, during) = self.count(times);
            let held = match during {
                0 => Ok(0),
                _ => self.file(walker, key, reads, &faults, around),
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
        walker: &mut Walker<'_>,
        key: InodeKey,
        reads: &[(At, u64, u64)],
        faults: &[&[(At, Fault)]],
        around: u64,
    ) -> Result<u64, Gap> {
        let inode = self.records.inodes.get(&key).ok_or(Gap::NoPath)?;
        if inode.truncated {
            return Err(Gap::PathTooLong);
        }
        let mut place = self.place(key.device(), &inode.path)?;
        let mut absolute = place.absolute();
        if absolute.len() > LONGEST_PATH {
            return Err(Gap::PathTooLong);
        }
        let mut stat = stat(&absolute, key.ino).ok_or(Gap::Vanished)?;
        if stat.links > 1
            && let Some(better) = self.better_place(key, &stat)
        {
            (place, stat) = better;
            absolute = place.absolute();
        }
        let Place { mount, rel } = place;
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
        // Also those that no system call named.
        walker.walk(b"/", b"/", &absolute, &mut |name, found| {
            self.note(name, found.kind, first_use_ns)
        });
        Ok(held as u64)
    }

    /// Where a file with several names, found by one of them, has the name that the
    /// run used.
    fn better_place(&self, key: InodeKey, known: &Stat) -> Option<(Place<'a>, Stat)> {
        let path = self.links.of(key.device(), key.ino)?;
        let place = self.place(key.device(), path).ok()?;
        // The same file, for certain: a number alone could be that of another.
        let stat = stat(&place.absolute(), key.ino).filter(|stat| stat.device == known.device)?;
        Some((place, stat))
    }

    /// The mount that shows a path of a filesystem.
    fn place(&self, device: (u32, u32), path: &[u8]) -> Result<Place<'a>, Gap> {
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
        let (mount, rest) = best.ok_or(Gap::NoMount)?;
        if !is_on_disk(&mount.fs_type) {
            return Err(Gap::NotOnDisk);
        }
        Ok(Place {
            mount,
            rel: rest.to_vec(),
        })
    }

    /// Names given to system calls.
    fn names(&mut self, walker: &mut Walker<'_>) {
        let records = self.records;
        for name in &records.names {
            let Some(time) = self.origin.since(name.at) else {
                self.tally.name_before();
                continue;
            };
            let from = match (name.path.first(), name.base) {
                // Of a program executed the root is not told.
                (Some(b'/'), None) => Some(self.root(name.at.tgid)),
                (Some(b'/'), Some(base)) => self.absolute(&base).inspect(|root| {
                    self.roots.insert(name.at.tgid, root.clone());
                }),
                (_, Some(base)) => self.absolute(&base),
                _ => None,
            };
            let Some(base) = from else {
                self.tally.name_unresolved();
                continue;
            };
            let root = self.root(name.at.tgid);
            let walked = self.walk(walker, (&root, &base), &name.path, time, name.opened);
            self.tally.name_walked(walked);
            if name.exec {
                self.interpreters(walker, &root, &name.path, time);
            }
        }
    }

    fn lists(&mut self, walker: &mut Walker<'_>) {
        let records = self.records;
        for (at, key) in &records.lists {
            let Some(time) = self.origin.since(*at) else {
                self.tally.name_before();
                continue;
            };
            let Some(path) = key.and_then(|key| self.absolute(&key)) else {
                self.tally.name_unresolved();
                continue;
            };
            let walked = self.walk(walker, (b"/", b"/"), &path, time, false);
            self.tally.name_walked(walked);
            if let Some(state) = self.found.get_mut(&path) {
                state.listed = true;
            }
        }
    }

    /// A process' root directory.
    fn root(&self, tgid: u32) -> Vec<u8> {
        let root = self.roots.get(&tgid);
        root.map_or_else(|| self.root.to_vec(), Vec::clone)
    }

    /// Notes every name on the way of a path, from a root and a base directory.
    fn walk(
        &mut self,
        walker: &mut Walker<'_>,
        (root, base): (&[u8], &[u8]),
        path: &[u8],
        time: u64,
        opened: bool,
    ) -> Walked {
        let too_long = walker.too_long();
        let mut walked = Walked::NotLookedUp;
        let end = walker.walk(root, base, path, &mut |name, found| {
            walked = Walked::Found;
            self.note(name, found.kind, time)
        });
        if let Some(end) = end {
            self.links.note(self.mounts, end, opened, time);
        }
        if walker.too_long() > too_long {
            walked = Walked::TooLong;
        }
        walked
    }

    /// The chain of interpreters of a program, two deep as in the kernel's
    /// commonest case (script → ELF → its loader).
    fn interpreters(&mut self, walker: &mut Walker<'_>, root: &[u8], program: &[u8], time: u64) {
        let mut path = program.to_vec();
        for _ in 0..3 {
            // Where it led, which links may have told.
            let Some(end) = walker.walk(root, root, &path, &mut |_, _| {}) else {
                return;
            };
            let Some(head) = read_head(&walker.place(&end.path)) else {
                return;
            };
            let Some(next) = interpreter(&head) else {
                return;
            };
            self.walk(walker, (root, root), next, time, true);
            path = next.to_vec();
        }
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
