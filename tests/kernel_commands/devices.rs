//! Warming from disks that fail or take their time: device mapper targets under ext4.

use crate::residency::resident_pages;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::scene::{Scene, end, json, stdout};
use crate::tools;

const PAGE: usize = 4096;
/// Sectors in a page.
const SECTORS: u64 = 8;
const MIB: u64 = 1 << 20;
/// Of the disk.
const SIZE: u64 = 64 * MIB;

/// ext4 on a device mapper device over a loop device; gone when dropped.
struct Mapped {
    name: String,
    loop_device: String,
    image: PathBuf,
    mount: PathBuf,
}

fn dmsetup(args: &[&str]) -> Option<String> {
    let quiet = ["--noudevrules", "--noudevsync"];
    tools::prepare("dmsetup", &[&quiet[..], args].concat())
}

impl Mapped {
    /// `None`, and why, where there is no device mapper.
    fn new(scene: &Scene, targets: &[&str]) -> Option<Self> {
        if let Err(error) = fs::metadata("/dev/mapper/control") {
            eprintln!("SKIPPED: no device mapper: {error}");
            return None;
        }
        let known = dmsetup(&["targets"])?;
        for target in targets {
            if !known.lines().any(|line| line.starts_with(target)) {
                eprintln!("SKIPPED: no device mapper target {target}");
                return None;
            }
        }
        let image = scene.path("image");
        let file = File::create(&image).expect("image");
        file.set_len(SIZE).expect("room");
        let mount = scene.path("mount");
        fs::create_dir(&mount).expect("dir");
        let path = image.to_str().expect("text");
        tools::prepare("mkfs.ext4", &["-q", "-b", "4096", "-E", "nodiscard", path])?;
        let disk = Self {
            name: format!("headstart-test-{}", std::process::id()),
            loop_device: tools::prepare("losetup", &["--find", "--show", path])?,
            image,
            mount,
        };
        dmsetup(&["create", &disk.name, "--table", &disk.linear(0, SIZE / 512)])?;
        // Nobody but udev would make the name below /dev/mapper.
        let minor = dmsetup(&["info", "-c", "--noheadings", "-o", "minor", &disk.name])?;
        let device = format!("/dev/dm-{minor}");
        tools::prepare("mount", &[&device, disk.mount.to_str().expect("text")])?;
        Some(disk)
    }

    /// A part of the disk as it is.
    fn linear(&self, from: u64, to: u64) -> String {
        format!("{from} {} linear {} {from}", to - from, self.loop_device)
    }

    /// All of the disk through a target; `rest` is what follows its offset.
    fn all_through(&self, target: &str, rest: &str) -> String {
        format!("0 {} {target} {} 0 {rest}", SIZE / 512, self.loop_device)
    }

    /// Changes what is under the mounted file system.
    fn become_table(&self, table: &str) {
        let args = ["load", &self.name, "--table", table];
        assert!(dmsetup(&args).is_some(), "{table}");
        assert!(dmsetup(&["suspend", "--noflush", &self.name]).is_some());
        assert!(dmsetup(&["resume", &self.name]).is_some());
    }

    /// The disk with errors where these pages of a [`pattern`] file lie.
    fn with_errors(&self, pages: &[std::ops::Range<usize>]) -> String {
        let mut bad: Vec<u64> = Vec::new();
        let mut image = File::open(&self.image).expect("image");
        let mut block = [0; PAGE];
        for at in 0..SIZE / PAGE as u64 {
            image.read_exact(&mut block).expect("a block");
            let page = page_of(&block);
            if page.is_some_and(|page| pages.iter().any(|range| range.contains(&page))) {
                bad.push(at);
            }
        }
        let wanted: usize = pages.iter().map(std::ops::Range::len).sum();
        assert_eq!(bad.len(), wanted);
        let mut table = Vec::new();
        let mut at = 0;
        for block in bad {
            let from = block * SECTORS;
            if from > at {
                table.push(self.linear(at, from));
            }
            table.push(format!("{from} {SECTORS} error"));
            at = from + SECTORS;
        }
        table.push(self.linear(at, SIZE / 512));
        table.join("\n")
    }

