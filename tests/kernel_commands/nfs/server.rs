//! A server, a link and a mount.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::scene::{Scene, end};
use crate::tools::prepare;

const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";
/// Of what the server sends.
const LINK: &str = "delay 5ms rate 200mbit";
/// Further than anything here goes, as the caches of the server take it.
const NEVER: &str = "2147483647";
/// NFSEXP_INSECURE_PORT, NFSEXP_ASYNC, NFSEXP_NOSUBTREECHECK and NFSEXP_FSID, as in the
/// kernel's uapi/linux/nfsd/export.h: files belong to whom the client says.
const EXPORT: u32 = 0x2 | 0x10 | 0x400 | 0x2000;

/// A directory that is served, and where a client mounts it; both gone when dropped.
pub(super) struct Served {
    /// Keeps the server's namespaces.
    holder: Child,
    directory: PathBuf,
    mount: PathBuf,
}

impl Served {
    /// `None`, and why, where there is no server.
    pub(super) fn new(scene: &Scene) -> Option<Self> {
        let kinds = fs::read_to_string("/proc/filesystems").expect("kinds");
        for kind in ["nfsd", "nfs4"] {
            if !kinds
                .lines()
                .any(|line| line.ends_with(&format!("\t{kind}")))
            {
                eprintln!("SKIPPED: no file system {kind} in this kernel");
                return None;
            }
        }
        let (directory, mount) = (scene.path("served"), scene.path("mount"));
        fs::create_dir(&directory).expect("dir");
        fs::create_dir(&mount).expect("dir");
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut ready = String::new();
        let output = holder.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut ready).expect("text");
        assert_eq!(ready, "ready\n");
        let served = Self {
            holder,
            directory,
            mount,
        };
        served.link()?;
        served.serve()?;
        Some(served)
    }

    /// A pair of interfaces, one on each side.
    fn link(&self) -> Option<()> {
        let pid = self.holder.id();
        let client = format!(
            "ip link add hs-client type veth peer name hs-server netns {pid}; \
             ip addr add {CLIENT}/24 dev hs-client; ip link set hs-client up"
        );
        prepare("sh", &["-ec", &client])?;
        self.at_server(&format!(
            "ip link set lo up; ip addr add {SERVER}/24 dev hs-server; ip link set hs-server up; \
             tc qdisc add dev hs-server root netem {LINK}"
        ))
    }

    /// Starts the kernel's server with version 4 only, which asks no portmapper, and
    /// tells it beforehand what it would ask mountd: who may have what.
    fn serve(&self) -> Option<()> {
        let directory = self.directory.display();
        // Nobody has state from before: where it can be told so it waits for nobody, else ten
        // seconds.
        self.at_server(&format!(
            "mount -t nfsd none /proc/fs/nfsd; cd /proc/fs/nfsd; \
             echo '-2 -3 +4' >versions 2>/dev/null || echo '-3 +4' >versions; \
             echo 10 >nfsv4gracetime; echo 10 >nfsv4leasetime; \
             cd /proc/net/rpc; \
             printf '%s\\n' 'nfsd {CLIENT} {NEVER} client' >auth.unix.ip/channel; \
             printf '%s\\n' 'client {directory} {NEVER} {EXPORT} 65534 65534 0' >nfsd.export/channel; \
             printf '%s\\n' 'client 1 \\x00000000 {NEVER} {directory}' >nfsd.fh/channel; \
             cd /proc/fs/nfsd; echo 'tcp 2049' >portlist; echo 4 >threads; echo Y >v4_end_grace 2>/dev/null || true"
        ))
    }

    /// Runs a script in the server's namespaces.
    fn at_server(&self, script: &str) -> Option<()> {
        let pid = self.holder.id().to_string();
        prepare("nsenter", &["-t", &pid, "-n", "-m", "sh", "-exc", script]).map(drop)
    }

    /// Mounts at the client; whether that can be done with these options.
    pub(super) fn mount(&self, options: &str) -> bool {
        let options = format!(
            "vers=4.2,proto=tcp,addr={SERVER},clientaddr={CLIENT},soft,timeo=100,retrans=2{options}"
        );
        let at = self.mount.to_str().expect("text");
        let source = format!("{SERVER}:/");
        prepare("mount", &["-i", "-t", "nfs4", "-o", &options, &source, at]).is_some()
    }

    /// From now on the server's answers are lost, or come again.
    pub(super) fn answers(&self, does: bool) {
        let netem = if does { LINK } else { "loss 100%" };
        let script = format!("tc qdisc replace dev hs-server root netem {netem}");
        assert!(self.at_server(&script).is_some());
    }

    /// Unmounts at the client, and has nobody remember anything.
    pub(super) fn forget(&self) {
        let umount = end(Command::new("umount").arg(&self.mount));
        assert!(umount.status.success(), "{umount:?}");
        headstart::run::drop_caches().expect("root can drop caches");
    }

    /// Writes a file at the server.
    pub(super) fn write(&self, name: &str, bytes: usize) {
        let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
        let path = self.directory.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, data).expect("written");
    }

    pub(super) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// How many reads the mount has sent to the server.
    pub(super) fn reads(&self) -> u64 {
        let stats = fs::read_to_string("/proc/self/mountstats").expect("mountstats");
        let at = format!(" mounted on {} with ", self.mount.display());
        let mut lines = stats.lines().skip_while(|line| !line.contains(&at)).skip(1);
        let own = lines
            .by_ref()
            .take_while(|line| !line.starts_with("device "));
        // The second came with version 4.2.
        let count = |line: &str| {
            let (name, counts) = line.trim().split_once(": ")?;
            let first = counts.split(' ').next()?;
            matches!(name, "READ" | "READ_PLUS").then(|| first.parse::<u64>().expect("a number"))
        };
        let counts: Vec<u64> = own.filter_map(count).collect();
        assert!(!counts.is_empty(), "no counts of reads: {stats}");
        counts.iter().sum()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        let _ = self.at_server("echo 0 >/proc/fs/nfsd/threads");
        let _ = Command::new("ip")
            .args(["link", "del", "hs-client"])
            .status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
