//! Ring buffer bytes → records. Pure.

use headstart_abi::{
    CHUNK_PAGES, CgroupRecord, FaultRecord, Header, INODE_TRUNCATED, InodeRecord, MAX_PATH,
    NameRecord, RecordKind, TouchRecord,
};

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind is.
    #[error("a record of kind {kind} has {len} bytes, too few")]
    Short {
        /// Number of the kind.
        kind: u32,
        /// Bytes there are.
        len: usize,
    },
    /// A kind that this build does not know.
    #[error("unknown record kind {0}: the probes are of another version")]
    Kind(u32),
    /// A field that can't be.
    #[error("a record's {0} is impossible")]
    Field(&'static str),
}

/// What tells an inode from all others while it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeKey {
    /// Kernel address.
    pub address: u64,
    /// Inode number.
    pub ino: u64,
    /// Generation.
    pub generation: u32,
    /// Device in the kernel's encoding: major << 20 | minor.
    pub dev: u32,
}

impl InodeKey {
    /// (major, minor) of the device.
    pub fn device(&self) -> (u32, u32) {
        (self.dev >> 20, self.dev & 0xfffff)
    }
}

/// Pages used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Of this file (or block device).
    pub inode: InodeKey,
    /// First page that bit 0 of `pages` stands for.
    pub base_page: u64,
    /// New pages.
    pub pages: u64,
}

/// A fault and its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of this file.
    pub inode: InodeKey,
    /// First page of the window.
    pub start: u64,
    /// Last page of the window, at most 63 behind `start`.
    pub last: u64,
    /// Virtual page number that faulted, if known.
    pub vpn: Option<u64>,
}

/// First sight of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Which.
    pub inode: InodeKey,
    /// `i_mode`.
    pub mode: u32,
    /// Components from the superblock's root down, joined by `/`.
    pub path: Vec<u8>,
    /// The path's leading components are missing.
    pub truncated: bool,
}

/// A name looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Directory it starts from, if known.
    pub base: Option<InodeKey>,
    /// As the program gave it.
    pub path: Vec<u8>,
    /// The call's result, negative: errno.
    pub result: i64,
}

/// A cgroup made, removed or filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// Id of the cgroup that it is in, if known.
    pub parent: Option<u64>,
    /// From the root of the hierarchy, beginning with `/`.
    pub path: Vec<u8>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Pages certainly used.
    Touch(Touch),
    /// A fault that mapped a window.
    Fault(Fault),
    /// Metadata blocks of a device.
    Block(Touch),
    /// An inode's path.
    Inode(Inode),
    /// A name given to a system call.
    Name(Name),
    /// A program executed, by this name.
    Exec(Name),
    /// A directory listed: the base.
    List(Name),
    /// The record's cgroup was made.
    CgroupMade(CgroupChange),
    /// The record's cgroup was removed.
    CgroupGone(CgroupChange),
    /// Somebody came into the record's cgroup, in which nobody was.
    CgroupFilled(CgroupChange),
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Cgroup id.
    pub cgroup: u64,
    /// What happened.
    pub what: What,
}

