//! Plain files, names, cancelling.

use super::support::*;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cachestat::cached_pages;
use headstart::model::{Action, DeviceCost, FileVersion, NameKind, PAGE_SIZE, PlanFile, RelPath};
use headstart::warm::{Cancel, FailureKind, Lead, WarmOptions};

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

/// In blocks of 2 MiB, where the kernel has them, and what is before and after those.
#[test]
fn a_long_run_is_read_to_its_end_and_no_further() {
    let mut f = Fixture::new();
    let path = f.write("data", 96 << 20);
    let whole = f.write("whole", (8 << 20) + 100);
    f.read("data", &[(512, 20_000)]);
    f.read("whole", &[(0, 2049)]);
    if !drop_caches() {
        return;
    }
    // Fast enough for that.
    let options = WarmOptions {
        cost: DeviceCost {
            bytes_per_s: 1e9,
            latency_ns: 1e3,
            ..DeviceCost::UNMEASURED
        },
        ..WarmOptions::default()
    };
    let report = f.run_with(&options, &Cancel::new());
    assert!(report.is_complete() && report.verified, "{report:#?}");
    assert_eq!(report.data.read, (20_000 + 2049) * PAGE_SIZE);
    let is_as_planned = || {
        for (page, &there) in resident(&path).iter().enumerate() {
            assert_eq!(there, (512..20_512).contains(&page), "page {page}");
        }
    };
    is_as_planned();
    assert_eq!(count(&resident(&whole)), 2049);
    // Of the end, which is no block, it is waited for the last page, which uses it.
    match used_pages(&whole, 2048) {
        Some(used) => assert_eq!(used, 0, "pages count as used before the program came"),
        None => eprintln!("SKIPPED: what /proc/kpageflags says: it can't be read"),
    }
    // Nor does who comes to it have more read ahead.
    let file = File::open(&path).expect("open");
    for page in 512..20_512 {
        let read = file.read_exact_at(&mut [0], page * PAGE_SIZE);
        read.expect("it is there");
    }
    match cached_pages(&file, 20_512 * PAGE_SIZE, 0) {
        Ok(more) => assert_eq!(more, 0, "pages after it are asked for"),
        Err(error) => eprintln!("SKIPPED: what is asked for after it: cachestat: {error}"),
    }
    is_as_planned();
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
    assert_eq!(report.blocks.skipped, PAGE_SIZE, "no device is no failure");
    let blocks = report.blocks;
    assert_eq!(blocks.failed + blocks.skipped, blocks.planned);
    assert_eq!(blocks.failed, u64::from(u32::MAX) * PAGE_SIZE);
    assert!(blocks.is_consistent());
    assert!(
        report
            .failures
            .iter()
            .all(|f| f.kind != FailureKind::NoDevice)
    );
    assert!(
        report
            .without_device
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
        started.elapsed() < Duration::from_secs(10),
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

#[test]
fn opening_a_file_serves_for_its_name() {
    let mut f = Fixture::new();
    for name in ["read", "not read", "now a directory", "gone"] {
        f.write(name, 4096);
        f.name(name.as_bytes(), NameKind::File, false);
        if name != "not read" {
            f.read(name, &[(0, 1)]);
        }
    }
    f.name(b"read", NameKind::File, false);
    f.name(b"read", NameKind::Missing, false);
    for name in ["now a directory", "gone"] {
        std::fs::remove_file(f.path(name)).expect("remove");
    }
    std::fs::create_dir(f.path("now a directory")).expect("dir");
    for lead in [Lead::Ahead, Lead::Beside] {
        let options = WarmOptions {
            lead,
            ..WarmOptions::default()
        };
        let report = f.run_with(&options, &Cancel::new());
        let names = (report.names_warmed, report.names_gone, report.names_failed);
        assert_eq!(names, (3, 3, 0), "{lead:?}: {report:#?}");
    }
    // A volume that is not here fails both.
    f.plan.volumes = vec![volume(&f.path("nowhere"))];
    let report = f.run();
    assert_eq!(
        (report.names_failed, report.names_left),
        (6, 0),
        "{report:#?}"
    );
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
