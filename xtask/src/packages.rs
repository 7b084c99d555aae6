//! Packages of the distribution that the build and the tests need, and why.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::workspace::{cache_dir, is_root, on_path};

/// One package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// As apt calls it.
    pub name: &'static str,
    /// A program or file that it brings: if it is there, the package is not needed.
    pub brings: &'static str,
    /// What it is for.
    pub reason: &'static str,
}

/// What builds the probes where no rustup toolchain has rust-src.
pub const BPF_TOOLCHAIN: &[Package] = &[
    Package {
        name: "rustc-web",
        brings: "/usr/bin/rustc",
        reason: "a compiler that matches rust-web-src",
    },
    Package {
        name: "cargo-web",
        brings: "/usr/bin/cargo",
        reason: "a cargo that matches it",
    },
    Package {
        name: "rust-web-src",
        brings: "/usr/lib/rustlib/src/rust/library/core/src/lib.rs",
        reason: "core is built for the BPF target from its source",
    },
    Package {
        name: "rust-web-llvm",
        brings: "rust-lld",
        reason: "the compiler's linker helpers",
    },
];

/// What bpf-linker is built against.
pub const LLVM: &[Package] = &[
    Package {
        name: "llvm-22",
        brings: "/usr/lib/llvm-22/bin/llvm-config",
        reason: "bpf-linker asks it for paths",
    },
    Package {
        name: "llvm-22-dev",
        brings: "/usr/lib/llvm-22/include/llvm",
        reason: "bpf-linker links against it",
    },
];

/// What the fuzz targets are built with.
pub const FUZZ: &[Package] = &[Package {
    name: "g++",
    brings: "c++",
    reason: "libFuzzer is compiled from its source",
}];

/// What the tests run against.
pub const TESTS: &[Package] = &[
    Package {
        name: "fio",
        brings: "fio",
        reason: "reads of known size, order and kind",
    },
    Package {
        name: "xfsprogs",
        brings: "mkfs.xfs",
        reason: "a file system to record and warm on",
    },
    Package {
        name: "btrfs-progs",
        brings: "mkfs.btrfs",
        reason: "a file system with anonymous devices and subvolumes",
    },
    Package {
        name: "erofs-utils",
        brings: "mkfs.erofs",
        reason: "images are mounted from it",
    },
    Package {
        name: "podman",
        brings: "podman",
        reason: "containers that start",
    },
    Package {
        name: "buildah",
        brings: "buildah",
        reason: "an image of layers",
    },
    Package {
        name: "runc",
        brings: "runc",
        reason: "what Podman and containerd run containers with",
    },
    Package {
        name: "crun",
        brings: "crun",
        reason: "what Podman runs containers with where it may choose",
    },
    Package {
        name: "containerd",
        brings: "containerd",
        reason: "containers that start as a kubelet's do",
    },
    Package {
        name: "busybox-static",
        brings: "busybox",
        reason: "all that is in the image",
    },
    Package {
        name: "strace",
        brings: "strace",
        reason: "a second opinion on which names a run looked up",
    },
    Package {
        name: "vmtouch",
        brings: "vmtouch",
        reason: "a second opinion on which pages are resident",
    },
];

/// What metrics, alerts and the dashboard are tried with. Its package starts a service
/// where it is installed: it is unpacked instead.
pub const PROMETHEUS: Package = Package {
    name: "prometheus",
    brings: "prometheus",
    reason: "scrapes metrics, and evaluates rules and the dashboard",
};

/// Docker's engine and client. Its package would start a daemon.
pub const DOCKER: Package = Package {
    name: "docker.io",
    brings: "dockerd",
    reason: "containers that start as Docker's",
};

/// What boots other kernels.
pub const VM: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        brings: "qemu-system-x86_64",
        reason: "boots kernels that this machine does not run",
    },
    Package {
        name: "e2fsprogs",
        brings: "mkfs.ext4",
        reason: "a guest's disk",
    },
    Package {
        name: "xz-utils",
        brings: "xz",
        reason: "kernel modules are packed with it",
    },
    Package {
        name: "dmsetup",
        brings: "dmsetup",
        reason: "a guest's disks that fail, or take their time",
    },
    Package {
        name: "iproute2",
        brings: "tc",
        reason: "a guest's link to its file server, slowed down",
    },
];

/// What boots kernels of another architecture.
pub const VM_ARM64: &[Package] = &[Package {
    name: "qemu-system-arm",
    brings: "qemu-system-aarch64",
    reason: "boots arm64",
}];

