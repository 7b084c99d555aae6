//! The executor on real files of a real disk, with the page cache dropped.
//!
//! Needs root for dropping caches, loop devices and overlay mounts; what can't
//! be done is said on standard error.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headstart::model::{
    Action, FileVersion, NameKind, PAGE_SIZE, Plan, PlanFile, PlanName, RelPath, Volume, VolumeId,
};
use headstart::warm::{
    Cancel, FailureKind, Lead, Progress, VolumeRoots, WarmOptions, WarmReport, execute,
};

/// The page cache is the machine's: one test at a time.
static CACHE: Mutex<()> = Mutex::new(());

struct Fixture {
    dir: tempfile::TempDir,
    plan: Plan,
    _cache: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        write(&path, bytes);
        path
    }

    /// Plans to read pages of a file that exists.
    fn read(&mut self, name: &str, extents: &[(u64, u32)]) {
        let version = version(&self.path(name));
        self.read_version(name.as_bytes(), version, extents);
    }

    fn read_version(&mut self, name: &[u8], version: FileVersion, extents: &[(u64, u32)]) {
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

    fn name(&mut self, name: &[u8], kind: NameKind, listed: bool) {
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

    fn run(&self) -> WarmReport {
        self.run_with(&WarmOptions::default(), &Cancel::new())
    }

    fn run_with(&self, options: &WarmOptions, cancel: &Cancel) -> WarmReport {
        run(&self.plan, options, cancel)
    }
}

fn run(plan: &Plan, options: &WarmOptions, cancel: &Cancel) -> WarmReport {
    let roots = Arc::new(VolumeRoots::read().expect("mountinfo"));
    let progress = Arc::new(Progress::default());
    let report = execute(&Arc::new(plan.clone()), &roots, options, &progress, cancel);
    assert!(report.data.is_consistent(), "{report:#?}");
    assert!(report.blocks.is_consistent(), "{report:#?}");
    let names = report.names_warmed + report.names_gone + report.names_failed + report.names_left;
    assert_eq!(report.names_planned, names, "{report:#?}");
    report
}

fn volume(path: &Path) -> Volume {
    Volume {
        id: VolumeId("path:test".to_owned()),
        fs_type: String::new(),
        mount_point: path.as_os_str().as_bytes().to_vec(),
    }
}

fn write(path: &Path, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
    std::fs::write(path, data).expect("write");
}

fn version(path: &Path) -> FileVersion {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).expect("metadata");
    FileVersion {
        size: meta.size(),
        mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
    }
}

/// Writes everything back and empties the page cache; `false` where that is
/// not allowed.
fn drop_caches() -> bool {
    rustix::fs::sync();
    match std::fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIPPED: can't drop caches: {error}");
            false
        }
    }
}

/// Resident pages, by the tool that everyone uses for it.
fn resident(path: &Path) -> Vec<bool> {
    let file = File::open(path).expect("open");
    let pages = file.metadata().expect("metadata").len().div_ceil(PAGE_SIZE) as usize;
    if pages == 0 {
        return Vec::new();
    }
    let mut vector = vec![0u8; pages];
    // SAFETY: a fresh mapping of the file that is asked about and dropped, never
    // accessed; the vector has one byte for each of its pages.
    unsafe {
        let length = pages * PAGE_SIZE as usize;
        let map = rustix::mm::mmap(
            std::ptr::null_mut(),
            length,
            rustix::mm::ProtFlags::empty(),
            rustix::mm::MapFlags::SHARED,
            &file,
            0,
        )
        .expect("mmap");
        assert_eq!(libc::mincore(map, length, vector.as_mut_ptr()), 0);
        rustix::mm::munmap(map, length).expect("munmap");
    }
    vector.iter().map(|&r| r & 1 == 1).collect()
}

fn count(vector: &[bool]) -> u64 {
    vector.iter().filter(|&&r| r).count() as u64
}

