//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// Directories of this workspace.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo builds: `CARGO_TARGET_DIR`, else `target`.
    pub target: PathBuf,
}

impl Workspace {
    /// The workspace that this binary was built from.
    pub fn here() -> Self {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = xtask.parent().unwrap_or(xtask).to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The manifest of the probes, a workspace of their own.
    pub fn probes_manifest(&self) -> PathBuf {
        self.root.join("ebpf/probes/Cargo.toml")
    }

    /// Where the probes' object is put, whatever `CARGO_TARGET_DIR` says: the
    /// agent's build script looks there.
    pub fn probes_object(&self) -> PathBuf {
        self.root.join("target/bpf/headstart-probes")
    }

    /// The agent that [`crate::build`] makes.
    pub fn agent(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join("headstart")
    }
}

/// Where downloaded or built tools are kept between checkouts.
pub fn cache_dir() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| home().join(".cache"), PathBuf::from)
        .join("headstart")
}

/// Whether this process is root: what belongs to it belongs to user 0.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Finds an executable as the shell would.
pub fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found_and_so_is_a_shell() {
        assert!(Workspace::here().root.join("Cargo.toml").exists());
        assert!(on_path("sh").is_some());
        assert!(on_path("no-program-of-this-name").is_none());
    }
}
