//! Prints which pages of the block device looking up, listing or mapping the
//! given paths takes, for checks by hand (`debugfs -R "stat PATH"`):
//!
//! ```sh
//! sudo cargo run --release --example ext4_layout -- /usr/bin/env /usr/lib
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use headstart::attribute::ext4::{DeviceSource, Ext4, InodeNeed, Need};
use headstart::attribute::volume::device_node;
use headstart::model::escape;

fn main() -> anyhow::Result<()> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        bail!("usage: ext4_layout PATH…");
    }
    for path in paths {
        let shown = escape(path.as_os_str().as_bytes());
        print_layout(&path).with_context(|| shown)?;
    }
    Ok(())
}

fn print_layout(path: &Path) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let target = path
        .symlink_metadata()
        .or_else(|error| match path.parent() {
            // A name that isn't there is looked up in its directory all the same.
            Some(parent) => parent.metadata(),
            None => Err(error),
        })?;
    let steps = walk(&path, target.dev())?;

    let dev = target.dev();
    let device = device_node((rustix::fs::major(dev), rustix::fs::minor(dev)))?;
    let source = DeviceSource::open(&device).with_context(|| device.display().to_string())?;
    let fs = Ext4::open(&source).with_context(|| device.display().to_string())?;
    println!(
        "{} on {}, blocks of {}",
        escape(path.as_os_str().as_bytes()),
        device.display(),
        fs.block_size()
    );
    for (ino, need) in &steps {
        let started = Instant::now();
        let need = need.borrowed();
        let found = fs.metadata_pages(
            0,
            &[InodeNeed {
                ino: *ino,
                need,
                first_use_ns: 0,
            }],
        );
        let took = started.elapsed();
        let what = match need {
            Need::Search(name) => format!("search for {}", escape(name)),
            other => format!("{other:?}"),
        };
        println!("  inode {ino}, {what}: {} pages, {took:?}", found.pages());
        for touch in found.touches {
            println!("    {} +{}", touch.start_page, touch.pages);
        }
        for (ino, error) in found.failed {
            println!("    failed: inode {ino}: {error}");
        }
    }
    Ok(())
}

/// A need that owns its name.
enum Step {
    Search(Vec<u8>),
    Other(Need<'static>),
}

impl Step {
    fn borrowed(&self) -> Need<'_> {
        match self {
            Step::Search(name) => Need::Search(name),
            Step::Other(need) => *need,
        }
    }
}

/// Inodes on the way to `path` that lie on device `dev`, and what is needed of
/// them.
fn walk(path: &Path, dev: u64) -> anyhow::Result<Vec<(u64, Step)>> {
    let mut steps = Vec::new();
    let mut at = PathBuf::new();
    for component in path.components() {
        if let Component::Normal(name) = component {
            let directory = at.metadata()?;
            if directory.dev() == dev {
                steps.push((directory.ino(), Step::Search(name.as_bytes().to_vec())));
            }
        }
        at.push(<Component<'_> as AsRef<OsStr>>::as_ref(&component));
    }
    if let Ok(target) = at.symlink_metadata() {
        let kind = target.file_type();
        let last = if kind.is_dir() {
            Need::List
        } else if kind.is_symlink() {
            Need::ReadLink
        } else {
            Need::ReadAll
        };
        steps.push((target.ino(), Step::Other(last)));
    }
    Ok(steps)
}
