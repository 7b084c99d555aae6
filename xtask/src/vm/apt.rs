//! Packages of the distribution, downloaded and unpacked: nothing is installed, and the
//! system's own package sources stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::arch::Arch;
use crate::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with a configuration of its own: one suite, and a cache apart.
pub(super) struct Apt {
    dir: PathBuf,
    architecture: &'static str,
}

impl Apt {
    /// In a directory, for a suite.
    pub(super) fn new(dir: &Path, suite: &str, arch: &Arch) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("no {KEYRING}: guests are made of Debian's packages");
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

    /// Packages that one needs.
    pub(super) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = run::captured(self.command("apt-cache").args(["depends", package]))?;
        Ok(dependencies(&text))
    }

    /// Downloads a package; its file.
    pub(super) fn download(&self, package: &str) -> Result<PathBuf> {
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

    /// Downloads packages and all that they need, as if nothing were installed; their
    /// files.
    pub(super) fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        println!("downloading {} and what they need", packages.join(", "));
        let options = ["-qq", "-y", "--download-only", "--no-install-recommends"];
        let mut command = self.command("apt-get");
        run::captured(command.args(options).arg("install").args(packages))?;
        let files = fs::read_dir(self.dir.join("archives"))?;
        let files = files.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(files
            .filter(|file| file.extension().is_some_and(|ending| ending == "deb"))
            .collect())
    }
}

/// Unpacks packages into a directory, which is complete or not there at all, and removes
/// their files.
pub(super) fn unpack(files: &[PathBuf], root: &Path) -> Result<()> {
    let new = root.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new).with_context(|| format!("making {}", new.display()))?;
    for file in files {
        run::run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&new))?;
    }
    let _ = fs::remove_dir_all(root);
    fs::rename(&new, root).with_context(|| format!("making {}", root.display()))?;
    for file in files {
        fs::remove_file(file).with_context(|| format!("removing {}", file.display()))?;
    }
    Ok(())
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
}
