//! Beside somebody else who uses the disk.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headstart::model::PAGE_SIZE;
use headstart::warm::{Cancel, Dues, Pace, WarmOptions, disk_use};

use crate::prepare::prepare;
use crate::support::{Fixture, count, drop_caches, resident, version, volume, write};

/// Reads from the disk, nearly all the time, while it lives.
struct Other {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Other {
    /// `None`, and says so, where nothing that is read there comes from a disk.
    fn reads(path: &Path, pages: u64) -> Option<Self> {
        let operations = || {
            let text = std::fs::read_to_string("/proc/diskstats").expect("procfs");
            disk_use(&text).done
        };
        let mut read = reader(path, pages)?;
        let before = operations();
        read();
        if operations() == before {
            eprintln!("SKIPPED: {} is on no disk", path.display());
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                read();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Some(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it reads");
        }
    }
}

/// Reads one page after the other, past the cache.
fn reader(path: &Path, pages: u64) -> Option<impl FnMut() + Send + 'static> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let direct = rustix::fs::OFlags::DIRECT.bits();
    let file = options.read(true).custom_flags(direct as i32).open(path);
    let Ok(file) = file else {
        eprintln!("SKIPPED: {} can't be read past the cache", path.display());
        return None;
    };
    let mut page = 0;
    let mut memory = vec![0; 2 * PAGE_SIZE as usize];
    Some(move || {
        let from = memory.as_ptr().align_offset(PAGE_SIZE as usize);
        let buffer = &mut memory[from..from + PAGE_SIZE as usize];
        file.read_exact_at(buffer, page % pages * PAGE_SIZE)
            .expect("a page");
        page += 1;
    })
}

/// Where disks in memory are made that count as disks.
const NULLB: &str = "/sys/kernel/config/nullb";

/// A disk in memory, with ext4 on it; gone when dropped.
struct Disk {
    settings: PathBuf,
    device: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// `None`, and says so, where there can be none.
    fn new(f: &Fixture, name: &str) -> Option<Self> {
        let config = Path::new("/sys/kernel/config");
        if !config.join("nullb").exists() {
            prepare("mount", &["-t", "configfs", "none", "/sys/kernel/config"])?;
        }
        let called = format!("headstart-{name}");
        let settings = Path::new(NULLB).join(&called);
        if let Err(error) = fs::create_dir(&settings) {
            eprintln!("SKIPPED: no disk in memory (null_blk): {error}");
            return None;
        }
        let mount = f.path(name);
        fs::create_dir(&mount).expect("dir");
        let mut disk = Self {
            settings,
            device: PathBuf::new(),
            mount,
        };
        for (key, value) in [("size", "64"), ("memory_backed", "1"), ("power", "1")] {
            fs::write(disk.settings.join(key), value).expect("a setting");
        }
        let number = fs::read_to_string(disk.settings.join("index")).expect("its number");
        // Older kernels call it by its number.
        let names = [called, format!("nullb{}", number.trim())];
        let mut devices = names.iter().map(|name| Path::new("/dev").join(name));
        disk.device = devices.find(|path| path.exists()).expect("a device");
        let device = disk.device.display().to_string();
        prepare("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0", &device])?;
        prepare("mount", &[&device, &disk.mount.display().to_string()])?;
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        let _ = fs::write(self.settings.join("power"), "0");
        let _ = fs::remove_dir(&self.settings);
    }
}

/// Of an execution that nobody waits for.
fn unhurried() -> WarmOptions {
    let dues = Arc::new(Dues::new().expect("memory"));
    WarmOptions {
        pace: Some(Arc::new(Pace::new(dues))),
        ..WarmOptions::default()
    }
}

#[test]
fn who_uses_another_disk_is_nobody_to_wait_for() {
    const PAGES: u32 = 2048;
    let mut f = Fixture::new();
    let Some([ours, theirs]) = Disk::new(&f, "ours")
        .zip(Disk::new(&f, "theirs"))
        .map(<[_; 2]>::from)
    else {
        return;
    };
    let data = ours.mount.join("data");
    write(&data, PAGES as usize * PAGE_SIZE as usize);
    f.plan.volumes = vec![volume(&ours.mount)];
    f.read_version(b"data", version(&data), &[(0, PAGES)]);
    let warmed = |device: &Path| {
        if !drop_caches() {
            return None;
        }
        let _other = Other::reads(device, 1024)?;
        let report = f.run_with(&unhurried(), &Cancel::new());
        assert_eq!(count(&resident(&data)), u64::from(PAGES));
        Some(report.in_turns)
    };
    let (Some(beside), Some(alone)) = (warmed(&ours.device), warmed(&theirs.device)) else {
        return;
    };
    // How many of the reads are turns differs by how soon the other one is heard.
    assert!(beside > 0, "{beside}");
    assert_eq!(alone, 0);
}

#[test]
fn ahead_of_a_start_turns_are_taken_and_all_is_read() {
    const PAGES: u32 = 512;
    let mut f = Fixture::new();
    let others = f.write("others", 4 << 20);
    let data = f.write("data", PAGES as usize * PAGE_SIZE as usize);
    f.read("data", &[(0, PAGES)]);
    if !drop_caches() {
        return;
    }
    let Some(_other) = Other::reads(&others, 1024) else {
        return;
    };
    let report = f.run_with(&unhurried(), &Cancel::new());
    assert!(report.verified && report.data.read > 0, "{report:#?}");
    assert_eq!(count(&resident(&data)), u64::from(PAGES));
    // At most 128 KiB each.
    let least = u64::from(PAGES) / 32;
    assert!(report.in_turns >= least, "{} of {least}", report.in_turns);
}
