//! The first root of a guest: init, job, modules, test binaries, and programs of this
//! machine with the libraries that they load.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::debian::JOB_UNIT;
use super::job::{INIT, JOB, Job, MODULES};
use super::kernel::Unpacked;
use super::modules;
use super::suites::{Binaries, FILES, MODULE_NAMES, PROGRAMS, Root, Setup};
use crate::run;
use crate::workspace::on_path;

/// Writes it below `dir`; its path.
pub fn write(
    dir: &Path,
    kernel: &Unpacked,
    binaries: &Binaries,
    setup: &Setup,
    job: &Job,
) -> Result<PathBuf> {
    let path = dir.join("initramfs");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut tree = Tree {
        archive: Archive::new(BufWriter::new(file)),
        known: BTreeSet::new(),
        scratch: dir,
        // What the distribution has goes with its other programs. It is not older than this
        // machine's.
        brings_libraries: setup.root == Root::Programs,
    };
    match setup.root {
        Root::Programs => tree.programs_root(kernel.programs.as_deref())?,
        Root::Distribution(_) => {
            tree.skeleton()?;
            tree.file(INIT, 0o755, &read(&binaries.init)?)?;
            tree.file(JOB_UNIT.0, 0o644, JOB_UNIT.1.as_bytes())?;
        }
    }
    tree.file("/init", 0o755, &read(&binaries.init)?)?;
    tree.file(JOB, 0o644, &serde_json::to_vec(job)?)?;
    for (name, program) in &binaries.tests {
        tree.built(&format!("/vm/bin/{name}"), program)?;
    }
    for program in &binaries.programs {
        tree.built(&program.to_string_lossy(), program)?;
    }
    let wanted = [MODULE_NAMES, setup.modules].concat();
    let modules = modules::collect(&kernel.modules, &wanted)?;
    for (number, module) in modules.iter().enumerate() {
        let to = format!("{MODULES}/{number:03}-{}", module.name);
        tree.file(&to, 0o644, &module.data)?;
    }
    tree.archive.finish()?;
    Ok(path)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

fn find(program: &str) -> Option<PathBuf> {
    let sbin = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    on_path(program).or_else(|| sbin.into_iter().find(|file| file.exists()))
}

struct Tree<'a, W> {
    archive: Archive<W>,
    known: BTreeSet<String>,
    scratch: &'a Path,
    brings_libraries: bool,
}

impl<W: Write> Tree<'_, W> {
    /// What the kernel and its first process need.
    fn skeleton(&mut self) -> Result<()> {
        ["/dev", "/proc", "/sys", "/run", "/mnt"]
            .iter()
            .try_for_each(|name| self.directory(name))?;
        Ok(self.archive.device("/dev/console", (5, 1))?)
    }

    /// A root of programs, of this machine or of a tree of unpacked packages. Directories
    /// that are links here are links there.
    fn programs_root(&mut self, unpacked: Option<&Path>) -> Result<()> {
        self.skeleton()?;
        for name in ["/bin", "/sbin", "/lib", "/lib64"] {
            if let Ok(target) = fs::read_link(name) {
                self.known.insert(name.to_owned());
                self.archive.link(name, &target.to_string_lossy())?;
            }
        }
        for name in ["/tmp", "/root", "/etc", "/usr/bin"] {
            self.directory(name)?;
        }
        self.archive.link("/etc/mtab", "/proc/self/mounts")?;
        match unpacked {
            Some(root) => self.unpacked(root)?,
            None => self.this_machines()?,
        }
        for file in FILES {
            if let Ok(data) = fs::read(file) {
                self.file(file, 0o644, &data)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || !self.known.insert(name.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(self.archive.directory(name)?)
    }

    fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<()> {
        if !self.known.insert(name.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        Ok(self.archive.file(name, permissions, data)?)
    }

    /// The programs of this machine.
    fn this_machines(&mut self) -> Result<()> {
        for program in PROGRAMS {
            match find(program) {
                Some(file) => self.program(&file)?,
                None => println!("SKIPPED: tests that need {program}: it is not on this machine"),
            }
        }
        Ok(())
    }

    /// Programs of unpacked packages, and what they load. What is in none is busybox'.
    fn unpacked(&mut self, root: &Path) -> Result<()> {
        for part in ["usr/bin", "usr/sbin", "usr/lib"] {
            self.all_of(root, &root.join(part))?;
        }
        for program in PROGRAMS {
            let known = |dir: &&str| self.known.contains(&format!("{dir}/{program}"));
            if !["/usr/bin", "/usr/sbin"].iter().any(known) {
                let name = format!("/usr/bin/{program}");
                self.archive.link(&name, "busybox")?;
            }
        }
        Ok(())
    }

    fn all_of(&mut self, root: &Path, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let file = entry?.path();
            let name = Path::new("/").join(file.strip_prefix(root)?);
            let name = name.to_string_lossy();
            let kind = fs::symlink_metadata(&file)?;
            if kind.is_dir() {
                self.all_of(root, &file)?;
            } else if kind.is_symlink() {
                self.directory(name.rsplit_once('/').map_or("", |(parent, _)| parent))?;
                self.known.insert(name.clone().into_owned());
                let target = fs::read_link(&file)?;
                self.archive.link(&name, &target.to_string_lossy())?;
            } else {
                self.file(&name, kind.permissions().mode() & 0o777, &read(&file)?)?;
            }
        }
        Ok(())
    }

    /// A program that we built, and its libraries. What debuggers want of it would be most
    /// of it.
    fn built(&mut self, name: &str, file: &Path) -> Result<()> {
        let stripped = self.scratch.join("stripped");
        let mut strip = Command::new("strip");
        strip
            .arg("--strip-debug")
            .arg(file)
            .arg("-o")
            .arg(&stripped);
        let without = run::quiet_output(&mut strip).is_some();
        self.file(name, 0o755, &read(if without { &stripped } else { file })?)?;
        match self.brings_libraries {
            true => self.libraries(file),
            false => Ok(()),
        }
    }

    /// A program and its libraries, where they are on this machine. What the names on
    /// the way link to becomes the file itself.
    fn program(&mut self, file: &Path) -> Result<()> {
        self.copy(file)?;
        self.libraries(file)
    }

    fn libraries(&mut self, file: &Path) -> Result<()> {
        // Not for scripts, nor what is linked statically.
        if let Some(text) = run::quiet_output(Command::new("ldd").arg(file)) {
            for library in libraries(&text) {
                self.copy(Path::new(library))?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, file: &Path) -> Result<()> {
        let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else {
            return Ok(());
        };
        let to = dir.canonicalize()?.join(name);
        let mode = fs::metadata(file)?.permissions().mode() & 0o777;
        self.file(&to.to_string_lossy(), mode, &read(file)?)
    }
}

/// Paths from what ldd prints.
fn libraries(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(text), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }
}
