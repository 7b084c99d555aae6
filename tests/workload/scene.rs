//! Containers that run, as what is told of them is looked at.

use headstart::attribute::mountinfo::{self, Mount};
use headstart::workload::Roots;

use crate::containers::{Daemon, IMAGE_NAME, Podman, Scene, done};

/// A container that runs.
pub(crate) struct Running {
    pub(crate) id: String,
    /// Path of its cgroup.
    pub(crate) cgroup: Vec<u8>,
    /// The mount table that its runtime sees.
    pub(crate) mounts: Vec<Mount>,
    /// Where its runtime keeps what it knows.
    pub(crate) roots: Roots,
}

pub(crate) fn in_podman(scene: &Scene, podman: &Podman<'_>) -> Running {
    let sleep = [IMAGE_NAME, "/bin/sleep", "600"];
    done(podman.run(&["-d", "--name", "web"]).args(sleep));
    let format = "{{.ID}} {{.State.Pid}}";
    let said = done(podman.command().args(["inspect", "-f", format, "web"]));
    let (id, process) = said.trim().split_once(' ').expect("an id and a process");
    running(scene, id, process, podman.roots())
}

/// As a pod's container.
pub(crate) fn in_containerd(scene: &Scene, daemon: &Daemon<'_>) -> Running {
    let id = format!("{:064x}", std::process::id());
    let label = ["-d", "--label", "io.kubernetes.container.name=app"];
    let sleep = [IMAGE_NAME, &id, "/bin/sleep", "600"];
    done(daemon.run(&id, &label).args(sleep));
    let tasks = done(daemon.command().args(["task", "ls"]));
    let process = tasks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(&id)).then(|| words.next())?
    });
    running(scene, &id, process.expect("a task"), daemon.roots())
}

fn running(scene: &Scene, id: &str, process: &str, roots: Roots) -> Running {
    let read = |path: String| std::fs::read(path).expect("of a process that runs");
    let mounts = read(format!("{}/mountinfo", scene.process()));
    let cgroups = read(format!("/proc/{process}/cgroup"));
    let v2 = cgroups
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"));
    Running {
        id: id.to_owned(),
        cgroup: v2.expect("a v2 cgroup").to_vec(),
        mounts: mountinfo::parse(&mounts).expect("a mount table"),
        roots,
    }
}
