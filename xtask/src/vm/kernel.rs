//! Kernels of the distribution, from its packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::arch::{AMD64, ARM64, Arch};
use crate::workspace::cache_dir;

/// One kernel of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// As `--kernel` calls it.
    pub name: &'static str,
    /// The suite of Debian that has it.
    suite: &'static str,
    /// What it runs on.
    pub arch: &'static Arch,
    /// Left out of `all`.
    pub by_name_only: bool,
}

const fn kernel(name: &'static str, suite: &'static str) -> Kernel {
    Kernel {
        name,
        suite,
        arch: &AMD64,
        by_name_only: false,
    }
}

/// The matrix, oldest first.
pub const KERNELS: &[Kernel] = &[
    kernel("5.10", "bullseye"),
    kernel("6.1", "bookworm"),
    kernel("6.12", "trixie"),
    kernel("newest", "sid"),
    // Everything has to be built once more for it.
    Kernel {
        arch: &ARM64,
        by_name_only: true,
        ..kernel("arm64", "trixie")
    },
];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// As `uname -r` will say it.
    pub version: String,
    /// What boots.
    pub image: PathBuf,
    /// Directory of its modules, `…/lib/modules/VERSION`.
    pub modules: PathBuf,
    /// A tree with programs that it can run, where this machine's are not.
    pub programs: Option<PathBuf>,
}

impl Kernel {
    /// Downloads and unpacks it, unless that was done before.
    pub fn fetch(&self) -> Result<Unpacked> {
        let dir = cache_dir().join("kernels").join(self.name);
        let root = dir.join("root");
        let programs = (!self.arch.programs.is_empty()).then(|| dir.join("programs"));
        let complete = |there: Unpacked| Unpacked {
            programs: programs.clone(),
            ..there
        };
        let has_programs = programs.as_ref().is_none_or(|tree| tree.exists());
        if let (Ok(there), true) = (unpacked(&root), has_programs) {
            return Ok(complete(there));
        }
        let apt = Apt::new(&dir.join("apt"), self.suite, self.arch)?;
        let download = |packages: &[String]| -> Result<Vec<PathBuf>> {
            packages.iter().map(|name| apt.download(name)).collect()
        };
        apt::unpack(&download(&packages(&apt, self.arch)?)?, &root)?;
        if let Some(tree) = &programs {
            let packages: Vec<String> = self.arch.programs.iter().map(|&p| p.into()).collect();
            apt::unpack(&download(&packages)?, tree)?;
        }
        unpacked(&root).map(complete)
    }
}

/// What is in an unpacked package, or in several.
fn unpacked(root: &Path) -> Result<Unpacked> {
    let dirs = ["usr/lib/modules", "lib/modules"].map(|dir| root.join(dir));
    let modules = dirs.iter().find_map(|dir| only_entry(dir));
    let modules = modules.with_context(|| format!("no modules in {}", root.display()))?;
    let name = modules.file_name().unwrap_or_default();
    let version = name.to_string_lossy().into_owned();
    let image = root.join("boot").join(format!("vmlinuz-{version}"));
    let images = [image, modules.join("vmlinuz")];
    let image = images.into_iter().find(|image| image.exists());
    Ok(Unpacked {
        image: image.with_context(|| format!("no image in {}", root.display()))?,
        modules,
        version,
        programs: None,
    })
}

fn only_entry(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .next()?
        .ok()
        .map(|entry| entry.path())
}

/// The image, and what it is split into in newer suites.
fn packages(apt: &Apt, arch: &Arch) -> Result<Vec<String>> {
    // Not the one for clouds: that lacks NFS, device mapper and the like.
    let meta = format!("linux-image-{}", arch.debian);
    let images = apt.depends(&meta)?;
    let image = images.into_iter().find(|p| p.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{meta} names no image"))?;
    let mut packages = apt.depends(&image)?;
    packages.retain(|p| p.starts_with("linux-binary-") || p.starts_with("linux-modules-"));
    packages.push(image);
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_kernel_is_found_whichever_way_it_is_packed() {
        for lib in ["lib", "usr/lib"] {
            let root = std::env::temp_dir().join(format!("vm-kernel-{}", std::process::id()));
            fs::create_dir_all(root.join(lib).join("modules/1.2-x")).expect("dir");
            fs::create_dir_all(root.join("boot")).expect("dir");
            assert!(unpacked(&root).is_err());
            fs::write(root.join("boot/vmlinuz-1.2-x"), "").expect("file");
            assert_eq!(unpacked(&root).expect("there").version, "1.2-x");
            fs::remove_dir_all(&root).expect("removed");
        }
    }
}