/// Decodes one ring buffer entry.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let number = bytes
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or(DecodeError::Short {
            kind: 0,
            len: bytes.len(),
        })?;
    let kind = RecordKind::from_u32(number).ok_or(DecodeError::Kind(number))?;
    let (header, what) = match kind {
        RecordKind::Touch | RecordKind::Block => {
            let raw: TouchRecord = take(bytes, number)?;
            let touch = Touch {
                inode: key(raw.inode, raw.ino, raw.generation, raw.dev),
                base_page: raw
                    .chunk
                    .checked_mul(CHUNK_PAGES)
                    .ok_or(DecodeError::Field("chunk"))?,
                pages: raw.pages,
            };
            let what = if kind == RecordKind::Touch {
                What::Touch(touch)
            } else {
                What::Block(touch)
            };
            (raw.header, what)
        }
        RecordKind::Fault => {
            let raw: FaultRecord = take(bytes, number)?;
            if raw.last < raw.start || raw.last - raw.start >= CHUNK_PAGES {
                return Err(DecodeError::Field("window"));
            }
            let fault = Fault {
                inode: key(raw.inode, raw.ino, raw.generation, raw.dev),
                start: raw.start,
                last: raw.last,
                vpn: (raw.vpn != 0).then_some(raw.vpn),
            };
            (raw.header, What::Fault(fault))
        }
        RecordKind::Inode => {
            let raw: InodeRecord = take(bytes, number)?;
            let tail = variable::<InodeRecord>(bytes, raw.path_len, number)?;
            let inode = Inode {
                inode: key(raw.inode, raw.ino, raw.generation, raw.dev),
                mode: raw.mode,
                path: reverse_components(tail),
                truncated: raw.flags & INODE_TRUNCATED != 0,
            };
            (raw.header, What::Inode(inode))
        }
        RecordKind::Name | RecordKind::Exec | RecordKind::List => {
            let raw: NameRecord = take(bytes, number)?;
            let name = Name {
                base: (raw.base != 0)
                    .then(|| key(raw.base, raw.base_ino, raw.base_generation, raw.base_dev)),
                path: variable::<NameRecord>(bytes, raw.path_len, number)?.to_vec(),
                result: raw.result,
            };
            let what = match kind {
                RecordKind::Name => What::Name(name),
                RecordKind::Exec => What::Exec(name),
                _ => What::List(name),
            };
            (raw.header, what)
        }
        RecordKind::CgroupMade | RecordKind::CgroupGone | RecordKind::CgroupFilled => {
            let raw: CgroupRecord = take(bytes, number)?;
            let change = CgroupChange {
                parent: (raw.parent != 0).then_some(raw.parent),
                path: variable::<CgroupRecord>(bytes, raw.path_len, number)?.to_vec(),
            };
            let what = match kind {
                RecordKind::CgroupMade => What::CgroupMade(change),
                RecordKind::CgroupFilled => What::CgroupFilled(change),
                _ => What::CgroupGone(change),
            };
            (raw.header, what)
        }
    };
    let Header {
        tgid,
        time_ns,
        cgroup,
        ..
    } = header;
    Ok(Record {
        time_ns,
        tgid,
        cgroup,
        what,
    })
}

fn key(address: u64, ino: u64, generation: u32, dev: u32) -> InodeKey {
    InodeKey {
        address,
        ino,
        generation,
        dev,
    }
}

/// The fixed part of a record.
fn take<T: Copy>(bytes: &[u8], kind: u32) -> Result<T, DecodeError> {
    if bytes.len() < size_of::<T>() {
        return Err(DecodeError::Short {
            kind,
            len: bytes.len(),
        });
    }
    // SAFETY: the ABI's records are repr(C), hold only integers (any bytes are
    // valid), and there are enough bytes; alignment is not assumed.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The path that follows the fixed part `T`.
fn variable<T>(bytes: &[u8], len: u32, kind: u32) -> Result<&[u8], DecodeError> {
    let len = len as usize;
    if len > MAX_PATH + 256 {
        return Err(DecodeError::Field("path length"));
    }
    bytes
        .get(size_of::<T>()..size_of::<T>() + len)
        .ok_or(DecodeError::Short {
            kind,
            len: bytes.len(),
        })
}

/// `leaf\0parent\0` → `parent/leaf`.
fn reverse_components(tail: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(tail.len());
    for component in tail.split(|&b| b == 0).rev().filter(|c| !c.is_empty()) {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn components_come_leaf_first() {
        assert_eq!(reverse_components(b"c\n\0b\0a\0"), b"a/b/c\n");
        assert_eq!(reverse_components(b""), b"");
    }

    #[test]
    fn unknown_kinds_are_named() {
        assert_eq!(decode(&99u32.to_le_bytes()), Err(DecodeError::Kind(99)));
        assert_eq!(decode(&[1]), Err(DecodeError::Short { kind: 0, len: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(kind in 0u32..11, tail in proptest::collection::vec(any::<u8>(), 0..128)) {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.extend(tail);
            let _ = decode(&bytes);
        }
    }
}
