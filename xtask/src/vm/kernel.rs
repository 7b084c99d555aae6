//! Kernels of the distribution, from its packages: downloaded and unpacked, nothing
//! is installed, and the system's own package sources stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::arch::{AMD64, ARM64, Arch};
use crate::run;
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

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
        apt.unpack(&apt.kernel_packages(self.arch)?, &root)?;
        if let Some(tree) = &programs {
            let packages: Vec<String> = self.arch.programs.iter().map(|&p| p.into()).collect();
            apt.unpack(&packages, tree)?;
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

/// apt with a configuration of its own: one suite, and a cache apart.
struct Apt {
    dir: PathBuf,
    architecture: &'static str,
}

impl Apt {
    fn new(dir: &Path, suite: &str, arch: &Arch) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("no {KEYRING}: kernels come from Debian's packages");
        }
        let mirror = mirror()?;
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("making {}", dir.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(dir.join("sources.list"), source)?;
        fs::write(dir.join("status"), "")?;
        let apt = Self {
            dir: dir.to_owned(),
            architecture: arch.debian,
        };
        run::captured(apt.command("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("asking {mirror} for {suite}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}"),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "Acquire::Languages=none".to_owned(),
            // Its own user need not be able to write below a home directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.current_dir(&self.dir);
        command
    }

    /// Has `root` hold these packages, unpacked.
    fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        // Complete or not there at all.
        let new = self.dir.join("new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
        for package in packages {
            let file = self.download(package)?;
            run::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&new))?;
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
        let _ = fs::remove_dir_all(root);
        fs::rename(&new, root).with_context(|| format!("making {}", root.display()))
    }

    /// The image, and what it is split into in newer suites.
    fn kernel_packages(&self, arch: &Arch) -> Result<Vec<String>> {
        // Not the one for clouds: that lacks NFS, device mapper and the like.
        let meta = format!("linux-image-{}", arch.debian);
        let images = self.depends(&meta)?;
        let image = images.into_iter().find(|p| p.starts_with("linux-image-"));
        let image = image.with_context(|| format!("{meta} names no image"))?;
        let mut packages = self.depends(&image)?;
        packages.retain(|p| p.starts_with("linux-binary-") || p.starts_with("linux-modules-"));
        packages.push(image);
        Ok(packages)
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = run::captured(self.command("apt-cache").args(["depends", package]))?;
        Ok(dependencies(&text))
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        println!("downloading {package}");
        run::captured(self.command("apt-get").args(["-qq", "download", package]))?;
        let prefix = format!("{package}_");
        let files = fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files = files.filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix)
        });
        files
            .next()
            .with_context(|| format!("{package} was not downloaded"))
    }
}

/// Names from what `apt-cache depends` prints.
fn dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

/// The mirror that this system takes Debian from.
fn mirror() -> Result<String> {
    let text = run::captured(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
    ]))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Debian|Debian|"))
        .map(str::to_owned)
        .context("this system has no package source of Debian")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n  Suggests: x\n";
        assert_eq!(dependencies(text), ["linux-image-6.1.0-50-amd64"]);
    }

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
