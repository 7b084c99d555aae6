//! A file system in user space with one file, whose server can be made to stop answering.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// As in the kernel's uapi/linux/fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const ENOENT: i32 = -2;
const ENOSYS: i32 = -38;
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// Mounted at a directory; gone when dropped.
pub(crate) struct Fuse {
    mount: PathBuf,
    /// The connection: it ends with its last descriptor.
    device: Option<File>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Serves `file` of so many bytes. `None`, and why, where there is no such file system.
    pub(crate) fn mount(mount: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir(&mount).expect("a directory");
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                eprintln!("SKIPPED: /dev/fuse: {error}");
                return None;
            }
        };
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).expect("no NUL");
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        if let Err(error) = rustix::mount::mount("test", &mount, "fuse", flags, &*options) {
            eprintln!("SKIPPED: mounting fuse: {error}");
            return None;
        }
        let requests = device.try_clone().expect("a descriptor");
        let server = std::thread::spawn(move || serve(requests, bytes));
        Some(Self {
            mount,
            device: Some(device),
            server: Some(server),
        })
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.mount.join("file")
    }

    /// From now on nothing is answered.
    pub(crate) fn die(&mut self) {
        // The last that is: it does not exist.
        assert!(!Path::new(&self.mount.join("die")).exists());
        let server = self.server.take().expect("it lives");
        server.join().expect("no panic");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.die();
        }
        // Who waits for an answer gets an error.
        drop(self.device.take());
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.mount, flags);
    }
}

/// Answers until somebody asks for `die`.
fn serve(mut device: File, bytes: u64) {
    let mut request = vec![0; 256 << 10];
    loop {
        // Interrupted, or a request that was taken back.
        let Ok(length) = device.read(&mut request) else {
            continue;
        };
        let number = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four"));
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight"));
        let (code, unique, node) = (number(4), long(8), long(16));
        let body = 40;
        let name = &request[body..length];
        let mut over = false;
        let answer: Result<Vec<u8>, i32> = match code {
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            INIT => Ok(init(number(body + 4), number(body + 8))),
            LOOKUP if name == b"file\0" => Ok(entry(FILE, bytes)),
            LOOKUP => {
                over = name == b"die\0";
                Err(ENOENT)
            }
            // How long it holds: not at all; then what it is.
            GETATTR => Ok([&[0; 16][..], &attributes(node, bytes)].concat()),
            OPEN | OPENDIR => Ok(vec![0; 16]),
            READ => {
                let (offset, size) = (long(body + 8), u64::from(number(body + 16)));
                Ok(vec![7; size.min(bytes.saturating_sub(offset)) as usize])
            }
            STATFS => Ok(vec![0; 80]),
            RELEASE | FLUSH => Ok(Vec::new()),
            _ => Err(ENOSYS),
        };
        let (error, data) = match answer {
            Ok(data) => (0, data),
            Err(error) => (error, Vec::new()),
        };
        let mut reply = ((16 + data.len()) as u32).to_ne_bytes().to_vec();
        reply.extend(error.to_ne_bytes());
        reply.extend(unique.to_ne_bytes());
        reply.extend(data);
        // Whoever asked may be gone.
        let _ = device.write_all(&reply);
        if over {
            return;
        }
    }
}

/// `struct fuse_init_out`: version 7, what they know of it, and as much at a time as
/// requests have room for.
fn init(minor: u32, readahead: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7, minor.min(31), readahead, 0, 0, 128 << 10, 1] {
        out.extend(word.to_ne_bytes());
    }
    out.resize(64, 0);
    out
}

/// `struct fuse_entry_out`: forgotten at once, so that each look asks again.
fn entry(node: u64, bytes: u64) -> Vec<u8> {
    let mut out = node.to_ne_bytes().to_vec();
    out.resize(40, 0);
    out.extend(attributes(node, bytes));
    out
}

/// `struct fuse_attr`.
fn attributes(node: u64, bytes: u64) -> Vec<u8> {
    let (size, mode, links) = match node {
        ROOT => (0, 0o040_755, 2),
        _ => (bytes, 0o100_644, 1),
    };
    let mut out = Vec::new();
    for long in [node, size, size / 512, 0, 0, 0] {
        out.extend(long.to_ne_bytes());
    }
    for word in [0, 0, 0, mode, links, 0, 0, 0, 4096u32, 0] {
        out.extend(word.to_ne_bytes());
    }
    out
}
