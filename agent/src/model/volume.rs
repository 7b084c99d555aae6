//! Where a file lives, in terms that can hold on another node.

use super::RelPath;

/// What names a volume across reboots and nodes:
///
/// - `uuid:<filesystem uuid>` or `fsid:<id>`, of a filesystem that has one;
/// - `path:<mount point>`, of one that has none;
/// - `layer:<diff id>` or `layer:chain:<chain id>`, of an image's layer;
/// - `claim:<driver>:<handle>`, of a volume that a pod claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub String);

impl VolumeId {
    /// Whether it is a filesystem's own: block numbers and paths below its root mean the
    /// same wherever it is mounted.
    pub fn is_filesystems(&self) -> bool {
        self.0.starts_with("uuid:") || self.0.starts_with("fsid:")
    }
}

/// A volume as it was seen when a run was recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// What names it.
    pub id: VolumeId,
    /// Filesystem type as in mountinfo (`ext4`, `xfs`, `overlay`).
    pub fs_type: String,
    /// Absolute path at which the volume's root was mounted. Where no mounted
    /// filesystem has the id (a profile from another node), the same path is
    /// taken, and each file is checked by size and mtime.
    pub mount_point: Vec<u8>,
}

/// What tells whether a file is still the one that was profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileVersion {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in ns since the epoch; may be negative.
    pub mtime_ns: i64,
}

/// What a name was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// A regular file, or anything that is none of the others: only its dentry
    /// and inode are of interest.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; warming reads its target.
    Symlink,
    /// Nothing: the look-up failed, and a negative dentry is what is warmed.
    Missing,
}

impl Volume {
    /// The absolute path of `path` in this volume, as it was when recorded.
    pub fn absolute(&self, path: &RelPath) -> Vec<u8> {
        let mut out = self.mount_point.clone();
        if !path.is_root() {
            if out.last() != Some(&b'/') {
                out.push(b'/');
            }
            out.extend_from_slice(path.as_bytes());
        }
        out
    }
}
