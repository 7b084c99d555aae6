//! A cgroup that bounds memory.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::bench::throttle::{Controller, Tree, remove};

const MEMORY: Controller = ("memory", "memory");

/// One, with cgroups of those who share it; removed when it is dropped.
pub(super) struct Bound {
    cgroup: PathBuf,
    members: Vec<PathBuf>,
}

impl Bound {
    /// At most so many bytes of memory for all of `members` together, caches included.
    pub(super) fn new(bytes: u64, members: &[&str]) -> Result<Self> {
        let tree = Tree::of(MEMORY)?;
        let cgroup = tree.make()?;
        let bound = Self {
            members: members.iter().map(|name| cgroup.join(name)).collect(),
            cgroup,
        };
        if let Tree::V2(_) = tree {
            fs::write(bound.cgroup.join("cgroup.subtree_control"), "+memory")
                .context("giving the memory controller to children")?;
        }
        for member in &bound.members {
            fs::create_dir(member).with_context(|| format!("making {}", member.display()))?;
        }
        let file = match tree {
            Tree::V1(_) => "memory.limit_in_bytes",
            Tree::V2(_) => "memory.max",
        };
        let file = bound.cgroup.join(file);
        fs::write(&file, bytes.to_string())
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(bound)
    }

    /// The cgroup of one who shares it.
    pub(super) fn member(&self, name: &str) -> Option<PathBuf> {
        self.members
            .iter()
            .find(|member| member.ends_with(name))
            .cloned()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.members
            .iter()
            .chain([&self.cgroup])
            .for_each(|cgroup| remove(cgroup));
    }
}
