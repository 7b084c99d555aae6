//! Volumes: block devices, overlays, mounts that never answer.

use super::support::*;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use headstart::attribute::mountinfo::{Mount, Table};
use headstart::model::{Action, FileVersion, PAGE_SIZE, RelPath, Volume, VolumeId};
use headstart::warm::{Cancel, FailureKind, WarmOptions};

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
    // The UUID itself is told by Linux 6.9 or by udev; folded it is in `f_fsid`.
    let mut told = ["uuid:", "fsid:"].iter();
    assert!(told.any(|kind| volume.id.0.starts_with(kind)), "{volume:?}");
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
    // What failed does not look as if it were there now.
    let again = f.run();
    assert_eq!(again.data.failed, report.data.failed, "{again:#?}");
    assert_eq!(again.data.resident_before, report.data.read, "{again:#?}");
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
                "volumes::overlay_files_fill_the_lower_layer",
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

#[test]
fn the_mount_table_is_read_again_where_it_has_changed() {
    let f = Fixture::new();
    let mut table = Table::default();
    let before = table.now().expect("mountinfo");
    let Some(disk) = Loop::new(&f, 16) else {
        return;
    };
    let point = disk.mount.as_os_str().as_bytes().to_vec();
    let is_there = |mounts: &[Mount]| mounts.iter().any(|mount| mount.mount_point == point);
    assert!(!is_there(&before));
    assert!(is_there(&table.now().expect("mountinfo")));
    // Other tests mount something too, but not all the time.
    let until = Instant::now() + Duration::from_secs(30);
    let is_shared = |table: &mut Table| {
        let (a, b) = (
            table.now().expect("mountinfo"),
            table.now().expect("mountinfo"),
        );
        std::sync::Arc::ptr_eq(&a, &b)
    };
    while !is_shared(&mut table) {
        assert!(Instant::now() < until, "read again each time");
    }
    drop(disk);
    assert!(!is_there(&table.now().expect("mountinfo")));
}
