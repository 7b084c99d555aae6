//! A Docker of its own over the image of a scene, unpacked and not installed: its package
//! would start another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use headstart::workload::Roots;
use xtask::packages::{DOCKER, program};

use crate::node::until;
use crate::scene::{IMAGE_NAME, Scene, done};

/// What `podman save` writes that Docker reads.
const SAVE: &str = r#"
podman --root "$PWD/image-graph" --runroot "$PWD/image-run" save -q \
    --format docker-archive -o docker.tar localhost/web:1
echo '{}' > daemon.json
"#;

/// Nothing of the machine's network is touched.
const NO_NETWORK: [&str; 6] = [
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--ip-forward=false",
    "--ip-masq=false",
    "--userland-proxy=false",
];

/// A `dockerd` with the image in it; ends when this is dropped.
pub(super) struct Docker<'a> {
    scene: &'a Scene,
    client: PathBuf,
    child: Child,
    dir: PathBuf,
}

impl<'a> Docker<'a> {
    /// `None`, and why, where there is none.
    pub(super) fn new(scene: &'a Scene) -> Option<Self> {
        let tools = (program(&DOCKER, "dockerd"), program(&DOCKER, "docker"));
        let (Some(daemon), Some(client)) = tools else {
            eprintln!("SKIPPED: {} is neither installed nor unpacked", DOCKER.name);
            return None;
        };
        done(scene.command("sh").args(["-e", "-c", SAVE]));
        let dir = scene.path().join("docker");
        fs::create_dir(&dir).expect("a directory");
        let path = |name: &str| dir.join(name).display().to_string();
        let child = scene
            .command(&daemon.display().to_string())
            .args(["--config-file", "daemon.json", "--storage-driver=overlay2"])
            .args(["--data-root", &path("root"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid")])
            .args(["--host", &host(&dir)])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(NO_NETWORK)
            .stderr(fs::File::create(dir.join("log")).expect("a log"))
            .spawn()
            .expect("it starts");
        let docker = Self {
            scene,
            client,
            child,
            dir,
        };
        until("Docker answers", || {
            let version = docker.command().arg("version").output().expect("docker");
            version.status.success().then_some(())
        });
        done(docker.command().args(["load", "-q", "-i", "docker.tar"]));
        Some(docker)
    }

    /// `docker` with this daemon.
    fn command(&self) -> Command {
        let mut command = self.scene.command(&self.client.display().to_string());
        command.args(["--host", &host(&self.dir)]);
        command
    }

    /// `docker run` of the image with `options`; the command is still to be given.
    pub(super) fn run(&self, options: &[&str]) -> Command {
        let mut command = self.command();
        command
            .args(["run", "--rm", "--network=none"])
            .args(options)
            .arg(IMAGE_NAME);
        command
    }

    /// Where its layers lie.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("root/overlay2")
    }

    pub(super) fn roots(&self) -> Roots {
        Roots {
            containerd: vec![self.dir.join("exec/containerd/daemon")],
            storage: Vec::new(),
            docker: vec![self.dir.join("root")],
            kubelet: Vec::new(),
        }
    }
}

/// Where a daemon listens that has this directory.
fn host(dir: &Path) -> String {
    format!("unix://{}", dir.join("docker.sock").display())
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        // It ends its containers, and its own containerd.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
