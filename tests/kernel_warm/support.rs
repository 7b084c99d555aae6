//! Plans over scratch files, disks of the tests' own, and what the page cache holds.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::prepare::prepare;
pub(crate) use crate::residency::resident_pages as resident;
use headstart::model::{
    Action, FileVersion, NameKind, Plan, PlanFile, PlanName, RelPath, Volume, VolumeId,
};
use headstart::warm::{Cancel, Progress, VolumeRoots, WarmOptions, WarmReport, execute};

/// The page cache is the machine's: one test at a time.
pub(crate) static CACHE: Mutex<()> = Mutex::new(());

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) plan: Plan,
    _cache: MutexGuard<'static, ()>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("dir");
        let plan = Plan {
            volumes: vec![volume(dir.path())],
            ..Plan::default()
        };
        Self {
            dir,
            plan,
            _cache: cache,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        write(&path, bytes);
        path
    }

    /// Plans to read pages of a file that exists.
    pub(crate) fn read(&mut self, name: &str, extents: &[(u64, u32)]) {
        let version = version(&self.path(name));
        self.read_version(name.as_bytes(), version, extents);
    }

    pub(crate) fn read_version(
        &mut self,
        name: &[u8],
        version: FileVersion,
        extents: &[(u64, u32)],
    ) {
        let file = self.plan.files.len() as u32;
        self.plan.files.push(PlanFile {
            volume: 0,
            path: RelPath::new(name).expect("valid"),
            version,
        });
        for &(start_page, pages) in extents {
            self.plan.actions.push(Action::Read {
                file,
                start_page,
                pages,
                gap_pages: 0,
                certain: true,
            });
        }
    }

    pub(crate) fn name(&mut self, name: &[u8], kind: NameKind, listed: bool) {
        self.plan.actions.push(Action::Name {
            name: self.plan.names.len() as u32,
        });
        self.plan.names.push(PlanName {
            volume: 0,
            path: RelPath::new(name).expect("valid"),
            kind,
            listed,
        });
    }

    pub(crate) fn run(&self) -> WarmReport {
        self.run_with(&WarmOptions::default(), &Cancel::new())
    }

    pub(crate) fn run_with(&self, options: &WarmOptions, cancel: &Cancel) -> WarmReport {
        run(&self.plan, options, cancel)
    }
}

pub(crate) fn run(plan: &Plan, options: &WarmOptions, cancel: &Cancel) -> WarmReport {
    let roots = Arc::new(VolumeRoots::read().expect("mountinfo"));
    let progress = Arc::new(Progress::default());
    let report = execute(&Arc::new(plan.clone()), &roots, options, &progress, cancel);
    assert!(report.data.is_consistent(), "{report:#?}");
    assert!(report.blocks.is_consistent(), "{report:#?}");
    let names = report.names_warmed + report.names_gone + report.names_failed + report.names_left;
    assert_eq!(report.names_planned, names, "{report:#?}");
    report
}

pub(crate) fn volume(path: &Path) -> Volume {
    Volume {
        id: VolumeId("path:test".to_owned()),
        fs_type: String::new(),
        mount_point: path.as_os_str().as_bytes().to_vec(),
    }
}

pub(crate) fn write(path: &Path, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
    std::fs::write(path, data).expect("write");
}

pub(crate) fn version(path: &Path) -> FileVersion {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).expect("metadata");
    FileVersion {
        size: meta.size(),
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
    }
}

/// Writes everything back and empties the page cache; `false` where that is
/// not allowed.
pub(crate) fn drop_caches() -> bool {
    rustix::fs::sync();
    match std::fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIPPED: can't drop caches: {error}");
            false
        }
    }
}

pub(crate) fn count(vector: &[bool]) -> u64 {
    vector.iter().filter(|&&r| r).count() as u64
}

/// Sectors read from the disk below `path` so far, by anyone.
pub(crate) fn sectors_read(path: &Path) -> Option<u64> {
    let dev = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// A filesystem image on a loop device, mounted; gone when dropped.
pub(crate) struct Loop {
    pub(crate) device: String,
    pub(crate) mount: PathBuf,
}

impl Loop {
    pub(crate) fn new(f: &Fixture, mebibytes: u64) -> Option<Self> {
        let image = f.path("image");
        File::create(&image)
            .and_then(|i| i.set_len(mebibytes << 20))
            .expect("image");
        let mount = f.path("mount");
        std::fs::create_dir(&mount).expect("dir");
        let [image, at] = [&image, &mount].map(|path| path.display().to_string());
        let options = "nodiscard,lazy_itable_init=0";
        prepare("mkfs.ext4", &["-q", "-E", options, "-i", "4096", &image])?;
        let device = prepare("losetup", &["--find", "--show", &image])?;
        let this = Self { device, mount };
        prepare("mount", &[&this.device, &at])?;
        Some(this)
    }

    pub(crate) fn remount(&self) {
        let status = Command::new("umount").arg(&self.mount).status();
        assert!(status.expect("umount").success());
        let status = Command::new("mount")
            .arg(&self.device)
            .arg(&self.mount)
            .status();
        assert!(status.expect("mount").success());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// Every 16th page of the first `pages` that is on the list of active pages (those that
/// were used more than once) or marked as used; `None` where the kernel does not tell.
pub(crate) fn used_pages(path: &Path, pages: usize) -> Option<usize> {
    use std::os::unix::fs::FileExt;
    /// Documentation/admin-guide/mm/pagemap.rst
    const REFERENCED: u64 = 1 << 2;
    const ACTIVE: u64 = 1 << 6;
    const TAIL: u64 = 1 << 16;
    let word = |file: &File, index: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, index * 8).ok()?;
        Some(u64::from_ne_bytes(bytes))
    };
    let numbers = File::open("/proc/self/pagemap").ok()?;
    let flags = File::open("/proc/kpageflags").ok()?;
    let file = File::open(path).expect("open");
    let length = pages * 4096;
    let (access, shared) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
    // SAFETY: a new mapping; the file is as long, and the test changes it no more.
    let map = unsafe {
        let map = rustix::mm::mmap(std::ptr::null_mut(), length, access, shared, &file, 0);
        let map = map.expect("mmap");
        libc::madvise(map, length, libc::MADV_SEQUENTIAL);
        map
    };
    let mut used = 0;
    for page in (0..pages).step_by(16) {
        let at = map.wrapping_byte_add(page * 4096).cast::<u8>();
        // SAFETY: within the mapping.
        unsafe { at.read_volatile() };
        let mut number = word(&numbers, at as u64 / 4096)? & ((1 << 55) - 1);
        while word(&flags, number)? & TAIL != 0 {
            number -= 1;
        }
        used += usize::from(word(&flags, number)? & (REFERENCED | ACTIVE) != 0);
    }
    // SAFETY: the mapping made above.
    unsafe { rustix::mm::munmap(map, length) }.expect("munmap");
    Some(used)
}