    /// Writes a file whose blocks can be found on the disk, to which nothing is written
    /// from now on: a file system that can't write refuses to be read too.
    fn pattern(&self, name: &str, pages: usize) -> PathBuf {
        let path = self.mount.join(name);
        let data: Vec<u8> = (0..pages).flat_map(block_of).collect();
        fs::write(&path, data).expect("written");
        rustix::fs::sync();
        let mount = self.mount.to_str().expect("text");
        assert!(tools::prepare("mount", &["-o", "remount,ro", mount]).is_some());
        path
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Reads that wait end by the next table.
        let table = self.linear(0, SIZE / 512);
        let _ = dmsetup(&["load", &self.name, "--table", &table]);
        let _ = dmsetup(&["suspend", "--noflush", "--nolockfs", &self.name]);
        let _ = dmsetup(&["resume", &self.name]);
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        let _ = dmsetup(&["remove", "--retry", &self.name]);
        let _ = Command::new("losetup")
            .arg("-d")
            .arg(&self.loop_device)
            .status();
    }
}

const MARK: &[u8; 8] = b"headmark";

fn block_of(page: usize) -> Vec<u8> {
    let mut block = vec![7; PAGE];
    block[..8].copy_from_slice(MARK);
    block[8..16].copy_from_slice(&page.to_le_bytes());
    block
}

fn page_of(block: &[u8; PAGE]) -> Option<usize> {
    let (mark, rest) = block.split_first_chunk::<8>()?;
    let (page, _) = rest.split_first_chunk::<8>()?;
    (mark == MARK).then(|| usize::from_le_bytes(*page))
}

/// What `warm --json` says, and that it claims no more than is there.
fn warm(scene: &Scene, path: &Path, args: &[&str]) -> Value {
    let output = scene.run(&[&["--json", "warm", "p"][..], args].concat());
    let said = json(&output);
    let number = |key: &str| said[key].as_u64().expect("a number");
    let claimed = number("bytes_read") + number("bytes_resident_before");
    // The profile has pages of other files too: those of the programs that read it.
    let others: u64 = number("bytes_planned") - fs::metadata(path).expect("metadata").len();
    let there = resident_pages(path).iter().filter(|&&page| page).count() * PAGE;
    assert!(
        claimed <= there as u64 + others,
        "{there} are there: {said}"
    );
    assert_eq!(
        output.status.success(),
        said["complete"].as_bool().expect("a verdict"),
        "{said}"
    );
    said
}

/// Pages that a report says could not be read, in order.
fn failed(said: &Value, name: &str) -> Vec<usize> {
    let mut pages = Vec::new();
    for failure in said["report"]["failures"].as_array().expect("failures") {
        let path = failure["path"].as_str().expect("a path");
        assert_eq!(path, name, "{failure}");
        let error = failure["error"].as_str().expect("text");
        assert!(error.contains("Input/output error"), "{failure}");
        let from = failure["start_page"].as_u64().expect("a page") as usize;
        let bytes = failure["bytes"].as_u64().expect("bytes") as usize;
        pages.extend(from..from + bytes / PAGE);
    }
    pages.sort_unstable();
    pages
}

