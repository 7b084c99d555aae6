//! Where a run's names and files have their metadata, on ext2, ext3 and ext4.
//!
//! What was in memory when a run was recorded its disk was not asked for, so the probes
//! have not seen it; the next run may find nothing in memory. So the blocks are computed
//! from the names ([`super::ext4`]) and added to those that were seen.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::ext4::{DeviceSource, Ext4, InodeNeed, Metadata, Need};
use super::mountinfo::{self, Mount};
use super::volume::device_node;
use crate::model::{FileTouches, NameKind, NameTouch, Trace, Volume, escape};

/// Runs of pages of a file that are looked up in its map one by one; of a file with more
/// all of the map is taken.
const MOST_RUNS: usize = 16;

/// Adds the blocks that a trace's names and files take; for how many names (or inodes, where
/// a block of them can't be read or says what can't be) on such filesystems that can't be done.
pub(super) fn complete(trace: &mut Trace, mounts: &[Mount]) -> u64 {
    let mut without = 0;
    for (index, volume) in (0u32..).zip(&trace.volumes) {
        // Block numbers mean something only where the filesystem is recognised again.
        let is_ext = matches!(volume.fs_type.as_str(), "ext2" | "ext3" | "ext4");
        if !is_ext || !volume.id.is_filesystems() {
            continue;
        }
        let names = || trace.names.iter().filter(move |name| name.volume == index);
        let files = || trace.files.iter().filter(move |file| file.volume == index);
        match blocks(volume, index, mounts, names(), files()) {
            Some(found) => {
                without += not_followed(volume, &found);
                trace.blocks.extend(found.touches);
            }
            None => without += names().count() as u64,
        }
    }
    without
}

/// Inodes whose blocks were not all found, each told to those who look for why.
fn not_followed(volume: &Volume, found: &Metadata) -> u64 {
    let mount_point = escape(&volume.mount_point);
    for (inode, error) in &found.failed {
        tracing::debug!(inode, mount_point, %error, "not all of its blocks are known");
    }
    if found.truncated {
        tracing::debug!(mount_point, "too many blocks: later ones are left out");
    }
    found.failed.len() as u64
}

fn blocks<'t>(
    volume: &Volume,
    index: u32,
    mounts: &[Mount],
    names: impl Iterator<Item = &'t NameTouch>,
    files: impl Iterator<Item = &'t FileTouches>,
) -> Option<Metadata> {
    let mount = mountinfo::covering(mounts, &volume.mount_point)
        .filter(|mount| mount.mount_point == volume.mount_point && mount.root == b"/")?;
    let mount_point = escape(&volume.mount_point);
    let device = device_node(mount.device).and_then(File::open);
    let source = device
        .inspect_err(|error| tracing::debug!(mount_point, %error, "its device can't be opened"))
        .ok()?;
    let source = DeviceSource::new(source);
    let filesystem = Ext4::open(&source)
        .inspect_err(|error| tracing::debug!(mount_point, %error, "its device can't be read"))
        .ok()?;
    let mut inodes = Inodes {
        volume,
        device: mount.device,
        known: HashMap::new(),
    };
    let mut needs = Vec::new();
    for name in names {
        inodes.name(name, &mut needs);
    }
    for file in files {
        inodes.file(file, &mut needs);
    }
    needs.sort_by_key(|need| need.first_use_ns);
    Some(filesystem.metadata_pages(index, &needs))
}

/// Numbers of a volume's inodes, by path below its root.
struct Inodes<'v> {
    volume: &'v Volume,
    device: (u32, u32),
    known: HashMap<Vec<u8>, Option<u64>>,
}

