//! A root of the distribution's own packages, with systemd as its first process.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::arch::AMD64;
use crate::workspace::cache_dir;

/// What is in it, with what that needs: a first process, a shell, and what tests start.
const PACKAGES: &[&str] = &[
    "systemd",
    "util-linux",
    "coreutils",
    "findutils",
    "procps",
    "dash",
];

/// The distribution's first process.
pub(super) const INIT: &str = "/usr/lib/systemd/systemd";

/// The unit that does a guest's job, by [`super::job::INIT`]: what the machine boots to.
pub(super) const JOB_UNIT: (&str, &str) = (
    "/etc/systemd/system/vm-job.service",
    "[Unit]
Description=What this machine is for
[Service]
ExecStart=/vm/init
",
);

/// Kernel parameters: nothing is started that has nothing to do there, nothing prepared as
/// after an installation, and nothing mounted over the directory of temporary files, where
/// what was built may lie.
pub(super) const PARAMETERS: &str = "systemd.unit=vm-job.service \
     systemd.mask=systemd-modules-load.service systemd.mask=systemd-random-seed.service \
     systemd.mask=ldconfig.service systemd.mask=tmp.mount \
     systemd.condition_needs_update=no systemd.condition_first_boot=no";

/// Left out: nobody reads it there.
const LEFT_OUT: &[&str] = &["usr/share/doc", "usr/share/man", "usr/share/locale"];

/// Links that the package of base files has, whose rest is not needed.
const LINKS: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Downloads and unpacks that of a suite, unless that was done before.
pub(super) fn root(suite: &str) -> Result<PathBuf> {
    let dir = cache_dir().join("roots").join(suite);
    // Of other packages it is another one.
    let root = dir.join(PACKAGES.join("+"));
    if !root.exists() {
        let apt = Apt::new(&dir.join("apt"), suite, &AMD64)?;
        let files = apt.download_all(PACKAGES)?;
        let unpacked = dir.join("unpacked");
        apt::unpack(&files, &unpacked)?;
        trim(&unpacked).with_context(|| format!("in {}", unpacked.display()))?;
        fs::rename(&unpacked, &root).with_context(|| format!("making {}", root.display()))?;
    }
    Ok(root)
}

/// Moves all that is in a directory into another.
fn merge(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            merge(&entry.path(), &target)?;
        } else {
            fs::rename(entry.path(), target)?;
        }
    }
    Ok(fs::remove_dir(from)?)
}

fn trim(root: &Path) -> Result<()> {
    for name in LEFT_OUT {
        let _ = fs::remove_dir_all(root.join(name));
    }
    for name in LINKS {
        let link = root.join(name);
        // Older packages have files in what is a link once they are installed.
        if link.is_dir() && !link.is_symlink() {
            merge(&link, &root.join("usr").join(name))?;
        }
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("usr/{name}"), &link)?;
        }
    }
    for name in [
        "proc", "sys", "dev", "run", "tmp", "root", "home", "srv", "mnt",
    ] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::create_dir_all(root.join("etc"))?;
    // Any will do; without one systemd takes it for a machine that boots for the first time.
    fs::write(
        root.join("etc/machine-id"),
        "6d5b8c1f0e2a4793b6c8d1e0f2a34b57\n",
    )?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(())
}