#[test]
fn exactly_the_planned_pages_become_resident() {
    let mut f = Fixture::new();
    let path = f.write("data", 8 << 20);
    f.read(
        "data",
        &[(0, 3), (100, 40), (1000, 1), (1500, 548), (500, 300)],
    );
    if !drop_caches() {
        return;
    }
    let report = f.run();
    assert!(report.is_complete() && report.verified, "{report:#?}");
    assert_eq!(report.data.read, (3 + 40 + 1 + 548 + 300) * PAGE_SIZE);
    let seen = resident(&path);
    for (page, &resident) in seen.iter().enumerate() {
        let planned = [(0, 3), (100, 140), (1000, 1001), (1500, 2048), (500, 800)]
            .iter()
            .any(|&(from, to)| page >= from && page < to);
        assert_eq!(resident, planned, "page {page}");
    }
    // Again: nothing left to read, whichever way the ranges are cut.
    f.plan.actions.reverse();
    let again = f.run();
    assert_eq!(again.data.resident_before, report.data.planned);
    assert_eq!(again.data.read, 0);
}

#[test]
fn partly_resident_ranges_are_completed() {
    let mut f = Fixture::new();
    let path = f.write("data", 1 << 20);
    f.read("data", &[(0, 256)]);
    if !drop_caches() {
        return;
    }
    let file = File::open(&path).expect("open");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("random");
    for page in (0..256).step_by(3) {
        file.read_exact_at(&mut [0], page * PAGE_SIZE)
            .expect("read");
    }
    let before = count(&resident(&path)) * PAGE_SIZE;
    let report = f.run();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(report.data.resident_before, before);
    assert_eq!(count(&resident(&path)), 256);
}

