//! Volumes as this machine has them mounted.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};

use crate::attribute::mountinfo::{self, Mount};
use crate::attribute::volume::{device_node, identify, is_pseudo, may_hang, mount_id};
use crate::model::{PAGE_SIZE, Volume, VolumeId};

/// Readahead window where the kernel's is not known: its default.
const DEFAULT_WINDOW: u64 = 128 << 10;

/// The mount table, and which volume each mount shows.
///
/// Nothing is looked at when this is made; filesystems are asked for their ids
/// when the first volume is resolved.
#[derive(Debug)]
pub struct VolumeRoots {
    mounts: Vec<Mount>,
    ids: OnceLock<Vec<(VolumeId, usize)>>,
}

/// The root directory of a mounted volume.
#[derive(Debug)]
pub struct VolumeRoot {
    /// Opened with `O_PATH`.
    pub fd: OwnedFd,
    /// Whether the filesystem itself was recognised, not only its place. Block
    /// numbers mean something only then.
    pub by_id: bool,
    /// Filesystem type that is mounted here now.
    pub fs_type: String,
    /// Major and minor number of the superblock; major 0 where no single block
    /// device is behind it.
    pub device: (u32, u32),
    /// Bytes that one `readahead(2)` brings in at most.
    pub window: u64,
}

/// Why a volume can't be read here.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Neither its id nor its mount point is there.
    #[error("not mounted here, and its mount point can't be opened: {0}")]
    NotMounted(#[source] io::Error),
    /// What is mounted there is a view of the kernel; reading it may have effects.
    #[error("a {0} filesystem is mounted there, which holds no data to warm")]
    Pseudo(String),
    /// The recorded mount point is not an absolute path.
    #[error("its recorded mount point is not an absolute path")]
    BadMountPoint,
}

impl VolumeRoots {
    /// Takes this process's mount table.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` can't be read or is not understood.
    pub fn read() -> io::Result<Self> {
        Ok(Self::new(mountinfo::read()?))
    }

    /// Takes a mount table.
    pub fn new(mounts: Vec<Mount>) -> Self {
        Self {
            mounts,
            ids: OnceLock::new(),
        }
    }

    /// Opens the volume's root: a mount of the filesystem with its id, else
    /// what is mounted where it was when it was recorded.
    ///
    /// May block for ever on a dead network mount: call it where that does no
    /// harm.
    ///
    /// # Errors
    /// It is not here.
    pub fn resolve(&self, volume: &Volume) -> Result<VolumeRoot, VolumeError> {
        if volume.id.is_filesystems() {
            let ids = self.ids.get_or_init(|| self.identify_all());
            let mut candidates: Vec<&Mount> = ids
                .iter()
                .filter(|(id, _)| *id == volume.id)
                .filter_map(|(_, at)| self.mounts.get(*at))
                .collect();
            // A clone has the same id: the one in the known place is meant.
            candidates.sort_by_key(|m| m.mount_point != volume.mount_point);
            if let Some(root) = candidates.iter().find_map(|m| open(m)) {
                return Ok(root);
            }
        }
        self.by_path(&volume.mount_point)
    }

    /// Whether the volume is a filesystem that is mounted nowhere here, so that
    /// [`resolve`](Self::resolve) takes what is mounted in its place. Opens nothing on a mount
    /// that may not answer.
    pub fn is_elsewhere(&self, volume: &Volume) -> bool {
        let ids = || self.ids.get_or_init(|| self.identify_all());
        volume.id.is_filesystems() && !ids().iter().any(|(id, _)| *id == volume.id)
    }

    fn identify_all(&self) -> Vec<(VolumeId, usize)> {
        let candidates = self.mounts.iter().enumerate();
        candidates
            .filter(|(_, m)| m.root == b"/" && !may_hang(&m.fs_type) && !is_pseudo(&m.fs_type))
            .map(|(at, m)| (identify(m).id, at))
            .collect()
    }

    fn by_path(&self, mount_point: &[u8]) -> Result<VolumeRoot, VolumeError> {
        if mount_point.first() != Some(&b'/') || mount_point.contains(&0) {
            return Err(VolumeError::BadMountPoint);
        }
        // Before touching it: only the table is looked at.
        let covering = mountinfo::covering(&self.mounts, mount_point);
        if let Some(mount) = covering.filter(|m| is_pseudo(&m.fs_type)) {
            return Err(VolumeError::Pseudo(mount.fs_type.clone()));
        }
        let fd = open_dir(mount_point).map_err(|e| VolumeError::NotMounted(e.into()))?;
        // A symbolic link may have led elsewhere.
        let actual = match mount_id(&fd) {
            Some(id) => self.mounts.iter().find(|m| m.id == id).or(covering),
            None => covering,
        };
        if let Some(mount) = actual.filter(|m| is_pseudo(&m.fs_type)) {
            return Err(VolumeError::Pseudo(mount.fs_type.clone()));
        }
        let fs_type = actual.map(|m| m.fs_type.clone()).unwrap_or_default();
        Ok(root_of(fd, false, fs_type, actual.map(|m| m.device)))
    }
}

