//! The program that is recorded: this test binary, started again with a script
//! of what to do.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use headstart::model::PAGE_SIZE;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// Where the script is.
const SCRIPT: &str = "HEADSTART_TRUTH_SCRIPT";

/// Something done to a file; names are bytes, which need not be UTF-8.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Op {
    file: Vec<u8>,
    how: How,
}

/// (offset, length) in bytes.
type Ranges = Vec<(u64, u64)>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum How {
    Read(Ranges),
    ReadVectored(Ranges),
    /// All of the file, from its beginning to its end.
    Stream(Stream),
    ReadDirect(Ranges),
    Sendfile(u64, u64),
    Splice(u64, u64),
    /// copy_file_range(2) of (offset, length) to another file.
    CopyTo(Vec<u8>, u64, u64),
    /// posix_fadvise(WILLNEED).
    AskFor(u64, u64),
    Map(Mapping),
    /// One byte of every 64-page chunk, this many chunks, this many times.
    EveryChunk(u64, u64),
    Execute(Vec<String>),
    Open,
    Stat,
    Access,
    ReadLink,
    List,
    /// open(2), stat(2), lstat(2), access(2), readlink(2): calls that glibc no
    /// longer makes.
    OldCalls,
    /// openat(2) of a name relative to the directory `file`.
    OpenBelow(Vec<u8>),
    StatBelow(Vec<u8>),
    GetAttribute,
    ListAttributes,
    MakeDirectory,
    /// unlinkat(2), whether it is there or not.
    TryRemove,
    ChangeMode,
    /// inotify_add_watch(2).
    Watch,
    /// connect(2) to a socket at the path, which ends with the address, without a NUL.
    Connect,
    /// The same in the abstract name space, and to an address of IPv4 of the same bytes.
    ConnectElsewhere,
    ChangeDirectory,
    ChangeRoot,
    Remove,
    /// All caches of the machine, whatever the file.
    DropCaches,
    RenameTo(Vec<u8>),
    /// One byte to, or from, a FIFO.
    Tell,
    Await,
}

/// A mapping and the pages of the file that are touched in it, in this order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mapping {
    pub(crate) first: u64,
    pub(crate) pages: u64,
    /// The mapping begins this many pages behind a 2 MiB border of memory.
    pub(crate) skew: u64,
    pub(crate) advice: Advise,
    /// MAP_POPULATE.
    pub(crate) populate: bool,
    /// (first, pages) for MADV_POPULATE_READ, after the touches.
    pub(crate) populate_parts: Vec<(u64, u64)>,
    pub(crate) touch: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Advise {
    #[default]
    Normal,
    Random,
    Huge,
}