#[test]
fn what_is_no_regular_file_is_never_opened() {
    let mut f = Fixture::new();
    let fifo = f.path("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(f.path("socket")).expect("bind");
    std::fs::create_dir(f.path("dir")).expect("dir");
    symlink("/etc/hostname", f.path("link")).expect("link");
    for name in ["fifo", "socket", "dir", "link"] {
        f.read_version(name.as_bytes(), FileVersion::default(), &[(0, 4)]);
    }
    let device = Command::new("mknod")
        .args([
            f.path("null").as_os_str(),
            "c".as_ref(),
            "1".as_ref(),
            "3".as_ref(),
        ])
        .status();
    let mut refused = 4;
    if device.is_ok_and(|s| s.success()) {
        f.read_version(b"null", FileVersion::default(), &[(0, 4)]);
        refused += 1;
    }
    let started = Instant::now();
    let report = f.run();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(report.data.failed, refused * 4 * PAGE_SIZE, "{report:#?}");
    assert_eq!(report.files_failed, refused);
    let kinds: Vec<_> = report.failures.iter().map(|f| f.kind).collect();
    assert!(
        kinds.iter().all(|&k| k == FailureKind::NotRegular),
        "{report:#?}"
    );
    // Nobody reads from the FIFO: opening it for writing says so.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let open = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty());
    assert_eq!(open.map(drop), Err(rustix::io::Errno::NXIO));
}

#[test]
fn no_way_out_of_the_volume() {
    let mut f = Fixture::new();
    std::fs::create_dir(f.path("volume")).expect("dir");
    f.write("secret", 1 << 16);
    symlink("..", f.path("volume/up")).expect("link");
    symlink("../secret", f.path("volume/secret")).expect("link");
    symlink(f.path("secret"), f.path("volume/absolute")).expect("link");
    f.plan.volumes = vec![volume(&f.path("volume"))];
    for name in [&b"up/secret"[..], b"secret", b"absolute"] {
        f.read_version(name, FileVersion::default(), &[(0, 16)]);
    }
    f.name(b"up/secret", NameKind::File, false);
    f.name(b"up", NameKind::Symlink, false);
    assert!(RelPath::new(&b"../secret"[..]).is_err());
    if !drop_caches() {
        return;
    }
    let report = f.run();
    assert_eq!(report.data.failed, report.data.planned, "{report:#?}");
    assert_eq!((report.names_warmed, report.names_failed), (1, 1));
    assert_eq!(count(&resident(&f.path("secret"))), 0);
}

#[test]
fn files_that_changed_since_they_were_profiled() {
    let mut f = Fixture::new();
    for name in ["shrunk", "gone", "replaced", "same", "empty"] {
        f.write(name, 64 << 10);
        f.read(name, &[(0, 8), (8, 8)]);
    }
    // Plans may ask for what never existed.
    f.read("same", &[(16, 5), (u64::MAX - 1, 3), (3, 0)]);
    File::options()
        .write(true)
        .open(f.path("shrunk"))
        .and_then(|file| file.set_len(5 * PAGE_SIZE + 1))
        .expect("shrink");
    std::fs::remove_file(f.path("gone")).expect("remove");
    f.write("new", 80 << 10);
    std::fs::rename(f.path("new"), f.path("replaced")).expect("rename");
    f.write("empty", 0);
    if !drop_caches() {
        return;
    }
    let report = f.run();
    assert_eq!(report.files_missing, 1, "{report:#?}");
    assert_eq!(report.files_changed, 3, "{report:#?}");
    let pages = |n: u64| n * PAGE_SIZE;
    assert_eq!(report.data.gone, pages(10 + 16 + 16 + 8), "{report:#?}");
    assert_eq!(report.data.read, pages(6 + 16 + 16), "{report:#?}");
    assert!(report.failures.is_empty());
}

#[test]
fn a_broken_plan_is_no_panic() {
    let mut f = Fixture::new();
    f.write("data", 4096);
    f.read("data", &[(0, 1)]);
    f.plan.files.push(PlanFile {
        volume: 77,
        path: RelPath::root(),
        version: FileVersion::default(),
    });
    let read = |file| Action::Read {
        file,
        start_page: 0,
        pages: u32::MAX,
        gap_pages: 0,
        certain: false,
    };
    f.plan.actions.extend([
        read(1),
        read(9),
        Action::Name { name: 12 },
        Action::Blocks {
            volume: 5,
            start_page: u64::MAX,
            pages: u32::MAX,
        },
        Action::Blocks {
            volume: 0,
            start_page: 0,
            pages: 1,
        },
    ]);
    f.name(b"data", NameKind::File, false);
    if let Some(name) = f.plan.names.last_mut() {
        name.volume = 3;
    }
    let report = f.run();
    assert_eq!(report.data.failed, 2 * u64::from(u32::MAX) * PAGE_SIZE);
    assert_eq!(report.names_failed, 2);
    assert_eq!(report.blocks.failed, report.blocks.planned);
    assert!(
        report
            .failures
            .iter()
            .any(|f| f.kind == FailureKind::NoDevice)
    );
}

#[test]
fn cancel_and_deadline_leave_the_rest() {
    let mut f = Fixture::new();
    for i in 0..16 {
        let name = format!("data{i}");
        f.write(&name, 16 << 20);
        f.read(&name, &[(0, 4096)]);
    }
    f.name(b"data0", NameKind::File, false);
    if !drop_caches() {
        return;
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let report = f.run_with(&WarmOptions::default(), &cancel);
    assert!(report.cancelled && !report.verified);
    assert_eq!(report.data.left, report.data.planned);
    assert_eq!(report.names_left, 1);

    let options = WarmOptions {
        deadline: Some(Instant::now() + Duration::from_millis(20)),
        ..WarmOptions::default()
    };
    let started = Instant::now();
    let report = f.run_with(&options, &Cancel::new());
    assert!(
        started.elapsed() < Duration::from_millis(600),
        "{:?}",
        started.elapsed()
    );
    assert!(report.deadline_reached && !report.cancelled, "{report:#?}");
    assert!(report.data.left > 0 && report.data.read > 0, "{report:#?}");

    assert!(drop_caches());
    let cancel = Cancel::new();
    let puller = cancel.clone();
    let pull = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(15));
        puller.cancel();
    });
    let report = f.run_with(&WarmOptions::default(), &cancel);
    pull.join().expect("thread");
    assert!(report.cancelled && report.data.left > 0, "{report:#?}");
    // What it says it read is there.
    let resident: u64 = (0..16)
        .map(|i| count(&resident(&f.path(&format!("data{i}")))))
        .sum();
    assert!(resident * PAGE_SIZE >= report.data.read);
}

#[test]
fn names_of_every_kind() {
    let mut f = Fixture::new();
    std::fs::create_dir_all(f.path("a/b")).expect("dirs");
    for i in 0..500 {
        std::fs::write(f.path(&format!("a/b/{i}")), b"").expect("file");
    }
    symlink("x".repeat(200), f.path("a/link")).expect("link");
    let odd = b"a/\xff \n\x1b[31m\xe2\x80\xae";
    std::fs::write(f.dir.path().join(std::ffi::OsStr::from_bytes(odd)), b"").expect("odd");
    f.name(b"", NameKind::Directory, true);
    f.name(b"a/b", NameKind::Directory, true);
    f.name(b"a/b/7", NameKind::File, false);
    f.name(b"a/link", NameKind::Symlink, false);
    f.name(odd, NameKind::File, false);
    f.name(b"a/missing", NameKind::Missing, false);
    f.name(b"a/b/7/below", NameKind::Missing, false);
    f.name(b"a/vanished", NameKind::File, false);
    f.name(b"a/b/8", NameKind::Missing, false);
    let long = vec![b'x'; 5000];
    f.name(&long, NameKind::File, false);
    let report = f.run();
    assert_eq!(report.names_warmed, 7, "{report:#?}");
    assert_eq!(report.names_gone, 2, "{report:#?}");
    assert_eq!(report.names_failed, 1, "{report:#?}");

    let options = WarmOptions {
        metadata: false,
        ..WarmOptions::default()
    };
    assert_eq!(f.run_with(&options, &Cancel::new()).names_planned, 0);
}

