//! Where ext2, ext3 and ext4 keep the metadata that looking names up needs.
//!
//! A cold look-up is a chain of small reads, each known only when the one
//! before it has come back: directory block, inode table block, extent tree
//! block, directory block. The kernel reads all of them through the page cache
//! of the block device, so whoever knows their places can have them read in
//! parallel, and the look-ups then cost no I/O. This module computes the
//! places from the filesystem's own structures, read through the same page
//! cache and therefore as current as what the kernel sees.
//!
//! Format: the kernel's `Documentation/filesystems/ext4/` and, where that is
//! silent, `fs/ext4/`. Checksums are not verified: a wrong answer costs a
//! useless read, and every number is checked before it is used.
//!
//! What is not covered: values of extended attributes kept in inodes of their
//! own (`ea_inode`), and bitmaps, which are read only to write.

mod bytes;
mod hash;
mod htree;
mod inode;
mod map;
mod needs;
mod reader;
mod superblock;
#[cfg(test)]
mod tests;

pub use hash::{HashVersion, dir_hash};
pub use needs::{InodeNeed, Metadata, Need};

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use superblock::Superblock;

/// Bytes that hold a filesystem.
pub trait BlockSource {
    /// Fills `buf` with what stands at `offset` (bytes).
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the source ends before `buf` is
    /// full; whatever the read failed with otherwise.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// Image bytes in memory.
impl BlockSource for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..));
        match from.and_then(|rest| rest.get(..buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A block device (or an image file), read through its page cache: the one
/// that a filesystem mounted from the device keeps its metadata in.
#[derive(Debug)]
pub struct DeviceSource(File);

impl DeviceSource {
    /// Opens the device at `path` for reading.
    ///
    /// # Errors
    /// As `open(2)`; a block device usually needs root.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?))
    }

    /// Takes an open device.
    pub fn new(file: File) -> Self {
        // The reads are scattered, each of one block: read-ahead would fetch
        // what nobody asked for. Only advice, so a failure changes nothing.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        Self(file)
    }
}

impl BlockSource for DeviceSource {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// Why a filesystem, or an inode of it, can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// No ext2, ext3 or ext4 superblock: another filesystem, or none.
    #[error("not an ext2, ext3 or ext4 filesystem")]
    NotExt4,
    /// The filesystem uses features that change its layout in unknown ways.
    #[error("filesystem has unknown incompatible features {features:#x}")]
    Unsupported {
        /// The unknown bits of `s_feature_incompat`.
        features: u32,
    },
    /// A structure contradicts itself or the filesystem's size.
    #[error("{structure} {number}: {problem}")]
    Corrupt {
        /// Kind of structure.
        structure: &'static str,
        /// Which one: its block, or the inode's or group's number.
        number: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The inode is free: the file is gone.
    #[error("inode {0} is not in use")]
    FreeInode(u64),
    /// The work bound of one call is spent.
    #[error("too much metadata to look at in one call")]
    TooMuch,
    /// The device failed.
    #[error("reading {length} bytes at {offset}")]
    Read {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        length: usize,
        /// Why.
        source: io::Error,
    },
}

/// An ext2, ext3 or ext4 filesystem on a [`BlockSource`].
#[derive(Debug)]
pub struct Ext4<'s, S: ?Sized> {
    source: &'s S,
    superblock: Superblock,
}

impl<'s, S: BlockSource + ?Sized> Ext4<'s, S> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// [`Ext4Error::NotExt4`] for any other filesystem (XFS and btrfs keep
    /// metadata in caches of their own, which reading the device doesn't
    /// fill), [`Ext4Error::Unsupported`], [`Ext4Error::Corrupt`],
    /// [`Ext4Error::Read`].
    pub fn open(source: &'s S) -> Result<Self, Ext4Error> {
        let superblock = Superblock::read(source)?;
        Ok(Self { source, superblock })
    }

    /// `s_uuid`: tells whether the device still holds the volume meant.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Block size in bytes, 1 KiB to 64 KiB.
    pub fn block_size(&self) -> u32 {
        self.superblock.block_size
    }

    /// The pages of the device that the kernel reads to satisfy `needs`, which
    /// are in order of first use.
    ///
    /// Never fails as a whole: an inode that can't be understood is reported
    /// in [`Metadata::failed`], and the others are still answered. One call
    /// returns at most [`Metadata::MAX_PAGES`] pages.
    ///
    /// To warm them, read them through the device in full. Read-ahead alone
    /// (`POSIX_FADV_WILLNEED`) passes over pages that are there already, and
    /// where blocks are smaller than pages, such a page may hold only some of
    /// its blocks. For the same reason `mincore` denies pages that the
    /// filesystem itself has read; `cachestat` counts them.
    pub fn metadata_pages(&self, volume: u32, needs: &[InodeNeed<'_>]) -> Metadata {
        needs::resolve(self.source, &self.superblock, volume, needs)
    }
}
