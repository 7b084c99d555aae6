//! Beside somebody else who uses the disk.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headstart::model::PAGE_SIZE;
use headstart::warm::{Cancel, Dues, Pace, WarmOptions, disk_use};

use crate::support::{Fixture, count, drop_caches, resident};

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

#[test]
fn ahead_of_a_start_turns_are_taken_and_all_is_read() {
    const PAGES: u32 = 2048;
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
    let dues = Arc::new(Dues::new().expect("memory"));
    let options = WarmOptions {
        pace: Some(Arc::new(Pace::new(dues))),
        ..WarmOptions::default()
    };
    let report = f.run_with(&options, &Cancel::new());
    assert!(report.verified && report.data.read > 0, "{report:#?}");
    assert_eq!(count(&resident(&data)), u64::from(PAGES));
    // At most 128 KiB each.
    let least = u64::from(PAGES) / 32;
    assert!(report.in_turns >= least, "{} of {least}", report.in_turns);
}