/// Sectors read from the disk below `path` so far, by anyone.
fn sectors_read(path: &Path) -> Option<u64> {
    let dev = rustix::fs::stat(path).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_ascii_whitespace().nth(2)?.parse().ok()
}

#[test]
fn a_second_look_reads_nothing() {
    let mut f = Fixture::new();
    // A disk that nobody else uses.
    let Some(disk) = Loop::new(&f, 64) else {
        return;
    };
    f.plan.volumes = vec![volume(&disk.mount)];
    let many = disk.mount.join("many");
    std::fs::create_dir(&many).expect("dir");
    for i in 0..3000 {
        std::fs::write(many.join(format!("{i}")), b"").expect("file");
    }
    f.name(b"many", NameKind::Directory, true);
    for i in 0..3000 {
        f.name(format!("many/{i}").as_bytes(), NameKind::File, false);
        f.name(format!("many/no{i}").as_bytes(), NameKind::Missing, false);
    }
    // Not enough to drop caches: the journal holds on to new metadata.
    disk.remount();
    let cold = sectors_read(&disk.mount).expect("disk statistics");
    assert_eq!(f.run().names_warmed, 6001);
    let warm = sectors_read(&disk.mount).expect("disk statistics");
    assert!(warm > cold);
    for i in 0..3000 {
        assert!(many.join(format!("{i}")).exists());
        assert!(!many.join(format!("no{i}")).exists());
    }
    assert_eq!(sectors_read(&disk.mount), Some(warm));
}

#[test]
fn twenty_thousand_small_files_with_few_descriptors() {
    let mut f = Fixture::new();
    // Removing so many files can take a minute; an image goes at once.
    let disk = Loop::new(&f, 256);
    let dir = disk.as_ref().map_or(f.dir.path(), |d| &d.mount).to_owned();
    f.plan.volumes = vec![volume(&dir)];
    for i in 0..20_000u64 {
        let name = format!("{i}");
        let path = dir.join(&name);
        write(&path, 3000);
        f.read_version(name.as_bytes(), version(&path), &[(0, 1)]);
    }
    // Files come interleaved.
    let mut later = f.plan.actions.clone();
    f.plan.actions.append(&mut later);
    if !drop_caches() {
        return;
    }
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit {
        current: Some(256),
        ..before
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).expect("limit");
    let report = f.run();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).expect("limit");
    eprintln!(
        "{:.2} s + {:.2} s",
        report.warm_seconds, report.verify_seconds
    );
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(
        report.data.read + report.data.resident_before,
        40_000 * PAGE_SIZE
    );
    assert!(report.data.read >= 20_000 * PAGE_SIZE);
    assert!(
        (0..20_000)
            .step_by(997)
            .all(|i| resident(&dir.join(format!("{i}"))) == [true])
    );
}

#[test]
fn holes_are_read_as_zeros() {
    let mut f = Fixture::new();
    let path = f.path("sparse");
    let file = File::create(&path).expect("create");
    file.set_len(64 << 20).expect("extend");
    file.write_all_at(&[1; 4096], 32 << 20).expect("write");
    f.read("sparse", &[(0, 2000), (8000, 400)]);
    if !drop_caches() {
        return;
    }
    let report = f.run();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(count(&resident(&path)), 2400);
}

#[test]
fn beside_a_start_the_same_is_done() {
    let mut f = Fixture::new();
    let path = f.write("data", 4 << 20);
    f.read("data", &[(0, 1024)]);
    if !drop_caches() {
        return;
    }
    let options = WarmOptions {
        lead: Lead::Beside,
        io_class: headstart::warm::IoClass::BestEffort(7),
        ..WarmOptions::default()
    };
    let report = f.run_with(&options, &Cancel::new());
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(count(&resident(&path)), 1024);
}

