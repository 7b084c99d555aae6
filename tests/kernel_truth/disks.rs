//! File systems of the tests' own, on loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Scratch, prepare};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
    Erofs,
    /// With files compressed.
    ErofsLz4,
    /// Over a directory of the scratch space.
    Overlay,
    Tmpfs,
}

/// A mounted file system with files in it; gone when dropped.
pub(crate) struct Disk {
    /// Where programs read.
    pub(crate) mount: PathBuf,
    /// Where the files are that are read there: the lower layer of an overlay.
    pub(crate) home: PathBuf,
    mounted: Vec<PathBuf>,
}

/// Room on each: xfs wants 300 MiB at least.
const BYTES: u64 = 512 << 20;

impl Disk {
    /// `fill` writes the files. `None` where there is no such file system here.
    pub(crate) fn new(scratch: &Scratch, kind: Kind, fill: &dyn Fn(&Path)) -> Option<Self> {
        let mount = scratch.path("mount");
        std::fs::create_dir(&mount).expect("dir");
        let image = scratch.path("image");
        let mut disk = Self {
            home: mount.clone(),
            mount,
            mounted: Vec::new(),
        };
        match kind {
            Kind::Ext4 => {
                let options = "nodiscard,lazy_itable_init=0";
                disk.make(&image, "ext4", &["-q", "-E", options])?;
            }
            Kind::Xfs => disk.make(&image, "xfs", &["-q"])?,
            Kind::Btrfs => disk.make(&image, "btrfs", &["-q"])?,
            Kind::Erofs | Kind::ErofsLz4 => {
                let content = scratch.path("content");
                std::fs::create_dir(&content).expect("dir");
                fill(&content);
                let options: &[&dyn AsRef<std::ffi::OsStr>] = match kind {
                    Kind::ErofsLz4 => &[&"-zlz4", &"--quiet", &image, &content],
                    _ => &[&"--quiet", &image, &content],
                };
                prepare("mkfs.erofs", options)?;
                disk.attach("erofs", &image, "loop,ro")?;
                return Some(disk);
            }
            Kind::Overlay => {
                let lower = scratch.path("lower");
                std::fs::create_dir(&lower).expect("dir");
                fill(&lower);
                disk.overlay(&scratch.path(""))?;
                return Some(disk);
            }
            Kind::Tmpfs => disk.attach("tmpfs", Path::new("tmpfs"), "size=256m")?,
        }
        fill(&disk.mount);
        Some(disk)
    }

    fn make(&mut self, image: &Path, fs_type: &str, options: &[&str]) -> Option<()> {
        let file = File::create(image).expect("image");
        file.set_len(BYTES).expect("room");
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = Vec::new();
        args.extend(options.iter().map(|o| o as &dyn AsRef<std::ffi::OsStr>));
        args.push(&image);
        prepare(&format!("mkfs.{fs_type}"), &args)?;
        self.attach(fs_type, image, "loop")
    }

    fn attach(&mut self, fs_type: &str, source: &Path, options: &str) -> Option<()> {
        let mount = self.mount.clone();
        prepare(
            "mount",
            &[&"-t", &fs_type, &"-o", &options, &source, &mount],
        )?;
        self.mounted.push(mount);
        Some(())
    }

    /// Shows a directory of this disk at `at` as well.
    pub(crate) fn bind(&mut self, directory: &str, at: &Path) -> Option<()> {
        std::fs::create_dir(at).expect("dir");
        prepare("mount", &[&"--bind", &self.mount.join(directory), &at])?;
        self.mounted.push(at.to_owned());
        Some(())
    }

    /// Has programs read its directory `lower` through an overlay, the rest of which is on the
    /// same disk.
    pub(crate) fn cover(&mut self, scratch: &Scratch) -> Option<()> {
        let over = scratch.path("over");
        std::fs::create_dir(&over).expect("dir");
        let below = std::mem::replace(&mut self.mount, over);
        self.overlay(&below)
    }

    /// Mounts what is in `lower` of a directory, with the rest of the overlay beside it.
    fn overlay(&mut self, directory: &Path) -> Option<()> {
        let [upper, work] = ["upper", "work"].map(|name| directory.join(name));
        for dir in [&upper, &work] {
            std::fs::create_dir(dir).expect("dir");
        }
        self.home = directory.join("lower");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.home.display(),
            upper.display(),
            work.display()
        );
        self.attach("overlay", Path::new("overlay"), &options)
    }

    /// The block device.
    pub(crate) fn device(&self) -> PathBuf {
        let dev = rustix::fs::stat(&self.mount).expect("stat").st_dev;
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
        let link = link.expect("a block device");
        Path::new("/dev").join(link.file_name().expect("name"))
    }

    /// Unmounts and mounts again: nothing of it is cached then.
    pub(crate) fn remount(&mut self, scratch: &Scratch, fs_type: &str) {
        self.hide();
        assert!(
            self.attach(fs_type, &scratch.path("image"), "loop")
                .is_some()
        );
    }

    /// Takes the disk's own mount away; what is bound elsewhere stays.
    pub(crate) fn hide(&mut self) {
        let mount = self.mounted.remove(0);
        assert!(prepare("umount", &[&mount]).is_some());
    }

    /// How far is read ahead in files opened from now on.
    pub(crate) fn readahead_kib(&self, kib: u32) {
        let dev = rustix::fs::stat(&self.home).expect("stat").st_dev;
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        std::fs::write(
            format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
            kib.to_string(),
        )
        .expect("readahead of a loop device");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mount in self.mounted.iter().rev() {
            // The loop device goes with its mount.
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}