impl Op {
    pub(crate) fn new(file: impl AsRef<OsStr>, how: How) -> Self {
        Self {
            file: file.as_ref().as_bytes().to_vec(),
            how,
        }
    }

    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.file))
    }

    fn open(&self) -> File {
        File::open(self.path()).expect("open")
    }

    fn perform(&self) {
        match &self.how {
            How::Read(at) => {
                let file = self.open();
                for &(offset, length) in at {
                    read(&file, offset, &mut vec![0; length as usize]);
                }
            }
            How::ReadVectored(at) => {
                let file = self.open();
                for &(offset, length) in at {
                    let mut one = vec![0; length as usize / 2];
                    let mut two = vec![0; length as usize - one.len()];
                    let mut parts = [
                        std::io::IoSliceMut::new(&mut one),
                        std::io::IoSliceMut::new(&mut two),
                    ];
                    let got = rustix::io::preadv(&file, &mut parts, offset).expect("preadv");
                    assert_eq!(got as u64, length);
                }
            }
            How::Stream(stream) => stream.perform(&self.open(), self.path()),
            How::ReadDirect(at) => self.read_direct(at),
            &How::Sendfile(offset, length) => {
                let null = File::options().write(true).open("/dev/null").expect("null");
                let file = self.open();
                let mut from = offset;
                while from < offset + length {
                    let left = (offset + length - from) as usize;
                    let sent = rustix::fs::sendfile(&null, &file, Some(&mut from), left);
                    assert!(sent.expect("sendfile") > 0);
                }
            }
            &How::Splice(offset, length) => self.splice(offset, length),
            How::CopyTo(target, offset, length) => {
                let file = self.open();
                let target = File::create(OsStr::from_bytes(target)).expect("target");
                let mut from = *offset;
                while from < offset + length {
                    let left = (offset + length - from) as usize;
                    let sent =
                        rustix::fs::copy_file_range(&file, Some(&mut from), &target, None, left);
                    assert!(sent.expect("copy_file_range") > 0);
                }
            }
            &How::AskFor(offset, length) => {
                let length = std::num::NonZeroU64::new(length);
                let advice = rustix::fs::Advice::WillNeed;
                rustix::fs::fadvise(self.open(), offset, length, advice).expect("fadvise");
            }
            How::Map(mapping) => mapping.perform(&self.open()),
            &How::EveryChunk(chunks, times) => {
                let file = self.open();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).expect("fadvise");
                for chunk in (0..times).flat_map(|_| 0..chunks) {
                    read(&file, chunk * 64 * PAGE_SIZE, &mut [0]);
                }
            }
            How::Execute(args) => {
                let status = std::process::Command::new(self.path())
                    .args(args)
                    .stdout(std::process::Stdio::null())
                    .status();
                assert!(status.expect("exec").success());
            }
            How::Tell => {
                let mut fifo = File::options().write(true).open(self.path()).expect("fifo");
                fifo.write_all(b"x").expect("write");
            }
            How::Await => self.open().read_exact(&mut [0]).expect("read"),
            _ => self.perform_on_name(),
        }
    }

    /// What concerns the name alone may fail: that is what some tests are about.
    fn perform_on_name(&self) {
        let path = self.path();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let below = |name: &[u8], call: &dyn Fn(&File, &OsStr)| {
            call(&self.open(), OsStr::from_bytes(name));
        };
        match &self.how {
            How::Open => drop(File::open(path)),
            How::Stat => drop(rustix::fs::statat(CWD, path, AtFlags::empty())),
            How::Access => drop(rustix::fs::access(path, rustix::fs::Access::READ_OK)),
            How::ReadLink => drop(std::fs::read_link(path)),
            How::List => drop(std::fs::read_dir(path).expect("directory").count()),
            How::OldCalls => self.old_calls(),
            How::OpenBelow(name) => below(name, &|directory, name| {
                drop(rustix::fs::openat(directory, name, flags, Mode::empty()));
            }),
            How::StatBelow(name) => below(name, &|directory, name| {
                let _ = rustix::fs::statat(directory, name, AtFlags::empty());
            }),
            How::GetAttribute => {
                let _ = rustix::fs::getxattr(path, "user.test", &mut [0u8; 16][..]);
            }
            How::ListAttributes => {
                let _ = rustix::fs::listxattr(path, &mut [0u8; 64][..]);
            }
            How::MakeDirectory => drop(std::fs::create_dir(path)),
            How::TryRemove => drop(rustix::fs::unlinkat(CWD, path, AtFlags::empty())),
            How::ChangeMode => drop(rustix::fs::chmod(path, Mode::from_raw_mode(0o600))),
            How::Watch => {
                use rustix::fs::inotify;
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
                let _ = inotify::add_watch(watch, path, inotify::WatchFlags::MODIFY);
            }
            How::Connect => connect(libc::AF_UNIX, &self.file),
            How::ConnectElsewhere => {
                connect(libc::AF_UNIX, &[b"\0", &self.file[..]].concat());
                connect(libc::AF_INET, &self.file);
            }
            How::ChangeDirectory => std::env::set_current_dir(path).expect("chdir"),
            How::ChangeRoot => rustix::process::chroot(path).expect("chroot"),
            How::Remove => std::fs::remove_file(path).expect("remove"),
            How::DropCaches => headstart::run::drop_caches().expect("root can drop caches"),
            How::RenameTo(name) => {
                std::fs::rename(path, OsStr::from_bytes(name)).expect("rename");
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn read_direct(&self, at: &[(u64, u64)]) {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::open(self.path(), flags, Mode::empty()).expect("open for direct I/O"),
        );
        for &(offset, length) in at {
            let mut space = vec![0; (length + PAGE_SIZE) as usize];
            let skip = space.as_ptr().align_offset(PAGE_SIZE as usize);
            read(&file, offset, &mut space[skip..skip + length as usize]);
        }
    }

    fn splice(&self, offset: u64, length: u64) {
        let file = self.open();
        let (from_pipe, to_pipe) = rustix::pipe::pipe().expect("pipe");
        let mut from_pipe = File::from(from_pipe);
        let mut from = offset;
        while from < offset + length {
            let part = (offset + length - from).min(32 << 10) as usize;
            let flags = rustix::pipe::SpliceFlags::empty();
            let moved = rustix::pipe::splice(&file, Some(&mut from), &to_pipe, None, part, flags)
                .expect("splice");
            from_pipe.read_exact(&mut vec![0; moved]).expect("read");
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn old_calls(&self) {
        let path = std::ffi::CString::new(self.file.clone()).expect("no NUL");
        let mut room = [0u8; 4096];
        // SAFETY: the path ends with a NUL, and what the calls write (a struct
        // stat, at most `room.len()` bytes of a link) fits into `room`.
        unsafe {
            let fd = libc::syscall(libc::SYS_open, path.as_ptr(), libc::O_RDONLY, 0);
            if fd >= 0 {
                libc::close(fd as i32);
            }
            for call in [libc::SYS_stat, libc::SYS_lstat] {
                libc::syscall(call, path.as_ptr(), room.as_mut_ptr());
            }
            libc::syscall(libc::SYS_access, path.as_ptr(), libc::R_OK);
            let length = room.len();
            libc::syscall(libc::SYS_readlink, path.as_ptr(), room.as_mut_ptr(), length);
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn old_calls(&self) {
        drop(File::open(self.path()));
    }
}

impl Mapping {
    fn perform(&self, file: &File) {
        const HUGE: u64 = 2 << 20;
        let length = (self.pages * PAGE_SIZE) as usize;
        let room = length + 3 * HUGE as usize;
        let mut flags = MapFlags::PRIVATE | MapFlags::FIXED;
        if self.populate {
            flags |= MapFlags::POPULATE;
        }
        // SAFETY: address space is reserved first and the file mapped inside of
        // it; nothing else refers to it, and only pages inside are read. Nobody
        // shortens the file meanwhile.
        unsafe {
            let reserved = rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                room,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
            .expect("address space")
            .cast::<u8>();
            let border = reserved.add(reserved.align_offset(HUGE as usize));
            let start = border.add((self.skew * PAGE_SIZE) as usize).cast();
            let offset = self.first * PAGE_SIZE;
            let map = rustix::mm::mmap(start, length, ProtFlags::READ, flags, file, offset)
                .expect("mmap");
            let advice = match self.advice {
                Advise::Normal => Advice::Normal,
                Advise::Random => Advice::Random,
                Advise::Huge => Advice::LinuxHugepage,
            };
            // Huge pages need not be there: then it is an ordinary mapping.
            let _ = rustix::mm::madvise(map, length, advice);
            let page = |page: u64| {
                assert!((self.first..self.first + self.pages).contains(&page));
                map.cast::<u8>()
                    .add(((page - self.first) * PAGE_SIZE) as usize)
            };
            for &touched in &self.touch {
                page(touched).read_volatile();
            }
            for &(first, pages) in &self.populate_parts {
                let length = (pages * PAGE_SIZE) as usize;
                let populated =
                    rustix::mm::madvise(page(first).cast(), length, Advice::LinuxPopulateRead);
                if populated == Err(rustix::io::Errno::INVAL) {
                    // Before Linux 5.14.
                    for other in first..first + pages {
                        page(other).read_volatile();
                    }
                } else {
                    populated.expect("madvise");
                }
            }
            rustix::mm::munmap(reserved.cast(), room).expect("munmap");
        }
    }
}

/// Reads until `room` is full or the file ends.
/// Connects a socket of a family to an address of these bytes and no more; behind them in
/// memory there is something else.
fn connect(family: libc::c_int, address: &[u8]) {
    let mut bytes = [b'#'; 256];
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes[2..2 + address.len()].copy_from_slice(address);
    let length = 2 + address.len() as libc::socklen_t;
    // SAFETY: the address is as long as it is said to be; the socket is ours.
    unsafe {
        let socket = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "a socket");
        libc::connect(socket, bytes.as_ptr().cast(), length);
        libc::close(socket);
    }
}

fn read(file: &File, mut offset: u64, mut room: &mut [u8]) {
    while !room.is_empty() {
        match file.read_at(room, offset).expect("pread") {
            0 => return,
            read => {
                offset += read as u64;
                room = &mut room[read..];
            }
        }
    }
}

/// The command that does `ops`; `script` is written for it.
pub(crate) fn command(script: &Path, ops: &[Op]) -> Vec<OsString> {
    std::fs::write(script, serde_json::to_vec(ops).expect("plain data")).expect("script");
    let mut variable = OsString::from(format!("{SCRIPT}="));
    variable.push(script);
    let this = std::env::current_exe().expect("own path");
    vec![
        "env".into(),
        variable,
        this.into(),
        "--exact".into(),
        "reader::does_what_its_script_says".into(),
        "--nocapture".into(),
    ]
}

/// Not a test by itself: what [`command`] runs.
#[test]
fn does_what_its_script_says() {
    let Some(script) = std::env::var_os(SCRIPT) else {
        return;
    };
    let script = std::fs::read(script).expect("script");
    let ops: Vec<Op> = serde_json::from_slice(&script).expect("script");
    ops.iter().for_each(Op::perform);
}
