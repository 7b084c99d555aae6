//! Programs on a file server behind a slow link: NFS, server and client in one network
//! namespace, whose loopback device delays and throttles.

use crate::residency::resident_pages;
use std::fs::{self, File};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scene::{HEADSTART, MIB, Scene, end, json, stderr};
use crate::tools::{prepare, until};

/// Set in the child that has namespaces of its own.
const CHILD: &str = "HEADSTART_TEST_NETWORK";
const NFSD: &str = "/proc/fs/nfsd";
/// Of a packet, each way.
const DELAY: &str = "10ms";
const RATE: &str = "100mbit";

/// Runs `test` of this file again in its own namespaces of network and mounts; whether
/// this is that run.
fn apart(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("exe"))
        .args(["--exact", &format!("network::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .status();
    match status {
        Ok(status) if status.code() == Some(1) => eprintln!("SKIPPED: no namespaces"),
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => eprintln!("SKIPPED: unshare: {error}"),
    }
    false
}

/// A server that exports a directory, and a client's mount of it; gone when dropped.
struct Nfs<'a> {
    scene: &'a Scene,
}

impl<'a> Nfs<'a> {
    /// `None`, and why, where the kernel has no such server or client.
    fn new(scene: &'a Scene) -> Option<Self> {
        prepare("ip", &["link", "set", "lo", "up"])?;
        let netem = ["netem", "delay", DELAY, "rate", RATE, "limit", "10000"];
        prepare(
            "tc",
            &[&["qdisc", "add", "dev", "lo", "root"][..], &netem].concat(),
        )?;
        if !fs::exists(NFSD).is_ok_and(|there| there) {
            eprintln!("SKIPPED: no NFS server in this kernel: {NFSD} is not there");
            return None;
        }
        prepare("mount", &["-t", "nfsd", "nfsd", NFSD])?;
        for dir in ["export", "mount"] {
            fs::create_dir(scene.path(dir)).expect("dir");
        }
        // The client would read around the link.
        let _ = fs::write("/sys/module/nfs/parameters/localio_enabled", "N");
        let this = Self { scene };
        this.serve().expect("a server");
        Some(this)
    }

    /// What rpc.nfsd and rpc.mountd do, for one client and one directory: version 4
    /// needs neither a port mapper nor locks by protocols of their own.
    fn serve(&self) -> io::Result<()> {
        let export = self.scene.path("export");
        let export = export.to_str().expect("text");
        let set = |file: &str, text: &str| fs::write(format!("{NFSD}/{file}"), text);
        // Newer kernels have no version 2.
        let _ = set("versions", "-2\n");
        set("versions", "-3\n")?;
        // Nobody has anything to reclaim: no long wait for those who might. The shortest
        // that the kernel takes, where it can't be ended at once.
        set("nfsv4leasetime", "10\n")?;
        set("nfsv4gracetime", "10\n")?;
        set("portlist", "tcp 2049\n")?;
        set("threads", "4\n")?;
        let _ = set("v4_end_grace", "Y\n");
        // Who the client is, what it may have, and what the handle of the root means:
        // answers to what the kernel would ask, until the end of time.
        let never = i32::MAX;
        // fsid, async, no subtree check, from any port; root stays root.
        let flags = 0x2000 | 0x10 | 0x400 | 0x2;
        for (cache, answer) in [
            ("auth.unix.ip", format!("nfsd 127.0.0.1 {never} test\n")),
            (
                "nfsd.export",
                format!("test {export} {never} {flags} 65534 65534 0\n"),
            ),
            ("nfsd.fh", format!("test 1 \\x00000000 {never} {export}\n")),
        ] {
            fs::write(format!("/proc/net/rpc/{cache}/channel"), answer)?;
        }
        Ok(())
    }

    fn mount(&self, more: &str) -> Option<()> {
        let options =
            format!("vers=4.2,proto=tcp,sec=sys,addr=127.0.0.1,clientaddr=127.0.0.1{more}");
        let at = self.scene.path("mount");
        let at = at.to_str().expect("text");
        prepare(
            "mount",
            &["-i", "-t", "nfs4", "-o", &options, "127.0.0.1:/", at],
        )?;
        Some(())
    }

    /// A program, what it reads, and a script that starts it.
    fn fill(&self) {
        let export = self.scene.path("export");
        fs::copy(HEADSTART, export.join("program")).expect("copied");
        let cat = ["/usr/bin/cat", "/bin/cat"]
            .into_iter()
            .find(|cat| fs::exists(cat).is_ok_and(|there| there));
        fs::copy(cat.expect("a cat"), export.join("cat")).expect("copied");
        for number in 0..40 {
            let data: Vec<u8> = (0..MIB / 16).map(|i| (i / 7 + number) as u8).collect();
            fs::write(export.join(format!("data{number}")), data).expect("written");
        }
        fs::write(export.join("data"), vec![1; 2 * MIB]).expect("written");
    }

    /// Bytes that the client has read from the server so far.
    fn from_server(&self) -> u64 {
        let text = fs::read_to_string("/proc/self/mountstats").expect("statistics");
        let mount = self.scene.path("mount").display().to_string();
        let mut lines = text
            .lines()
            .skip_while(|line| !line.contains(&format!(" on {mount} ")));
        let bytes = lines.find_map(|line| line.trim().strip_prefix("bytes:"));
        let bytes = bytes.expect("a line of bytes").split_ascii_whitespace();
        bytes
            .skip(4)
            .next()
            .and_then(|n| n.parse().ok())
            .expect("server reads")
    }

    /// Runs a command; how long it took, and what it made the client read.
    fn measured(&self, command: &mut Command) -> (Duration, u64) {
        let before = self.from_server();
        let began = Instant::now();
        let output = end(command);
        let took = began.elapsed();
        assert!(output.status.success(), "{output:?}");
        (took, self.from_server() - before)
    }

    fn start(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", START])
            .current_dir(self.scene.dir.path());
        command
    }
}

/// The command whose start is warmed.
const START: &str =
    "mount/program --version >/dev/null; for at in mount/data*; do mount/cat $at >/dev/null; done";

impl Drop for Nfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.scene.path("mount"))
            .status();
        let _ = fs::write(format!("{NFSD}/threads"), "0\n");
    }
}

