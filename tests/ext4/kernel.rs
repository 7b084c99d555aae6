//! Against the kernel: which pages of the device it reads, and that having
//! read them beforehand leaves it nothing to read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use headstart::attribute::ext4::{DeviceSource, Ext4, InodeNeed, Metadata, Need};
use headstart::model::PAGE_SIZE;

use super::cachestat::cached_pages;
use super::support::{name, pages_found, run};

/// Files in the large directory.
const NAMES: usize = 20_000;
/// Pages of the fragmented file.
const FRAGMENTS: u64 = 900;

/// A loop device, freed when dropped.
struct Loop(PathBuf);

impl Loop {
    /// `None` where there is none to be had.
    fn attach(image: &Path) -> Option<Self> {
        let out = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(image)
            .output()
            .ok()?;
        let path = String::from_utf8(out.stdout).ok()?;
        out.status
            .success()
            .then(|| Self(PathBuf::from(path.trim())))
    }

    /// Reads completed since boot.
    fn reads(&self) -> u64 {
        let device = self.0.file_name().expect("name").to_str().expect("text");
        let stat = std::fs::read_to_string(format!("/sys/block/{device}/stat")).expect("stat");
        stat.split_whitespace()
            .next()
            .and_then(|reads| reads.parse().ok())
            .expect("reads")
    }

    /// Pages of the device that are in its page cache; `None` where the kernel
    /// can't tell (`cachestat` came with Linux 6.5).
    ///
    /// `mincore` won't do: it counts only pages that are valid as a whole, and
    /// a filesystem validates just the block that it read.
    fn cached(&self) -> Option<BTreeSet<u64>> {
        let device = File::open(&self.0).expect("device");
        let end = rustix::fs::seek(&device, rustix::fs::SeekFrom::End(0)).expect("length");
        let mut cached = BTreeSet::new();
        for page in 0..end.div_ceil(PAGE_SIZE) {
            match cached_pages(&device, page * PAGE_SIZE, PAGE_SIZE) {
                Ok(0) => {}
                Ok(_) => _ = cached.insert(page),
                Err(error) => {
                    eprintln!("skipped: cachestat: {error}");
                    return None;
                }
            }
        }
        Some(cached)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A mounted device, unmounted when dropped.
struct Mount<'d> {
    at: &'d Path,
}

impl<'d> Mount<'d> {
    fn new(device: &Loop, at: &'d Path, options: &str) -> io::Result<Self> {
        let out = Command::new("mount")
            .args(["-t", "ext4", "-o", options])
            .arg(&device.0)
            .arg(at)
            .output()?;
        if out.status.success() {
            Ok(Self { at })
        } else {
            Err(io::Error::other(format!("{out:?}")))
        }
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.at).status();
    }
}

/// Fills a mounted filesystem.
fn populate(root: &Path) {
    std::fs::create_dir_all(root.join("d/deep/er")).expect("mkdir");
    for i in 0..NAMES {
        File::create(root.join("d").join(OsStr::from_bytes(&name(i)))).expect("file");
    }
    for i in 0..30 {
        std::fs::write(root.join(format!("d/deep/er/f{i}")), b"data").expect("file");
    }
    symlink("y".repeat(300), root.join("slow")).expect("symlink");
    let file = File::create(root.join("frag")).expect("file");
    for i in 0..FRAGMENTS {
        file.write_all_at(&[1; PAGE_SIZE as usize], i * 2 * PAGE_SIZE)
            .expect("write");
    }
}