fn open_dir(path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(
        CWD,
        Path::new(OsStr::from_bytes(path)),
        flags,
        Mode::empty(),
    )
}

/// `None` where another mount hides this one.
fn open(mount: &Mount) -> Option<VolumeRoot> {
    let fd = open_dir(&mount.mount_point).ok()?;
    if mount_id(&fd).is_some_and(|id| id != mount.id) {
        return None;
    }
    Some(root_of(fd, true, mount.fs_type.clone(), Some(mount.device)))
}

fn root_of(fd: OwnedFd, by_id: bool, fs_type: String, device: Option<(u32, u32)>) -> VolumeRoot {
    let device = device
        .or_else(|| {
            let dev = rustix::fs::fstat(fd.as_fd()).ok()?.st_dev;
            Some((rustix::fs::major(dev), rustix::fs::minor(dev)))
        })
        .unwrap_or((0, 0));
    VolumeRoot {
        fd,
        by_id,
        fs_type,
        device,
        window: window(device),
    }
}

impl VolumeRoot {
    /// The block device to read metadata blocks from, and its length in bytes.
    pub(super) fn open_device(&self) -> io::Result<(OwnedFd, u64)> {
        let refuse = |why| Err(io::Error::other(why));
        if !self.by_id {
            return refuse(
                "not recognised by its id: its block numbers may mean something else here",
            );
        }
        if self.device.0 == 0 {
            return refuse("no single block device is behind this filesystem");
        }
        let node = device_node(self.device)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(CWD, &node, flags, Mode::empty())?;
        let bytes = rustix::fs::seek(fd.as_fd(), rustix::fs::SeekFrom::End(0))?;
        Ok((fd, bytes))
    }
}

/// What one `readahead(2)` brings in at most on this superblock's device:
/// `max(read_ahead_kb, max_sectors_kb)`, where they can be read.
fn window(device: (u32, u32)) -> u64 {
    match readahead_bytes(device) {
        Some(readahead) => {
            let hardware = queue_kib(device, "max_sectors_kb").unwrap_or(0);
            readahead.max(hardware << 10).clamp(PAGE_SIZE, 1 << 30)
        }
        None => DEFAULT_WINDOW,
    }
}

/// A device's readahead window, bytes: so much a page fault reads around it.
pub(super) fn readahead_bytes(device: (u32, u32)) -> Option<u64> {
    let (major, minor) = device;
    let bdi = format!("/sys/class/bdi/{major}:{minor}");
    let kib = kib(format!("{bdi}/read_ahead_kb"))
        .or_else(|| kib(format!("{bdi}-fuseblk/read_ahead_kb")))
        .or_else(|| queue_kib(device, "read_ahead_kb"))?;
    Some(kib.min(1 << 20) << 10)
}

fn queue_kib((major, minor): (u32, u32), name: &str) -> Option<u64> {
    let block = format!("/sys/dev/block/{major}:{minor}");
    // A partition has its disk's queue.
    kib(format!("{block}/queue/{name}")).or_else(|| kib(format!("{block}/../queue/{name}")))
}

fn kib(path: String) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str, mount_point: &[u8]) -> Volume {
        Volume {
            id: VolumeId(id.to_owned()),
            fs_type: String::new(),
            mount_point: mount_point.to_vec(),
        }
    }

    #[test]
    fn the_root_is_found_by_id_even_from_another_place() {
        let roots = VolumeRoots::read().expect("mountinfo");
        let mounts = mountinfo::read().expect("mountinfo");
        let root = mountinfo::covering(&mounts, b"/").expect("root");
        let id = identify(root).id;
        if !id.0.starts_with("uuid:") {
            eprintln!("SKIPPED: the root filesystem has no UUID ({})", id.0);
            return;
        }
        let found = roots.resolve(&volume(&id.0, b"/elsewhere")).expect("found");
        assert!(found.by_id && !roots.is_elsewhere(&volume(&id.0, b"/elsewhere")));
        assert_eq!(found.device, root.device);
    }

    #[test]
    fn an_unknown_id_falls_back_to_the_path() {
        let roots = VolumeRoots::read().expect("mountinfo");
        assert!(!roots.is_elsewhere(&volume("path:/srv", b"/srv")));
        assert!(roots.is_elsewhere(&volume("uuid:none", b"/")));
        let found = roots.resolve(&volume("uuid:none", b"/")).expect("by path");
        assert!(!found.by_id);
        let error = roots.resolve(&volume("uuid:none", b"/no/such/place"));
        assert!(matches!(error, Err(VolumeError::NotMounted(_))));
    }

    #[test]
    fn views_of_the_kernel_are_refused() {
        let roots = VolumeRoots::read().expect("mountinfo");
        for path in [&b"/proc"[..], b"/proc/self", b"/sys/kernel"] {
            let error = roots.resolve(&volume("path:x", path));
            assert!(matches!(error, Err(VolumeError::Pseudo(_))), "{error:?}");
        }
        let error = roots.resolve(&volume("path:x", b"relative"));
        assert!(matches!(error, Err(VolumeError::BadMountPoint)));
    }
}
