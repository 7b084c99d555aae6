//! Modules that a guest loads, in the order in which they need one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One module, as the kernel takes it.
#[derive(Clone, Debug)]
pub struct Module {
    /// Without directory or ending.
    pub name: String,
    /// Uncompressed.
    pub data: Vec<u8>,
}

/// Modules of these names with all that they depend on, dependencies first. One that
/// is built in or that this kernel does not have is left out.
pub fn collect(dir: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(&dir.join("kernel"), &mut files)?;
    let mut collected = Collected {
        files,
        known: BTreeSet::new(),
        modules: Vec::new(),
    };
    for name in wanted {
        collected.add(name)?;
    }
    Ok(collected.modules)
}

struct Collected {
    files: BTreeMap<String, PathBuf>,
    known: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Collected {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(file) = self.files.get(&name).cloned() else {
            return Ok(());
        };
        if !self.known.insert(name.clone()) {
            return Ok(());
        }
        let data = read(&file)?;
        for other in needs(&data) {
            self.add(&other)?;
        }
        self.modules.push(Module { name, data });
        Ok(())
    }
}

/// Files of modules below `dir`, by name.
fn find(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let unpack = match file.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    let output = Command::new(unpack).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("starting {unpack}"))?;
    if !output.status.success() {
        bail!("{unpack} can't unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// Modules that one has to have loaded before it: its symbols' owners, and what it
/// asks for by name. Both are strings of its `.modinfo` section.
fn needs(module: &[u8]) -> Vec<String> {
    let mut needs = Vec::new();
    for text in module.split(|&byte| byte == 0) {
        let Ok(text) = std::str::from_utf8(text) else {
            continue;
        };
        if let Some(names) = text.strip_prefix("depends=") {
            needs.extend(names.split(',').map(str::to_owned));
        } else if let Some(names) = text.strip_prefix("softdep=pre: ") {
            let names = names.split_whitespace();
            needs.extend(names.take_while(|name| *name != "post:").map(str::to_owned));
        }
    }
    needs.retain(|name| !name.is_empty());
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        let module = b"\x7fELF\0license=GPL\0softdep=pre: crc32c post: x\0depends=jbd2,mbcache\0";
        assert_eq!(needs(module), ["crc32c", "jbd2", "mbcache"]);
        assert!(needs(b"depends=\0").is_empty());
    }
}