/// One thing to do with the filesystem.
enum Step {
    Stat(Vec<u8>),
    ReadLink(&'static str),
    List(&'static str),
    /// One page of a file; costs one read of its data.
    ReadPage(&'static str, u64),
}

fn steps() -> Vec<Step> {
    let in_d = |name: Vec<u8>| Step::Stat([b"d/".as_slice(), &name].concat());
    let mut steps: Vec<Step> = (0..NAMES).step_by(331).map(|i| in_d(name(i))).collect();
    steps.extend((0..40).map(|i| in_d(format!("missing{i}").into_bytes())));
    steps.push(Step::ReadLink("slow"));
    steps.extend([0, 17, 450, 899].map(|i| Step::ReadPage("frag", i * 2)));
    steps.push(Step::List("d/deep/er"));
    steps
}

/// Does the steps.
fn perform(root: &Path, steps: &[Step]) {
    for step in steps {
        match step {
            Step::Stat(path) => {
                let found = root.join(OsStr::from_bytes(path)).symlink_metadata();
                assert_eq!(found.is_err(), path.starts_with(b"d/missing"));
            }
            Step::ReadLink(path) => {
                std::fs::read_link(root.join(path)).expect("readlink");
            }
            Step::List(path) => {
                assert!(std::fs::read_dir(root.join(path)).expect("list").count() > 0);
            }
            Step::ReadPage(path, page) => {
                let file = File::open(root.join(path)).expect("open");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("fadvise");
                let mut bytes = [0; PAGE_SIZE as usize];
                file.read_exact_at(&mut bytes, page * PAGE_SIZE)
                    .expect("read");
                assert_eq!(bytes[0], 1);
            }
        }
    }
}

/// What the steps need: all names on each path, from the root on.
fn needs<'s>(root: &Path, steps: &'s [Step]) -> Vec<InodeNeed<'s>> {
    let mut out = Vec::new();
    for (time, step) in steps.iter().enumerate() {
        let (path, last) = match step {
            Step::Stat(path) => (path.as_slice(), Need::Inode),
            Step::ReadLink(path) => (path.as_bytes(), Need::ReadLink),
            Step::List(path) => (path.as_bytes(), Need::List),
            Step::ReadPage(path, page) => (
                path.as_bytes(),
                Need::Read {
                    start_page: *page,
                    pages: 1,
                },
            ),
        };
        let mut push = |ino, need| {
            out.push(InodeNeed {
                ino,
                need,
                first_use_ns: time as u64,
            })
        };
        let mut at = root.to_owned();
        for component in path.split(|&byte| byte == b'/') {
            let directory = at.symlink_metadata().expect("directory").ino();
            push(directory, Need::Search(component));
            at.push(OsStr::from_bytes(component));
        }
        if let Ok(found) = at.symlink_metadata() {
            push(found.ino(), last);
        }
    }
    out
}

/// Runs `test` on a populated filesystem that is mounted read-only and cold.
fn with_layouts(test: impl Fn(&Layout<'_>)) {
    let layouts: [&[&str]; 5] = [
        &["-b", "4096"],
        &["-b", "1024"],
        &["-b", "2048", "-O", "^64bit,^flex_bg,^extent"],
        &["-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"],
        &["-b", "4096", "-I", "1024", "-O", "inline_data,large_dir"],
    ];
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for options in layouts {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        std::fs::create_dir(&mount).expect("mkdir");
        let args = ["-q", "-F", "-N", "30000"]
            .iter()
            .chain(options)
            .map(OsStr::new);
        let args: Vec<&OsStr> = args
            .chain([image.as_os_str(), OsStr::new("200M")])
            .collect();
        run("mkfs.ext4", &args);
        let Some(device) = Loop::attach(&image) else {
            eprintln!("skipped: no loop device");
            return;
        };
        match Mount::new(&device, &mount, "rw") {
            Ok(mounted) => populate(mounted.at),
            Err(error) => {
                eprintln!("skipped {options:?}: can't mount: {error}");
                continue;
            }
        }
        drop(device);
        let steps = steps();
        let found = {
            let device = Loop::attach(&image).expect("loop device");
            let mounted = Mount::new(&device, &mount, "ro,noload").expect("mount");
            let source = DeviceSource::open(&device.0).expect("device");
            let fs = Ext4::open(&source).expect("ext4");
            let needs = needs(mounted.at, &steps);
            let started = std::time::Instant::now();
            let found = fs.metadata_pages(0, &needs);
            eprintln!(
                "{options:?}: {} needs, {} pages in {} touches, {:?}",
                needs.len(),
                found.pages(),
                found.touches.len(),
                started.elapsed()
            );
            found
        };
        // Freed and attached anew, the device has no pages in memory.
        let device = Loop::attach(&image).expect("loop device");
        let mounted = Mount::new(&device, &mount, "ro,noload").expect("mount");
        test(&Layout {
            device: &device,
            root: mounted.at,
            steps: &steps,
            found: &found,
        });
    }
}

struct Layout<'l> {
    device: &'l Loop,
    root: &'l Path,
    steps: &'l [Step],
    found: &'l Metadata,
}

#[test]
fn the_kernel_reads_what_was_foretold() {
    with_layouts(|layout| {
        let Some(before) = layout.device.cached() else {
            return;
        };
        let reads = layout.device.reads();
        perform(layout.root, layout.steps);
        let reads = layout.device.reads() - reads;
        let after = layout.device.cached().expect("as before");
        let foretold = pages_found(layout.found);
        let idle: Vec<_> = foretold.difference(&after).collect();
        eprintln!(
            "  cold: {reads} reads, {} pages more in memory",
            after.difference(&before).count()
        );
        assert!(idle.is_empty(), "foretold but not read: {idle:?}");
    });
}

#[test]
fn after_reading_what_was_foretold_look_ups_read_nothing() {
    with_layouts(|layout| {
        let device = DeviceSource::open(&layout.device.0).expect("device");
        let before = layout.device.reads();
        for touch in &layout.found.touches {
            let mut bytes = vec![0; touch.pages as usize * PAGE_SIZE as usize];
            let offset = touch.start_page * PAGE_SIZE;
            headstart::attribute::ext4::BlockSource::read_at(&device, offset, &mut bytes)
                .expect("read");
        }
        let warmed = layout.device.reads();
        perform(layout.root, layout.steps);
        let after = layout.device.reads();
        // Data of files is not metadata.
        let data = layout
            .steps
            .iter()
            .filter(|step| matches!(step, Step::ReadPage(..)))
            .count();
        eprintln!(
            "  {} reads to warm, {} after",
            warmed - before,
            after - warmed
        );
        assert_eq!(after - warmed, data as u64);
    });
}
