//! What names a mounted filesystem across reboots and nodes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use super::mountinfo::Mount;
use crate::model::{Volume, VolumeId, escape};

/// Filesystems served by something that may not answer: a look at them can
/// block for ever, so only a thread that may be abandoned takes it.
pub fn may_hang(fs_type: &str) -> bool {
    const REMOTE: [&str; 15] = [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "ocfs2",
        "orangefs",
        "smb3",
        "virtiofs",
    ];
    fs_type.starts_with("fuse")
        || fs_type.starts_with("nfs")
        || fs_type == "autofs"
        || REMOTE.contains(&fs_type)
}

/// Filesystems that are views of the kernel: reading them makes nothing
/// resident, and reading some of them has effects.
pub fn is_pseudo(fs_type: &str) -> bool {
    const PSEUDO: [&str; 20] = [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "sysfs",
        "tracefs",
    ];
    PSEUDO.contains(&fs_type)
}

/// Names the volume that `mount` shows.
///
/// The id is the filesystem's UUID where it can be had without the risk of
/// blocking, else the mount point. For a mount whose `root` is not `/` the
/// `mount_point` is not that of the volume's root: callers look for another
/// mount of the same device first.
pub fn identify(mount: &Mount) -> Volume {
    let id = volume_id(mount)
        .unwrap_or_else(|| VolumeId(format!("path:{}", escape(&mount.mount_point))));
    Volume {
        id,
        fs_type: mount.fs_type.clone(),
        mount_point: mount.mount_point.clone(),
    }
}

/// The id that the filesystem itself carries, if it has one and tells it.
fn volume_id(mount: &Mount) -> Option<VolumeId> {
    if may_hang(&mount.fs_type) || is_pseudo(&mount.fs_type) {
        return None;
    }
    let dir = open_mount(mount)?;
    if let Some(uuid) = uuid_by_ioctl(&dir) {
        return Some(VolumeId(format!("uuid:{uuid}")));
    }
    if let Some(uuid) = uuid_by_link(mount.device) {
        return Some(VolumeId(format!("uuid:{uuid}")));
    }
    // These two fold their UUID into f_fsid; others put a device number there,
    // which would name another disk on another node.
    if matches!(mount.fs_type.as_str(), "ext2" | "ext3" | "ext4" | "btrfs") {
        return fsid(&dir).map(|id| VolumeId(format!("fsid:{id:016x}")));
    }
    None
}

/// Opens the root of `mount`, unless another mount hides it.
fn open_mount(mount: &Mount) -> Option<File> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&mount.mount_point));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    // First without opening anything: a device or FIFO can be a mount point.
    let seen = rustix::fs::openat(CWD, path, flags | OFlags::PATH, Mode::empty()).ok()?;
    if mount_id(&seen).is_some_and(|id| id != mount.id) {
        return None;
    }
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&seen).ok()?.st_mode);
    if !kind.is_dir() && !kind.is_file() {
        return None;
    }
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    Some(File::from(file))
}

/// The mount a descriptor lies in, as in mountinfo's first field; `None` before
/// Linux 5.8.
pub fn mount_id(fd: impl AsFd) -> Option<u64> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

/// `struct fsuuid2` of `linux/fs.h`.
#[repr(C)]
struct FsUuid2 {
    len: u8,
    uuid: [u8; 16],
}

/// FS_IOC_GETFSUUID, Linux 6.9.
fn uuid_by_ioctl(fd: impl AsFd) -> Option<String> {
    const GET: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<FsUuid2>(0x15, 0);
    // SAFETY: GET is the opcode of FS_IOC_GETFSUUID, which writes one
    // `struct fsuuid2`; FsUuid2 has its layout (17 bytes, no padding).
    let answer = unsafe {
        let getter = rustix::ioctl::Getter::<GET, FsUuid2>::new();
        rustix::ioctl::ioctl(fd, getter)
    }
    .ok()?;
    if answer.len != 16 || answer.uuid == [0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (at, byte) in answer.uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

/// What udev recorded when it saw the device.
fn uuid_by_link(device: (u32, u32)) -> Option<String> {
    if device.0 == 0 {
        return None;
    }
    let wanted = rustix::fs::makedev(device.0, device.1);
    std::fs::read_dir("/dev/disk/by-uuid")
        .ok()?
        .take(4096)
        .flatten()
        .find(|entry| rustix::fs::stat(entry.path()).is_ok_and(|stat| stat.st_rdev == wanted))
        .map(|entry| escape(entry.file_name().as_bytes()))
}

fn fsid(fd: impl AsFd) -> Option<u64> {
    let id = rustix::fs::fstatvfs(fd).ok()?.f_fsid;
    (id != 0).then_some(id)
}

/// The device node of a block device, by its number.
///
/// # Errors
/// Unknown to `/sys`, not in `/dev` (a container's may lack it), or something
/// else has its name there.
pub fn device_node((major, minor): (u32, u32)) -> io::Result<PathBuf> {
    let uevent = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name = uevent
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))
        .ok_or_else(|| io::Error::other("the device has no name"))?;
    let node = Path::new("/dev").join(name);
    let stat = rustix::fs::stat(&node)?;
    let is_block = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_block_device();
    if !is_block || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(io::Error::other(format!(
            "{} is not device {major}:{minor}",
            node.display()
        )));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::mountinfo;

    #[test]
    fn the_root_has_a_stable_id() {
        let mounts = mountinfo::read().expect("mountinfo");
        let root = mountinfo::covering(&mounts, b"/").expect("a root");
        let volume = identify(root);
        assert_eq!(volume, identify(root));
        assert_eq!(volume.mount_point, b"/");
        assert!(volume.id.0.contains(':'), "{volume:?}");
    }

    #[test]
    fn remote_and_pseudo_filesystems_are_named_by_path_untouched() {
        let mut mount = mountinfo::parse(b"1 0 0:99 / /nowhere\\040here rw - nfs4 s:/x rw\n")
            .expect("valid")
            .remove(0);
        for fs_type in ["nfs4", "fuse.sshfs", "fuse", "9p", "proc", "cgroup2"] {
            mount.fs_type = fs_type.to_owned();
            assert_eq!(identify(&mount).id.0, "path:/nowhere here");
        }
    }

    #[test]
    fn a_hidden_mount_is_not_confused_with_what_hides_it() {
        let mounts = mountinfo::read().expect("mountinfo");
        let mut root = mountinfo::covering(&mounts, b"/").expect("a root").clone();
        root.id += 1_000_000;
        assert_eq!(identify(&root).id.0, "path:/");
    }
}
