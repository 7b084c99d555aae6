//! Images to test with, and debugfs to ask about them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use headstart::attribute::ext4::Metadata;
use headstart::model::PAGE_SIZE;

/// Files in the large directory `/d`. mkfs takes quadratic time for them.
pub(crate) const NAMES: usize = 6_000;
/// Data pages of `/frag`: every third page is there.
pub(crate) const FRAGMENTS: u64 = 1500;

/// Name `i` in `/d`: of many lengths, every seventh with bytes over 127.
pub(crate) fn name(i: usize) -> Vec<u8> {
    let tail = "abcdefghijklmnopqrstuvwxyz-0123456789"
        .get(..i % 37)
        .unwrap_or_default();
    let odd = if i.is_multiple_of(7) { "é日" } else { "" };
    format!("n{i}{odd}{tail}").into_bytes()
}

/// A directory tree that meets every kind of structure.
pub(crate) fn make_tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("d")).expect("mkdir");
    for i in 0..NAMES {
        std::fs::write(tree.join("d").join(OsStr::from_bytes(&name(i))), b"").expect("file");
    }
    std::fs::create_dir_all(tree.join("a/b/c")).expect("mkdir");
    for i in 0..20 {
        std::fs::write(tree.join(format!("a/b/c/f{i}")), b"some data").expect("file");
    }
    symlink("y".repeat(200), tree.join("slow")).expect("symlink");
    symlink("short", tree.join("fast")).expect("symlink");
    let frag = std::fs::File::create(tree.join("frag")).expect("file");
    for i in 0..FRAGMENTS {
        frag.write_all_at(&[b'x'; 100], i * 3 * PAGE_SIZE)
            .expect("write");
    }
    std::fs::write(tree.join("attributes"), b"").expect("file");
    tree
}

/// Runs a program that must succeed, and returns what it printed.
pub(crate) fn run(program: &str, args: &[&OsStr]) -> Vec<u8> {
    let out = Command::new(program).args(args).output().expect(program);
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
    out.stdout
}

/// An image of `size` with `tree` in it. `hash` is the directory hash, and
/// whether it is unsigned.
pub(crate) fn make_image(tree: &Path, options: &[&str], size: &str, hash: (&str, bool)) -> PathBuf {
    let image = tree.with_file_name("image");
    let _ = std::fs::remove_file(&image);
    let mut args: Vec<&OsStr> = ["-q", "-F", "-F", "-N", "30000", "-d"]
        .map(OsStr::new)
        .into();
    args.push(tree.as_os_str());
    args.extend(options.iter().map(OsStr::new));
    args.extend([image.as_os_str(), OsStr::new(size)]);
    run("mkfs.ext4", &args);
    let algorithm = format!("hash_alg={}", hash.0);
    run(
        "tune2fs",
        &[OsStr::new("-E"), OsStr::new(&algorithm), image.as_os_str()],
    );
    let value = tree.with_file_name("value");
    std::fs::write(&value, "z".repeat(600)).expect("value");
    let flags = if hash.1 { 2 } else { 1 };
    let commands = format!(
        "ssv flags {flags}\nea_set -f {} /attributes user.big\n",
        value.display()
    );
    debugfs(&image, true, commands.as_bytes());
    // Populating makes linear directories; this makes hash trees of them.
    // Exits with 1 when it changed something.
    let fsck = Command::new("e2fsck")
        .args(["-fyD"])
        .arg(&image)
        .output()
        .expect("e2fsck");
    assert!(fsck.status.code() <= Some(1), "{fsck:?}");
    image
}

/// Runs debugfs commands on an image and returns their output.
pub(crate) fn debugfs(image: &Path, write: bool, commands: &[u8]) -> String {
    let mut child = Command::new("debugfs")
        .args(if write { &["-w"][..] } else { &[] })
        .args(["-f", "-"])
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("debugfs");
    let mut stdin = child.stdin.take().expect("stdin");
    let commands = commands.to_vec();
    let writer = std::thread::spawn(move || {
        stdin.write_all(&commands).expect("commands");
    });
    let out = child.wait_with_output().expect("debugfs");
    writer.join().expect("writer");
    String::from_utf8(out.stdout).expect("debugfs prints what it is given")
}

/// The number of a file.
pub(crate) fn ino(image: &Path, path: &str) -> u64 {
    let stat = debugfs(image, false, format!("stat {path}\n").as_bytes());
    number_after(&stat, "Inode: ").expect("inode number")
}

/// The number that follows `label` first.
pub(crate) fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = &text[text.find(label)? + label.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The 4 KiB pages that blocks lie in.
pub(crate) fn pages_of(blocks: impl IntoIterator<Item = u64>, block_size: u64) -> BTreeSet<u64> {
    blocks
        .into_iter()
        .flat_map(|block| {
            let first = block * block_size / PAGE_SIZE;
            first..first + block_size.div_ceil(PAGE_SIZE)
        })
        .collect()
}

/// The pages of an answer, which must have come without failures.
pub(crate) fn pages_found(found: &Metadata) -> BTreeSet<u64> {
    assert!(found.failed.is_empty(), "{:?}", found.failed);
    found
        .touches
        .iter()
        .flat_map(|touch| touch.start_page..touch.start_page + u64::from(touch.pages))
        .collect()
}
