//! What the probes send through the ring buffer.

/// Pages of one chunk: the bits of a `u64`.
pub const CHUNK_PAGES: u64 = 64;

/// Longest path in a record, in bytes. A longer one is cut and flagged.
pub const MAX_PATH: usize = 4096;

/// Most components of a path that a probe walks. A deeper one is flagged.
pub const PATH_COMPONENTS: u32 = 64;

/// [`InodeRecord::flags`]: the path is incomplete (deeper than
/// [`PATH_COMPONENTS`] or longer than [`MAX_PATH`]): its leading components are
/// missing.
pub const INODE_TRUNCATED: u32 = 1;

/// What kind of record a ring buffer entry is: its first field.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// [`TouchRecord`]: pages read for certain.
    Touch = 1,
    /// [`FaultRecord`]: a page fault that mapped a window of cached pages.
    Fault = 2,
    /// [`TouchRecord`] whose inode is a block device: pages inserted into its
    /// page cache (filesystem metadata read from disk).
    Block = 3,
    /// [`InodeRecord`]: first sight of an inode, with its path.
    Inode = 4,
    /// [`NameRecord`]: a path given to a system call.
    Name = 5,
    /// [`NameRecord`]: a program was executed; no base.
    Exec = 6,
    /// [`NameRecord`] without path: the directory `base` was listed.
    List = 7,
    /// [`CgroupRecord`]: a cgroup was made. In the ring of signals.
    CgroupMade = 8,
    /// [`CgroupRecord`]: a cgroup was removed. In the ring of signals.
    CgroupGone = 9,
    /// [`CgroupRecord`]: somebody came into a cgroup in which nobody was, of those that the
    /// agent asked for. In the ring of signals.
    CgroupFilled = 10,
}

impl RecordKind {
    /// The kind with this number.
    pub const fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Touch,
            2 => Self::Fault,
            3 => Self::Block,
            4 => Self::Inode,
            5 => Self::Name,
            6 => Self::Exec,
            7 => Self::List,
            8 => Self::CgroupMade,
            9 => Self::CgroupGone,
            10 => Self::CgroupFilled,
            _ => return None,
        })
    }
}

/// How every record begins.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// A [`RecordKind`].
    pub kind: u32,
    /// Thread group (process) id in the initial pid namespace.
    pub tgid: u32,
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Id of the cgroup (v2) that did it.
    pub cgroup: u64,
}

/// New pages of one chunk of one file.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchRecord {
    /// See [`Header`].
    pub header: Header,
    /// Kernel address of the inode: with `ino` and `generation`, its identity
    /// while it stays in memory.
    pub inode: u64,
    /// Inode number.
    pub ino: u64,
    /// Inode generation.
    pub generation: u32,
    /// `s_dev` of the superblock (`i_rdev` for [`RecordKind::Block`]), in the
    /// kernel's encoding: major << 20 | minor.
    pub dev: u32,
    /// Chunk: the first page divided by [`CHUNK_PAGES`].
    pub chunk: u64,
    /// Pages of the chunk that are new, bit 0 the first.
    pub pages: u64,
}

/// A page fault whose window was mapped around the page that faulted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// See [`Header`].
    pub header: Header,
    /// As in [`TouchRecord`].
    pub inode: u64,
    /// As in [`TouchRecord`].
    pub ino: u64,
    /// As in [`TouchRecord`].
    pub generation: u32,
    /// As in [`TouchRecord`].
    pub dev: u32,
    /// First page of the window.
    pub start: u64,
    /// Last page of the window.
    pub last: u64,
    /// Virtual page number (address / 4096) that faulted; 0 when unknown.
    pub vpn: u64,
}

/// An inode seen for the first time. The path follows the fixed part:
/// components from the leaf up to (not including) the superblock's root, each
/// ended by a NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRecord {
    /// See [`Header`].
    pub header: Header,
    /// As in [`TouchRecord`].
    pub inode: u64,
    /// As in [`TouchRecord`].
    pub ino: u64,
    /// As in [`TouchRecord`].
    pub generation: u32,
    /// As in [`TouchRecord`].
    pub dev: u32,
    /// `i_mode`.
    pub mode: u32,
    /// [`INODE_TRUNCATED`].
    pub flags: u32,
    /// Bytes of path that follow.
    pub path_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// A path as a program gave it, which follows the fixed part, without NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// See [`Header`].
    pub header: Header,
    /// Inode of the directory that the path starts from (current directory or
    /// directory descriptor; the process' root for an absolute path), as in
    /// [`TouchRecord`]; 0 when unknown.
    pub base: u64,
    /// `base`'s inode number.
    pub base_ino: u64,
    /// `base`'s generation.
    pub base_generation: u32,
    /// `base`'s device.
    pub base_dev: u32,
    /// The system call's result (negative: errno).
    pub result: i64,
    /// Bytes of path that follow.
    pub path_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// A cgroup (v2) that was made or removed: `header.cgroup`. Its path from the root of
/// the hierarchy follows the fixed part, without NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupRecord {
    /// See [`Header`]; time and process are those of who did it.
    pub header: Header,
    /// Id of the cgroup it is in; 0 when unknown.
    pub parent: u64,
    /// Bytes of path that follow.
    pub path_len: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    super::assert_size::<Header, 24>();
    super::assert_size::<TouchRecord, 64>();
    super::assert_size::<FaultRecord, 72>();
    super::assert_size::<InodeRecord, 64>();
    super::assert_size::<NameRecord, 64>();
    super::assert_size::<CgroupRecord, 40>();
};
