//! Starts over the link: how long, and where they read from.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::server::Served;
use crate::residency::resident_pages;
use crate::scene::{HEADSTART, MIB, Scene, end, json};
use crate::tools::until;

const ROUNDS: usize = 3;
/// Files of a directory, and how large each is.
const FILES: usize = 50;
const FILE: usize = 16 << 10;

/// A program, one large file, many small ones.
const START: &str = "./mount/program --version >/dev/null; cat mount/large >/dev/null; \
                     cat mount/small/* >/dev/null";

/// Puts at the server what [`START`] reads.
fn furnish(served: &Served) {
    fs::copy(HEADSTART, served.directory().join("program")).expect("copied");
    served.write("large", 4 * MIB);
    for at in 0..FILES {
        served.write(&format!("small/{at}"), FILE);
    }
    rustix::fs::sync();
}

fn start(scene: &Scene) -> Duration {
    let mut command = Command::new("sh");
    command.args(["-ec", START]).current_dir(scene.dir.path());
    let began = Instant::now();
    let output = end(&mut command);
    let took = began.elapsed();
    assert!(output.status.success(), "{output:?}");
    took
}

fn warm(scene: &Scene) -> Duration {
    let began = Instant::now();
    let output = scene.run(&["--json", "warm", "p"]);
    let took = began.elapsed();
    assert_eq!(output.status.code(), Some(0), "{}", json(&output));
    took
}

/// One of each kind in each round; medians are told.
#[derive(Default)]
struct Times {
    cold: Vec<Duration>,
    warming: Vec<Duration>,
    warmed: Vec<Duration>,
    hot: Vec<Duration>,
}

impl Times {
    fn tell(mut self, what: &str) {
        let mut median = |kind: fn(&mut Self) -> &mut Vec<Duration>| {
            let times = kind(&mut self);
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        };
        let cold = median(|times| &mut times.cold);
        let warming = median(|times| &mut times.warming);
        let warmed = median(|times| &mut times.warmed);
        let hot = median(|times| &mut times.hot);
        println!("fact {what}, cold: {:.0} ms", cold * 1e3);
        println!(
            "fact {what}, hot: {:.0} ms, cold {:.1} times that",
            hot * 1e3,
            cold / hot
        );
        println!(
            "fact {what}, warmed: {:.0} ms, cold {:.1} times that; warming took {:.0} ms",
            warmed * 1e3,
            cold / warmed,
            warming * 1e3
        );
    }
}

/// Rounds of starts; `cold_reads` is told how many reads a cold one sent.
fn measure(scene: &Scene, served: &Served, options: &str, cold_reads: impl Fn(u64)) -> Times {
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        served.forget();
        assert!(served.mount(options));
        times.cold.push(start(scene));
        cold_reads(served.reads());
        let before = served.reads();
        // Only when a file is opened again may the server delegate it, which saves asking.
        start(scene);
        times.hot.push(start(scene));
        assert_eq!(served.reads(), before);

        served.forget();
        assert!(served.mount(options));
        times.warming.push(warm(scene));
        let before = served.reads();
        times.warmed.push(start(scene));
        assert_eq!(served.reads(), before);
    }
    times
}

#[test]
fn a_warmed_start_sends_no_read() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(served) = Served::new(&scene) else {
        return;
    };
    furnish(&served);
    assert!(served.mount(""));
    scene.record("p", START);
    let times = measure(&scene, &served, "", |reads| assert!(reads > FILES as u64));
    times.tell("NFS");
}

/// The kernel's cache of remote files on a local disk, which it lets go of when the
/// descriptor is closed. What culls it when the disk is full is not needed here.
struct Cache {
    directory: std::path::PathBuf,
    _device: File,
}

impl Cache {
    /// `None`, and why, where there is none.
    fn new(scene: &Scene) -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/cachefiles");
        let mut device = match device {
            Ok(device) => device,
            Err(error) => {
                eprintln!("SKIPPED: /dev/cachefiles: {error}");
                return None;
            }
        };
        let directory = scene.path("cache");
        fs::create_dir(&directory).expect("dir");
        let dir = format!("dir {}", directory.display());
        for command in [&*dir, "tag headstart", "bind"] {
            device.write_all(command.as_bytes()).expect(command);
        }
        Some(Self {
            directory,
            _device: device,
        })
    }

    /// Bytes that it has on the disk.
    fn bytes(&self) -> u64 {
        fn below(path: &Path) -> u64 {
            let meta = fs::symlink_metadata(path).expect("metadata");
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            let inside: u64 = match meta.is_dir() {
                true => entries.map(|entry| below(&entry.path())).sum(),
                false => 0,
            };
            inside + meta.blocks() * 512
        }
        rustix::fs::sync();
        below(&self.directory)
    }
}

#[test]
fn with_fscache_starts_read_from_the_local_disk() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(served) = Served::new(&scene) else {
        return;
    };
    let Some(cache) = Cache::new(&scene) else {
        return;
    };
    furnish(&served);
    if !served.mount(",fsc") {
        return;
    }
    scene.record("p", START);
    // All that it read is on its way to the local disk.
    let data = (4 * MIB + FILES * FILE) as u64;
    until("it is in the cache", || cache.bytes() >= data);
    let times = measure(&scene, &served, ",fsc", |reads| assert_eq!(reads, 0));
    let large = resident_pages(&scene.path("mount/large"));
    assert!(large.iter().all(|&there| there));
    times.tell("NFS with fscache");
}