/// A filesystem image on a loop device, mounted; gone when dropped.
struct Loop {
    device: String,
    mount: PathBuf,
}

impl Loop {
    fn new(f: &Fixture, mebibytes: u64) -> Option<Self> {
        let image = f.path("image");
        File::create(&image)
            .and_then(|i| i.set_len(mebibytes << 20))
            .expect("image");
        let mount = f.path("mount");
        std::fs::create_dir(&mount).expect("dir");
        let mut made = Command::new("mkfs.ext4");
        made.args(["-q", "-E", "nodiscard,lazy_itable_init=0", "-i", "4096"])
            .arg(&image);
        let output = |c: &mut Command| -> Option<String> {
            let output = c.output().ok()?;
            if !output.status.success() {
                eprintln!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr));
                return None;
            }
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        output(&mut made)?;
        let device = output(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(&image),
        )?;
        let this = Self { device, mount };
        output(Command::new("mount").arg(&this.device).arg(&this.mount))?;
        Some(this)
    }

    fn remount(&self) {
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

#[test]
fn a_volume_is_found_by_id_and_its_blocks_are_read() {
    let mut f = Fixture::new();
    let Some(disk) = Loop::new(&f, 64) else {
        return;
    };
    write(&disk.mount.join("data"), 1 << 20);
    let mounts = headstart::attribute::mountinfo::read().expect("mountinfo");
    let mount =
        headstart::attribute::mountinfo::covering(&mounts, disk.mount.as_os_str().as_bytes())
            .expect("mounted");
    let mut volume = headstart::attribute::volume::identify(mount);
    assert!(volume.id.0.starts_with("uuid:"), "{volume:?}");
    volume.mount_point = b"/it/was/elsewhere".to_vec();
    f.plan.volumes = vec![volume];
    f.read_version(b"data", version(&disk.mount.join("data")), &[(0, 256)]);
    f.plan.actions.push(Action::Blocks {
        volume: 0,
        start_page: 8000,
        pages: 700,
    });
    f.plan.actions.push(Action::Blocks {
        volume: 0,
        start_page: (64 << 20) / PAGE_SIZE - 10,
        pages: 20,
    });
    if !drop_caches() {
        return;
    }
    let report = f.run();
    assert_eq!(report.data.read, 1 << 20, "{report:#?}");
    assert_eq!(report.blocks.gone, 10 * PAGE_SIZE, "{report:#?}");
    assert_eq!(
        report.blocks.read + report.blocks.resident_before,
        710 * PAGE_SIZE,
        "{report:#?}"
    );
    assert!(report.failures.is_empty() && report.files_changed == 0);
}

#[test]
fn pages_that_cannot_be_read_are_named() {
    let mut f = Fixture::new();
    let Some(disk) = Loop::new(&f, 64) else {
        return;
    };
    write(&disk.mount.join("data"), 24 << 20);
    f.plan.volumes = vec![volume(&disk.mount)];
    let version = version(&disk.mount.join("data"));
    f.read_version(b"data", version, &[(0, 3000), (3000, 3144)]);
    if !drop_caches() {
        return;
    }
    // The disk loses its end.
    File::options()
        .write(true)
        .open(f.path("image"))
        .and_then(|image| image.set_len(12 << 20))
        .expect("truncate");
    assert!(drop_caches());
    let report = f.run();
    assert!(
        report.data.failed > 0 && report.data.read > 0,
        "{report:#?}"
    );
    assert_eq!(report.data.failed + report.data.read, report.data.planned);
    let failure = report.failures.first().expect("named");
    assert_eq!(failure.kind, FailureKind::Read);
    assert_eq!(failure.path, "data");
    let named: u64 = report.failures.iter().map(|f| f.bytes).sum();
    if report.failures_unnamed == 0 {
        assert_eq!(named, report.data.failed, "{report:#?}");
    }
    assert_eq!(
        count(&resident(&disk.mount.join("data"))) * PAGE_SIZE,
        report.data.read
    );
}

/// Set in the child that has its own mount namespace.
const OVERLAY_CHILD: &str = "HEADSTART_TEST_OVERLAY";

#[test]
fn overlay_files_fill_the_lower_layer() {
    if std::env::var_os(OVERLAY_CHILD).is_none() {
        let this = std::env::current_exe().expect("exe");
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(this)
            .args([
                "--exact",
                "overlay_files_fill_the_lower_layer",
                "--nocapture",
            ])
            .env(OVERLAY_CHILD, "1")
            .status();
        match status {
            Ok(status) if status.code() == Some(1) => eprintln!("SKIPPED: no mount namespace"),
            Ok(status) => assert!(status.success(), "{status}"),
            Err(error) => eprintln!("SKIPPED: unshare: {error}"),
        }
        return;
    }
    let mut f = Fixture::new();
    for dir in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(f.path(dir)).expect("dir");
    }
    let lower = f.write("lower/data", 2 << 20);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        f.path("lower").display(),
        f.path("upper").display(),
        f.path("work").display()
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay"])
        .arg(f.path("merged"))
        .status()
        .expect("mount");
    if !mounted.success() || !drop_caches() {
        eprintln!("SKIPPED: no overlay mounts here");
        return;
    }
    f.plan.volumes = vec![volume(&f.path("merged"))];
    f.read("merged/data", &[(0, 100), (200, 312)]);
    f.plan.files[0].path = RelPath::new(&b"data"[..]).expect("valid");
    let report = f.run();
    assert!(report.is_complete(), "{report:#?}");
    assert_eq!(count(&resident(&lower)), 412);
    assert_eq!(report.data.read, 412 * PAGE_SIZE);
    let again = f.run();
    assert_eq!(again.data.resident_before, again.data.planned, "{again:#?}");
    assert!(again.verified);
}