/// What is measured, or measured against.
pub const BENCH: &[Package] = &[
    Package {
        name: "bpftrace",
        brings: "bpftrace",
        reason: "counts reads as its users do",
    },
    Package {
        name: "clang",
        brings: "clang",
        reason: "a start to measure",
    },
    Package {
        name: "default-jdk-headless",
        brings: "javac",
        reason: "two starts to measure",
    },
    Package {
        name: "fio",
        brings: "fio",
        reason: "reads as fast as the disk and the cache go",
    },
    Package {
        name: "git",
        brings: "git",
        reason: "a start to measure",
    },
    Package {
        name: "nodejs",
        brings: "node",
        reason: "a start to measure",
    },
    Package {
        name: "podman",
        brings: "podman",
        reason: "containers that start",
    },
    Package {
        name: "python3",
        brings: "python3",
        reason: "a start to measure",
    },
    Package {
        name: "runc",
        brings: "runc",
        reason: "what Podman runs containers with",
    },
    Package {
        name: "vmtouch",
        brings: "vmtouch",
        reason: "another way to bring a file into memory",
    },
];

/// Those of the packages whose programs or files are not there.
pub fn missing(packages: &[Package]) -> Vec<Package> {
    packages.iter().filter(|p| !is_there(p)).copied().collect()
}

fn is_there(package: &Package) -> bool {
    let sbin = ["/usr/sbin", "/sbin"].iter().any(|dir| {
        !package.brings.starts_with('/') && std::path::Path::new(dir).join(package.brings).exists()
    });
    sbin || if package.brings.starts_with('/') {
        std::path::Path::new(package.brings).exists()
    } else {
        on_path(package.brings).is_some()
    }
}

/// Installs packages by apt-get; lists are updated first.
pub fn install(packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|p| p.name).collect();
    if on_path("apt-get").is_none() || !is_root() {
        bail!("needs root and apt-get to install {}", names.join(" "));
    }
    for package in packages {
        println!("installing {}: {}", package.name, package.reason);
    }
    // A mirror out of reach need not matter: the lists may be fresh enough.
    if let Err(error) = run::run(apt_get().args(["-q", "update"])) {
        println!("warning: {error:#}");
    }
    run::run(
        apt_get()
            .args(["-q", "-y", "--no-install-recommends", "install"])
            .args(names),
    )
}

/// Where [`unpack`] leaves a package's files.
pub fn unpacked(package: &Package) -> PathBuf {
    cache_dir().join("unpacked").join(package.name)
}

/// A program of a package that was unpacked, or of this machine.
pub fn program(package: &Package, name: &str) -> Option<PathBuf> {
    let unpacked = unpacked(package);
    ["usr/bin", "usr/sbin"]
        .map(|directory| unpacked.join(directory).join(name))
        .into_iter()
        .find(|program| program.exists())
        .or_else(|| on_path(name))
}

/// Fetches a package by apt-get and unpacks it, if it is neither installed nor unpacked
/// already. Nothing of it is run.
pub fn unpack(package: &Package) -> Result<()> {
    let dir = unpacked(package);
    if dir.exists() || is_there(package) {
        return Ok(());
    }
    println!("unpacking {}: {}", package.name, package.reason);
    let new = dir.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
    }
    fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
    let mut download = apt_get();
    download
        .args(["-q", "download", package.name])
        .current_dir(&new);
    if run::run(&mut download).is_err() {
        // The lists may be old, or not there yet.
        run::run(apt_get().args(["-q", "update"]))?;
        run::run(&mut download)?;
    }
    let fetched = fs::read_dir(&new)?
        .next()
        .with_context(|| format!("apt-get downloaded nothing for {}", package.name))??;
    let files = new.join("files");
    run::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(fetched.path())
            .arg(&files),
    )?;
    fs::rename(&files, &dir).with_context(|| format!("making {}", dir.display()))?;
    fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        let here = Package {
            name: "a",
            brings: "sh",
            reason: "",
        };
        let file = Package {
            name: "b",
            brings: "/proc/self/status",
            reason: "",
        };
        let gone = Package {
            name: "c",
            brings: "no-program-of-this-name",
            reason: "",
        };
        let left: Vec<_> = missing(&[here, file, gone])
            .iter()
            .map(|p| p.name)
            .collect();
        assert_eq!(left, ["c"]);
        assert!(install(&[]).is_ok());
    }
}