fn drop_caches() {
    headstart::run::drop_caches().expect("root can drop caches");
}

fn number(said: &Value, key: &str) -> u64 {
    said[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key}: {said}"))
}

#[test]
fn a_start_from_a_file_server_is_warmed() {
    if !apart("a_start_from_a_file_server_is_warmed") {
        return;
    }
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(nfs) = Nfs::new(&scene) else { return };
    nfs.fill();
    if nfs.mount("").is_none() {
        return;
    }
    // The first opening waits for the server's time of grace.
    end(&mut nfs.start());
    eprintln!("mounted, and opened");
    scene.record("p", START);
    drop_caches();
    let (cold, cold_bytes) = nfs.measured(&mut nfs.start());

    drop_caches();
    let before = nfs.from_server();
    let output = scene.run(&["--json", "warm", "p"]);
    let said = json(&output);
    assert!(output.status.success(), "{said}: {}", stderr(&output));
    assert_eq!(said["report"]["verified"], true, "{said}");
    let data = 2 * MIB + 40 * MIB / 16;
    assert!(number(&said, "bytes_read") >= data as u64, "{said}");
    let warm_bytes = nfs.from_server() - before;
    assert!(warm_bytes >= data as u64, "{warm_bytes}: {said}");
    let data = scene.path("mount").join("data");
    assert!(resident_pages(&data).iter().all(|&there| there), "{said}");
    let (warmed, warmed_bytes) = nfs.measured(&mut nfs.start());
    assert!(resident_pages(&data).iter().all(|&there| there));
    assert!(
        warmed_bytes < cold_bytes / 10,
        "{warmed_bytes} of {cold_bytes}"
    );

    drop_caches();
    let run = ["run", "--profile", "p", "--", "sh", "-c", START];
    let (beside, beside_bytes) = nfs.measured(&mut scene.headstart(run));
    println!();
    println!(
        "fact NFS over {RATE}, {DELAY} each way, start cold, warmed, zero lead: \
         {:.2} s, {:.2} s, {:.2} s",
        cold.as_secs_f64(),
        warmed.as_secs_f64(),
        beside.as_secs_f64(),
    );
    println!(
        "fact NFS, KiB from the server, cold, by warm, start warmed, zero lead: \
         {}, {}, {}, {}",
        cold_bytes >> 10,
        warm_bytes >> 10,
        warmed_bytes >> 10,
        beside_bytes >> 10,
    );
    println!(
        "fact NFS, warm ahead of the start: {:.2} s",
        said["seconds"].as_f64().expect("seconds")
    );
}

/// Holds the cache on a local disk that cachefilesd would.
struct LocalCache(#[expect(dead_code, reason = "held open: the cache ends with it")] File);

impl LocalCache {
    fn new(scene: &Scene) -> Option<Self> {
        let begin = || -> io::Result<File> {
            use std::io::Write;
            let mut control = File::options()
                .read(true)
                .write(true)
                .open("/dev/cachefiles")?;
            let dir = scene.path("cache");
            fs::create_dir(&dir)?;
            for command in [&format!("dir {}", dir.display()), "tag headstart", "bind"] {
                control.write_all(command.as_bytes())?;
            }
            Ok(control)
        };
        begin()
            .inspect_err(|error| eprintln!("SKIPPED: no cachefiles here: {error}"))
            .map(Self)
            .ok()
    }
}

#[test]
fn a_start_is_warmed_from_the_cache_on_a_local_disk() {
    if !apart("a_start_is_warmed_from_the_cache_on_a_local_disk") {
        return;
    }
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(nfs) = Nfs::new(&scene) else { return };
    let Some(_cache) = LocalCache::new(&scene) else {
        return;
    };
    nfs.fill();
    if nfs.mount(",fsc").is_none() {
        return;
    }
    scene.record("p", START);
    // The first start fills the cache, in its own time.
    let (mut second, mut second_bytes) = (Duration::ZERO, u64::MAX);
    until("a cold start reads from the local disk", || {
        drop_caches();
        (second, second_bytes) = nfs.measured(&mut nfs.start());
        second_bytes < (MIB / 4) as u64
    });
    drop_caches();
    let before = nfs.from_server();
    let said = json(&scene.run(&["--json", "warm", "p"]));
    assert_eq!(said["complete"], true, "{said}");
    let warm_bytes = nfs.from_server() - before;
    assert!(number(&said, "bytes_read") >= 2 * MIB as u64, "{said}");
    let (warmed, warmed_bytes) = nfs.measured(&mut nfs.start());
    println!();
    println!(
        "fact NFS with fscache, second start cold, warmed: {:.2} s, {:.2} s",
        second.as_secs_f64(),
        warmed.as_secs_f64(),
    );
    println!(
        "fact NFS with fscache, KiB from the server, second start cold, by warm, start warmed: \
         {}, {}, {}",
        second_bytes >> 10,
        warm_bytes >> 10,
        warmed_bytes >> 10,
    );
}
