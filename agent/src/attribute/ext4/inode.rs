//! Inodes. Format: `Documentation/filesystems/ext4/inodes.rst`.

use super::bytes::Fields;
use super::reader::Reader;
use super::{BlockSource, Ext4Error};

/// Bytes of `i_block`: block map, root of the extent tree, or a short link.
pub(super) const I_BLOCK_SIZE: usize = 60;

const FLAG_ENCRYPT: u32 = 0x800;
const FLAG_INDEX: u32 = 0x1000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE_DATA: u32 = 0x1000_0000;
const FLAG_CASEFOLD: u32 = 0x4000_0000;

/// What is needed of an inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// Block of the inode table that it stands in.
    pub(super) table_block: u64,
    /// Size of the file in bytes.
    pub(super) size: u64,
    /// Block of extended attributes, 0 for none.
    pub(super) attribute_block: u64,
    pub(super) i_block: [u8; I_BLOCK_SIZE],
    mode: u16,
    flags: u32,
}

impl Inode {
    pub(super) fn read(
        reader: &mut Reader<'_, impl BlockSource + ?Sized>,
        ino: u64,
    ) -> Result<Self, Ext4Error> {
        let superblock = reader.superblock;
        let place = superblock.inode_place(reader, ino)?;
        let block = reader.block("inode table", place.block)?;
        let end = place.offset + superblock.inode_size();
        let bytes = block.get(place.offset..end).unwrap_or_default();
        let raw = Fields {
            bytes,
            structure: "inode",
            number: ino,
        };
        let mode = raw.u16(0x0)?;
        let links = raw.u16(0x1A)?;
        if mode == 0 || links == 0 {
            return Err(Ext4Error::FreeInode(ino));
        }
        // As the kernel: the high halves mean something only with the feature.
        let size_high = if mode & 0xF000 == 0x8000 || superblock.has_largedir() {
            raw.u32(0x6C)?
        } else {
            0
        };
        let attributes_high = if superblock.is_64bit() {
            raw.u16(0x76)?
        } else {
            0
        };
        Ok(Self {
            number: ino,
            table_block: place.block,
            size: u64::from(size_high) << 32 | u64::from(raw.u32(0x4)?),
            attribute_block: u64::from(attributes_high) << 32 | u64::from(raw.u32(0x68)?),
            i_block: raw.array(0x28)?,
            mode,
            flags: raw.u32(0x20)?,
        })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.mode & 0xF000 == 0x4000
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode & 0xF000 == 0x8000
    }

    /// A symbolic link whose target doesn't fit into the inode.
    pub(super) fn is_slow_link(&self) -> bool {
        self.mode & 0xF000 == 0xA000
            && !self.is_inline()
            && (self.has_extents() || self.size >= I_BLOCK_SIZE as u64)
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    /// The data stands in the inode itself.
    pub(super) fn is_inline(&self) -> bool {
        self.flags & FLAG_INLINE_DATA != 0
    }

    /// A directory with a hash tree.
    pub(super) fn is_indexed(&self) -> bool {
        self.flags & FLAG_INDEX != 0
    }

    /// Names are hashed as they look after encryption or case folding, not as
    /// they are given.
    pub(super) fn hashes_other_names(&self) -> bool {
        self.flags & (FLAG_ENCRYPT | FLAG_CASEFOLD) != 0
    }
}