#[test]
fn extents_that_cannot_be_read_are_named() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(disk) = Mapped::new(&scene, &["error", "linear"]) else {
        return;
    };
    let path = disk.pattern("data", 1024);
    scene.record("p", "cat mount/data >/dev/null");
    let bad = [300..340, 700..701, 1023..1024];
    let bad_pages: Vec<usize> = bad.iter().cloned().flatten().collect();
    disk.become_table(&disk.with_errors(&bad));
    crate::scene::evict(&path);
    for _ in 0..2 {
        let said = warm(&scene, &path, &[]);
        assert_eq!(failed(&said, "data"), bad_pages, "{said}");
        assert_eq!(said["bytes_failed"], bad_pages.len() * PAGE, "{said}");
        assert_eq!(said["bytes_left"], 0, "{said}");
        let there = resident_pages(&path);
        for (page, &is_there) in there.iter().enumerate() {
            assert_eq!(is_there, !bad_pages.contains(&page), "page {page}");
        }
    }
    let text = stdout(&scene.run(&["warm", "p"]));
    assert!(
        text.contains("data: 163840 bytes at 1228800: Input/output error"),
        "{text}"
    );
    // What has been repaired is read.
    disk.become_table(&disk.linear(0, SIZE / 512));
    let said = warm(&scene, &path, &[]);
    assert_eq!(said["complete"], true, "{said}");
    assert_eq!(said["bytes_read"], bad_pages.len() * PAGE, "{said}");
}

#[test]
fn pages_that_another_failed_to_read_are_not_there() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(disk) = Mapped::new(&scene, &["error", "linear"]) else {
        return;
    };
    let path = disk.pattern("data", 64);
    scene.record("p", "cat mount/data >/dev/null");
    let warmed = warm(&scene, &path, &[]);
    assert_eq!(warmed["complete"], true, "{warmed}");
    disk.become_table(&disk.with_errors(&[0..32, 32..64]));
    crate::scene::evict(&path);
    let cat = end(Command::new("cat").arg(&path).stdout(Stdio::null()));
    assert!(!cat.status.success(), "{cat:?}");
    let said = warm(&scene, &path, &[]);
    assert_eq!(failed(&said, "data"), (0..64).collect::<Vec<_>>(), "{said}");
}

#[test]
fn a_disk_that_takes_its_time_is_not_waited_for_beyond_the_deadline() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(disk) = Mapped::new(&scene, &["delay", "linear"]) else {
        return;
    };
    let path = disk.pattern("data", 4096);
    scene.record("p", "cat mount/data >/dev/null");
    // Longer than any test takes: to wait for one read is to fail.
    disk.become_table(&disk.all_through("delay", "600000"));
    crate::scene::evict(&path);
    let mut warm = scene
        .headstart(["--json", "warm", "p", "--deadline", "1s"])
        .spawn()
        .expect("starts");
    tools::ended(&mut warm);
    let output = warm.wait_with_output().expect("ended");
    let said = json(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said["deadline_reached"], true, "{said}");
    assert_eq!(said["bytes_left"], 4096 * PAGE, "{said}");
    assert!(resident_pages(&path).iter().all(|&there| !there));

    // Nobody can be torn away from a look-up that waits for its block, so that the
    // process stays until the disk answers. What it has to say does not wait.
    headstart::run::drop_caches().expect("root can drop caches");
    let mut warm = scene
        .headstart(["--json", "warm", "p", "--deadline", "5s"])
        .spawn()
        .expect("starts");
    let said = tools::said(&mut warm);
    assert_eq!(said["deadline_reached"], true, "{said}");
    let left = said["bytes_left"].as_u64().expect("bytes");
    assert!(left >= 4096 * PAGE as u64, "{said}");
    disk.become_table(&disk.linear(0, SIZE / 512));
    assert_eq!(tools::ended(&mut warm).code(), Some(1));
}

#[test]
fn a_disk_that_fails_now_and_then_is_believed_only_what_is_there() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(disk) = Mapped::new(&scene, &["flakey", "linear"]) else {
        return;
    };
    let path = disk.pattern("data", 4096);
    scene.record("p", "cat mount/data >/dev/null");
    // A second of answers, a second of errors.
    disk.become_table(&disk.all_through("flakey", "1 1"));
    let mut failed_once = false;
    tools::until("a warming fails and a later one does not", || {
        crate::scene::evict(&path);
        let said = warm(&scene, &path, &[]);
        let pages = failed(&said, "data").len();
        assert_eq!(said["bytes_failed"], pages * PAGE, "{said}");
        failed_once |= pages > 0;
        failed_once && said["complete"] == true
    });
}
