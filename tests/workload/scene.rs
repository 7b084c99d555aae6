//! Runtimes with directories of their own, in a mount namespace with a cgroup v2 tree.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use headstart::attribute::mountinfo::{self, Mount};
use headstart::workload::Roots;
use headstart::workload::runtime::Storage;

/// Makes an image of two layers from busybox alone, in the store `$1`.
const IMAGE: &str = r#"
mkdir -p image/bin
cp "$(command -v busybox)" image/bin/busybox
ln -sf busybox image/bin/sleep
tar -C image --mtime=@0 -cf base.tar .
printf 'FROM localhost/base:1\nCOPY Containerfile /added\nCMD ["/bin/sleep", "600"]\n' > Containerfile
podman --root "$PWD/image-graph" --runroot "$PWD/image-run" import -q base.tar localhost/base:1
buildah --root "$PWD/image-graph" --runroot "$PWD/image-run" bud --isolation chroot -q -t localhost/web:1 .
podman --root "$PWD/image-graph" --runroot "$PWD/image-run" save -q --format oci-archive -o web.tar localhost/web:1
"#;

/// Where runc finds a v2 tree and nothing else.
const CGROUPS: &str =
    "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup\n";

/// Starts a container of Podman below `$1`, tells its id and process, and ends it when
/// standard input ends.
const PODMAN: &str = r#"
podman="podman --root $PWD/$1/graph --runroot $PWD/$1/run --cgroup-manager=cgroupfs --runtime=runc"
$podman load -q -i web.tar >&2
id=$($podman run -d --name web --network=none --pids-limit=-1 \
  --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 localhost/web:1 /bin/sleep 600)
echo "$id $($podman inspect -f '{{.State.Pid}}' web)"
read -r _
$podman rm -f -t 0 web >&2
"#;

/// As [`PODMAN`], of containerd, as a pod's container.
const CONTAINERD: &str = r#"
mkdir -p $1/state
cat > $1/config.toml <<END
version = 2
root = "$PWD/$1/root"
state = "$PWD/$1/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$PWD/$1/state/containerd.sock"
[ttrpc]
address = "$PWD/$1/state/containerd.sock.ttrpc"
END
containerd -c $1/config.toml 2> $1/log &
containerd=$!
ctr="ctr -a $1/state/containerd.sock"
for _ in $(seq 100); do $ctr version > /dev/null 2>&1 && break; sleep 0.1; done
id=$(printf '%064x' $$)
$ctr image import --base-name localhost/web web.tar >&2
$ctr run -d --cpu-shares 0 --runc-binary runc --label io.kubernetes.container.name=app \
  --cgroup /kubepods/burstable/pod3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6/$id \
  localhost/web:1 $id /bin/sleep 600 >&2
echo "$id $($ctr task ls | awk '/RUNNING/ {print $2}')"
read -r _
$ctr task kill -s KILL $id >&2
for _ in $(seq 100); do $ctr task rm $id > /dev/null 2>&1; $ctr task ls -q | grep -q . || break; sleep 0.1; done
$ctr container rm $id >&2
kill $containerd
wait $containerd
"#;

/// A directory with an image in it.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

/// A container that runs until this is dropped.
pub(crate) struct Running {
    shell: Child,
    pub(crate) id: String,
    /// Path of its cgroup.
    pub(crate) cgroup: Vec<u8>,
    /// The mount table that its runtime sees.
    pub(crate) mounts: Vec<Mount>,
    /// Where its runtime keeps what it knows.
    pub(crate) roots: Roots,
}

impl Scene {
    /// `None`, and why, where a tool is missing.
    pub(crate) fn new(tools: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return None;
        }
        let always = ["unshare", "runc", "busybox", "tar"];
        for tool in always.iter().chain(tools) {
            let mut look = Command::new("sh");
            look.args(["-c", "command -v \"$0\" > /dev/null", tool]);
            if !look.status().expect("sh").success() {
                eprintln!("SKIPPED: {tool} is not installed");
                return None;
            }
        }
        // Sockets have short paths, and the build's directory may have a long one.
        let dir = tempfile::tempdir().expect("a directory");
        let scene = Self { dir };
        let mut shell = scene.shell(IMAGE, "");
        let status = shell.stdout(Stdio::null()).status().expect("a shell");
        assert!(status.success(), "no image was made");
        Some(scene)
    }

    pub(crate) fn podman(&self, name: &str) -> Running {
        let dir = self.path().join(name);
        let roots = Roots {
            containerd: Vec::new(),
            storage: vec![Storage {
                graph: dir.join("graph"),
                run: dir.join("run"),
            }],
            docker: Vec::new(),
            kubelet: Vec::new(),
        };
        self.start(&format!("{CGROUPS}{PODMAN}"), name, roots)
    }

    pub(crate) fn containerd(&self) -> Running {
        let roots = Roots {
            containerd: vec![self.path().join("containerd/state")],
            storage: Vec::new(),
            docker: Vec::new(),
            kubelet: Vec::new(),
        };
        self.start(&format!("{CGROUPS}{CONTAINERD}"), "containerd", roots)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("a real path")
    }

    fn shell(&self, script: &str, argument: &str) -> Command {
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "--propagation", "private", "sh", "-e", "-c"])
            .args([script, "sh", argument])
            .current_dir(self.path())
            .stdin(Stdio::null());
        shell
    }

    fn start(&self, script: &str, name: &str, roots: Roots) -> Running {
        let mut shell = self
            .shell(&format!("set +e\n{script}"), name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let said = shell.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("a line");
        let (id, process) = line.trim().split_once(' ').expect("an id and a process");
        // `unshare` became the shell: it is in the namespace that the runtime is in.
        let mounts = read(Path::new(&format!("/proc/{}/mountinfo", shell.id())));
        let cgroups = read(Path::new(&format!("/proc/{process}/cgroup")));
        let v2 = cgroups
            .split(|&b| b == b'\n')
            .find_map(|line| line.strip_prefix(b"0::"));
        Running {
            id: id.to_owned(),
            cgroup: v2.expect("a v2 cgroup").to_vec(),
            mounts: mountinfo::parse(&mounts).expect("a mount table"),
            roots,
            shell,
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("of a process that runs")
}

impl Drop for Running {
    fn drop(&mut self) {
        // The end of its input has the shell end the container.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Podman's mounts were in namespaces that are gone by now.
        let _ = fs::remove_dir_all(self.dir.path());
    }
}
