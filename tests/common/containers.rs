//! Real containers of Podman and containerd: runtimes with directories of their own, in a
//! mount namespace with a cgroup v2 tree, and an image made of busybox alone.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use headstart::workload::Roots;
use headstart::workload::runtime::Storage;
use rustix::process::Signal;

/// Makes a namespace in which runc finds a v2 tree and nothing else, and keeps it until
/// standard input ends.
const NAMESPACE: &str = "umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup && echo ready && read -r _";

/// Makes an image of two layers.
const IMAGE: &str = r#"
mkdir -p image/bin image/data image/vol
cp "$(command -v busybox)" image/bin/busybox
for name in sh cat sleep true; do ln -sf busybox image/bin/$name; done
head -c 8388608 /dev/urandom > image/data/image.bin
tar -C image --mtime=@0 -cf base.tar .
printf 'FROM localhost/base:1\nCOPY Containerfile /added\nCMD ["/bin/sleep", "600"]\n' > Containerfile
podman --root "$PWD/image-graph" --runroot "$PWD/image-run" import -q base.tar localhost/base:1
buildah --root "$PWD/image-graph" --runroot "$PWD/image-run" bud --isolation chroot -q -t localhost/web:1 .
podman --root "$PWD/image-graph" --runroot "$PWD/image-run" save -q --format oci-archive -o web.tar localhost/web:1
"#;

/// The image, by the name that both runtimes have for it.
pub(crate) const IMAGE_NAME: &str = "localhost/web:1";

/// Longest that anything here may take; a failure, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory with an image in it, and a namespace.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    namespace: Child,
}

/// A store of Podman's with the image in it.
pub(crate) struct Podman<'a> {
    scene: &'a Scene,
    storage: Storage,
}

/// A containerd with the image in it; ends when this is dropped.
pub(crate) struct Daemon<'a> {
    scene: &'a Scene,
    child: Child,
    state: PathBuf,
}

impl Scene {
    /// `None`, and why, where a tool is missing.
    pub(crate) fn new(tools: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return None;
        }
        let always = [
            "unshare", "nsenter", "runc", "busybox", "tar", "podman", "buildah",
        ];
        for tool in always.iter().chain(tools) {
            let mut look = Command::new("sh");
            look.args(["-c", "command -v \"$0\" > /dev/null", tool]);
            if !look.status().expect("sh").success() {
                eprintln!("SKIPPED: {tool} is not installed");
                return None;
            }
        }
        // On a disk, and not as deep as the build's directory may be: sockets have short
        // paths.
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let mut namespace = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let said = namespace.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "no namespace was made");
        let scene = Self { dir, namespace };
        scene.shell(IMAGE);
        Some(scene)
    }

    /// Where all of it lies.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("a real path")
    }

    /// A process in the namespace: its directory in /proc.
    pub(crate) fn process(&self) -> String {
        // `unshare` became the shell.
        format!("/proc/{}", self.namespace.id())
    }

    /// A command in the namespace and the directory; it becomes the program, so that it is
    /// its process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={}/ns/mnt", self.process()))
            .args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""])
            .arg(self.path())
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script there that has to succeed.
    pub(crate) fn shell(&self, script: &str) {
        done(self.command("sh").args(["-e", "-c", script]));
    }

    /// A store of its own with the image in it.
    pub(crate) fn podman(&self, name: &str) -> Podman<'_> {
        let dir = self.path().join(name);
        let podman = Podman {
            scene: self,
            storage: Storage {
                graph: dir.join("graph"),
                run: dir.join("run"),
            },
        };
        done(podman.command().args(["load", "-q", "-i", "web.tar"]));
        podman
    }

    /// A containerd of its own with the image in it.
    pub(crate) fn containerd(&self) -> Daemon<'_> {
        let dir = self.path().join("containerd");
        let [root, state] = ["root", "state"].map(|name| dir.join(name));
        fs::create_dir_all(&state).expect("a directory");
        self.containerd_at(&root, &state)
    }

    /// As [`Scene::containerd`], in directories that there are in the namespace.
    pub(crate) fn containerd_at(&self, root: &Path, state: &Path) -> Daemon<'_> {
        let state = state.to_owned();
        let [config, log] =
            ["containerd.toml", "containerd.log"].map(|name| self.path().join(name));
        let socket = state.join("containerd.sock");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n",
            state.join("containerd.sock.ttrpc")
        );
        fs::write(&config, text).expect("written");
        let child = self
            .command("containerd")
            .arg("-c")
            .arg(&config)
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        let daemon = Daemon {
            scene: self,
            child,
            state,
        };
        until("containerd answers", || {
            let version = daemon.command().arg("version").output().expect("ctr");
            version.status.success().then_some(())
        });
        let mut import = daemon.command();
        import.args(["image", "import", "--base-name", "localhost/web"]);
        done(import.arg("web.tar"));
        daemon
    }
}

impl Podman<'_> {
    /// `podman` over this store.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.scene.command("podman");
        command
            .arg("--root")
            .arg(&self.storage.graph)
            .arg("--runroot")
            .arg(&self.storage.run)
            .args(["--cgroup-manager=cgroupfs", "--runtime=runc"]);
        command
    }

    /// `podman run` with `options`; image and command are still to be given. Of the limits
    /// that Podman sets some ask for more than a container may be given here.
    pub(crate) fn run(&self, options: &[&str]) -> Command {
        let mut command = self.command();
        command
            .args(["run", "--network=none", "--pids-limit=-1"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"])
            .args(options);
        command
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots {
            containerd: Vec::new(),
            storage: vec![self.storage.clone()],
            docker: Vec::new(),
            kubelet: Vec::new(),
        }
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "-f", "-a", "-t", "0"]).output();
    }
}

impl Daemon<'_> {
    /// `ctr` with this containerd.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.scene.command("ctr");
        command.arg("-a").arg(self.state.join("containerd.sock"));
        command
    }

    /// `ctr run` of a pod's container with `options`; image, id and command are still to be
    /// given. Without its shares runc would want `cpu.weight`.
    pub(crate) fn run(&self, id: &str, options: &[&str]) -> Command {
        let cgroup = format!("/kubepods/burstable/pod3c5e8f5a-1b2c-4d6e-9f80-a1b2c3d4e5f6/{id}");
        let mut command = self.command();
        command
            .args(["run", "--cpu-shares", "0", "--runc-binary", "runc"])
            .args(["--cgroup", &cgroup])
            .args(options);
        command
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots {
            containerd: vec![self.state.clone()],
            storage: Vec::new(),
            docker: Vec::new(),
            kubelet: Vec::new(),
        }
    }

    /// Has it stop, say.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    /// Ends a container and removes it.
    pub(crate) fn remove(&self, id: &str) {
        let _ = self
            .command()
            .args(["task", "kill", "-s", "KILL", id])
            .output();
        until("the task is gone", || {
            let _ = self.command().args(["task", "rm", id]).output();
            let tasks = done(self.command().args(["task", "ls", "-q"]));
            (!tasks.lines().any(|task| task == id)).then_some(())
        });
        let _ = self.command().args(["container", "rm", id]).output();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // One that was stopped would answer nobody.
        self.signal(Signal::CONT);
        let tasks = self.command().args(["container", "ls", "-q"]).output();
        let tasks = tasks.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        for id in tasks.unwrap_or_default().lines() {
            self.remove(id);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Layers are removed by their runtimes' own mounts' end: the namespace's.
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        let _ = fs::remove_dir_all(self.dir.path());
    }
}

/// Runs a command that has to succeed; what it printed.
pub(crate) fn done(command: &mut Command) -> String {
    let output: Output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