impl Inodes<'_> {
    /// The inode of a name; `None` where there is none, or another filesystem's.
    fn number(&mut self, path: &[u8]) -> Option<u64> {
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        let number = self.look_up(path);
        self.known.insert(path.to_vec(), number);
        number
    }

    fn look_up(&self, path: &[u8]) -> Option<u64> {
        let absolute = super::paths::join(&self.volume.mount_point, path);
        let absolute = Path::new(OsStr::from_bytes(&absolute));
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(CWD, absolute, flags, StatxFlags::INO).ok()?;
        ((stat.stx_dev_major, stat.stx_dev_minor) == self.device).then_some(stat.stx_ino)
    }

    fn name<'t>(&mut self, name: &'t NameTouch, needs: &mut Vec<InodeNeed<'t>>) {
        let mut take = |ino, need| {
            needs.push(InodeNeed {
                ino,
                need,
                first_use_ns: name.first_use_ns,
            });
        };
        if !name.path.is_root()
            && let Some(parent) = self.number(name.path.parent_bytes())
        {
            let last = name.path.as_bytes().rsplit(|&byte| byte == b'/').next();
            take(parent, Need::Search(last.unwrap_or_default()));
        }
        let need = match name.kind {
            NameKind::Missing => return,
            NameKind::Directory if name.listed => Need::List,
            NameKind::Symlink => Need::ReadLink,
            NameKind::Directory | NameKind::File => Need::Inode,
        };
        if let Some(ino) = self.number(name.path.as_bytes()) {
            take(ino, need);
        }
    }

    fn file(&mut self, file: &FileTouches, needs: &mut Vec<InodeNeed<'_>>) {
        let Some(ino) = self.number(file.path.as_bytes()) else {
            return;
        };
        let mut take = |need, first_use_ns| {
            needs.push(InodeNeed {
                ino,
                need,
                first_use_ns,
            });
        };
        if file.touches.len() > MOST_RUNS {
            let first = file.touches.iter().map(|touch| touch.first_use_ns).min();
            take(Need::ReadAll, first.unwrap_or(0));
            return;
        }
        for touch in &file.touches {
            let need = Need::Read {
                start_page: touch.start_page,
                pages: touch.pages.into(),
            };
            take(need, touch.first_use_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::volume::identify;
    use crate::model::{Certainty, FileVersion, PageTouch, RelPath};

    /// A trace of one file and its name in the filesystem that holds a directory, if that
    /// is an ext4 that can be looked into.
    fn trace(file: &Path, mounts: &[Mount]) -> Option<Trace> {
        let bytes = file.as_os_str().as_bytes();
        let mount = mountinfo::covering(mounts, bytes)?;
        let rest = super::super::paths::below(&mount.mount_point, bytes)?;
        let path = RelPath::new(rest).ok()?;
        let can = mount.fs_type == "ext4"
            && device_node(mount.device).is_ok_and(|node| File::open(node).is_ok());
        can.then(|| Trace {
            volumes: vec![identify(mount)],
            names: vec![NameTouch {
                volume: 0,
                path: path.clone(),
                kind: NameKind::File,
                listed: false,
                first_use_ns: 7,
            }],
            files: vec![FileTouches {
                volume: 0,
                path,
                version: FileVersion::default(),
                touches: vec![PageTouch {
                    start_page: 0,
                    pages: 1,
                    certainty: Certainty::Certain,
                    first_use_ns: 9,
                }],
            }],
            ..Trace::default()
        })
    }

    #[test]
    fn a_name_takes_its_directory_and_its_inode() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("dir");
        let file = dir.path().canonicalize().expect("path").join("file");
        std::fs::write(&file, "x").expect("written");
        rustix::fs::sync();
        let mounts = mountinfo::read().expect("mountinfo");
        let Some(mut trace) = trace(&file, &mounts) else {
            eprintln!("SKIPPED: not on an ext4 whose device can be opened");
            return;
        };
        assert_eq!(complete(&mut trace, &mounts), 0);
        // The directory's inode and block, the file's inode: two or three pages.
        let pages: u32 = trace.blocks.iter().map(|block| block.pages).sum();
        assert!((2..=4).contains(&pages), "{:?}", trace.blocks);
        assert!(trace.blocks.iter().all(|block| block.first_use_ns == 7));
    }

    #[test]
    fn where_the_device_is_not_known_the_names_are_counted() {
        let mounts = mountinfo::read().expect("mountinfo");
        let mut trace = Trace {
            volumes: vec![Volume {
                id: crate::model::VolumeId("uuid:x".into()),
                fs_type: "ext4".into(),
                mount_point: b"/nowhere".to_vec(),
            }],
            names: vec![NameTouch {
                volume: 0,
                path: RelPath::new(b"name".to_vec()).expect("a path"),
                kind: NameKind::File,
                listed: false,
                first_use_ns: 0,
            }],
            ..Trace::default()
        };
        assert_eq!(complete(&mut trace, &mounts), 1);
        assert!(trace.blocks.is_empty());
    }
}