/// A filesystem whose server never answers.
struct Dead {
    mount: PathBuf,
    connection: Option<File>,
}

impl Dead {
    fn new(f: &Fixture) -> Option<Self> {
        use std::os::fd::AsRawFd;
        let mount = f.path("dead");
        std::fs::create_dir(&mount).expect("dir");
        let skip =
            |error: &dyn std::fmt::Display| eprintln!("SKIPPED: no FUSE mounts here: {error}");
        let connection = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .inspect_err(|e| skip(e))
            .ok()?;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            connection.as_raw_fd()
        );
        let data = std::ffi::CString::new(data).expect("no NUL");
        rustix::mount::mount(
            "dead",
            &mount,
            "fuse",
            rustix::mount::MountFlags::empty(),
            Some(data.as_c_str()),
        )
        .inspect_err(|e| skip(e))
        .ok()?;
        Some(Self {
            mount,
            connection: Some(connection),
        })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Ends whoever waits for it.
        drop(self.connection.take());
        let detach = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.mount, detach).expect("unmount");
    }
}

#[test]
fn a_dead_mount_costs_itself_only() {
    let mut f = Fixture::new();
    let path = f.write("data", 4 << 20);
    let Some(dead) = Dead::new(&f) else { return };
    f.plan.volumes.push(Volume {
        id: VolumeId("path:dead".to_owned()),
        ..volume(&dead.mount)
    });
    for name in [&b"a"[..], b"b", b"c", b"d", b"e"] {
        f.read_version(name, FileVersion::default(), &[(0, 8)]);
        f.plan.files.last_mut().expect("file").volume = 1;
    }
    f.read("data", &[(0, 1024)]);
    if !drop_caches() {
        return;
    }
    // Every thread meets the dead volume first; others take their place.
    let options = WarmOptions {
        stall: Duration::from_millis(300),
        threads: 3,
        ..WarmOptions::default()
    };
    let report = f.run_with(&options, &Cancel::new());
    assert_eq!(report.data.read, 4 << 20, "{report:#?}");
    assert_eq!(report.data.left, 5 * 8 * PAGE_SIZE, "{report:#?}");
    assert_eq!(report.stuck_threads, 3, "{report:#?}");
    assert_eq!(report.stuck_volumes, ["path:dead"]);
    assert_eq!(count(&resident(&path)), 1024);

    // The deadline holds too.
    let options = WarmOptions {
        deadline: Some(Instant::now() + Duration::from_millis(100)),
        threads: 3,
        ..WarmOptions::default()
    };
    let started = Instant::now();
    let report = f.run_with(&options, &Cancel::new());
    assert!(
        started.elapsed() < Duration::from_millis(600),
        "{:?}",
        started.elapsed()
    );
    assert!(
        report.deadline_reached && report.stuck_threads == 3,
        "{report:#?}"
    );
    assert_eq!(report.stuck_volumes, ["path:dead"]);
}
