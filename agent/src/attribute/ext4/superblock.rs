//! Superblock and group descriptors: which block holds an inode.
//!
//! Format: `Documentation/filesystems/ext4/{super,group_descr,blockgroup}.rst`.

use std::io;

use super::bytes::Fields;
use super::hash::HashSeed;
use super::reader::Reader;
use super::{BlockSource, Ext4Error};

/// The superblock's offset in bytes, whatever the block size.
const OFFSET: u64 = 1024;
const SIZE: usize = 1024;
const MAGIC: u16 = 0xEF53;

const COMPAT_DIR_INDEX: u32 = 0x20;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_LARGEDIR: u32 = 0x4000;

/// Features under which everything read here has its known place: filetype,
/// recover (a mounted filesystem always has it), meta_bg, extents, 64bit, mmp,
/// flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold.
/// Encrypted and casefolded directories are met where names are hashed.
const INCOMPAT_KNOWN: u32 = 0x2
    | 0x4
    | INCOMPAT_META_BG
    | 0x40
    | INCOMPAT_64BIT
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | INCOMPAT_LARGEDIR
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

/// What is needed of the superblock, checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    pub(super) uuid: [u8; 16],
    pub(super) hash_seed: HashSeed,
    /// Directory names are hashed as unsigned bytes.
    pub(super) hash_unsigned: bool,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u16,
    first_data_block: u32,
    blocks_per_group: u32,
    descriptor_size: u16,
    first_meta_bg: u32,
    backup_groups: [u32; 2],
}

/// Where an inode lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct InodePlace {
    pub(super) block: u64,
    /// Offset in the block, bytes.
    pub(super) offset: usize,
}

impl Superblock {
    pub(super) fn read(source: &(impl BlockSource + ?Sized)) -> Result<Self, Ext4Error> {
        let mut bytes = [0; SIZE];
        source
            .read_at(OFFSET, &mut bytes)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Ext4Error::NotExt4,
                _ => Ext4Error::Read {
                    offset: OFFSET,
                    length: SIZE,
                    source: error,
                },
            })?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Ext4Error> {
        let raw = Fields {
            bytes,
            structure: "superblock",
            number: 0,
        };
        if raw.u16(0x38)? != MAGIC {
            return Err(Ext4Error::NotExt4);
        }
        // Revision 0 has neither feature fields nor an inode size.
        let dynamic = raw.u32(0x4C)? >= 1;
        let field = |at| if dynamic { raw.u32(at) } else { Ok(0) };
        let (compat, incompat, ro_compat) = (field(0x5C)?, field(0x60)?, field(0x64)?);
        let unknown = incompat & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Ext4Error::Unsupported { features: unknown });
        }

        let log_block_size = raw.u32(0x18)?;
        if log_block_size > 6 {
            return Err(raw.corrupt("block size over 64 KiB"));
        }
        let block_size = 1024_u32 << log_block_size;
        let inode_size = if dynamic { raw.u16(0x58)? } else { 128 };
        if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
            return Err(raw.corrupt("inode size is not a power of two from 128 to the block size"));
        }
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let descriptor_size = if is_64bit { raw.u16(0xFE)? } else { 32 };
        if is_64bit && !(matches!(descriptor_size, 64..=1024) && descriptor_size.is_power_of_two())
        {
            return Err(raw.corrupt("group descriptor size is not a power of two from 64 to 1024"));
        }
        let blocks_high = if is_64bit { raw.u32(0x150)? } else { 0 };
        let blocks = u64::from(blocks_high) << 32 | u64::from(raw.u32(0x4)?);
        // 2^63 bytes is the end of any device: no byte offset overflows below.
        if blocks == 0 || blocks > (1 << 63) / u64::from(block_size) {
            return Err(raw.corrupt("block count is 0 or beyond any device"));
        }
        let inodes_per_group = raw.u32(0x28)?;
        if inodes_per_group == 0 || inodes_per_group > block_size * 8 {
            return Err(raw.corrupt("inodes per group is 0 or more than a bitmap block holds"));
        }
        let blocks_per_group = raw.u32(0x20)?;
        if blocks_per_group == 0 {
            return Err(raw.corrupt("0 blocks per group"));
        }
        let (backup_groups, flags) = if dynamic {
            ([raw.u32(0x24C)?, raw.u32(0x250)?], raw.u32(0x160)?)
        } else {
            ([0; 2], 0)
        };
        let mut seed = [0; 4];
        for (word, at) in seed.iter_mut().zip([0xEC, 0xF0, 0xF4, 0xF8]) {
            *word = field(at)?;
        }
        Ok(Self {
            block_size,
            blocks,
            uuid: if dynamic { raw.array(0x68)? } else { [0; 16] },
            hash_seed: HashSeed::new(seed),
            // With neither flag the kernel decides by its own char type and,
            // when it may write, sets the flag; names in ASCII hash alike.
            hash_unsigned: flags & 0x2 != 0,
            compat,
            incompat,
            ro_compat,
            inodes: raw.u32(0x0)?,
            inodes_per_group,
            inode_size,
            first_data_block: raw.u32(0x14)?,
            blocks_per_group,
            descriptor_size,
            first_meta_bg: field(0x104)?,
            backup_groups,
        })
    }

    /// Directories may have hash trees.
    pub(super) fn has_dir_index(&self) -> bool {
        self.compat & COMPAT_DIR_INDEX != 0
    }

    /// Directories may be larger than 4 GiB and have trees of three levels.
    pub(super) fn has_largedir(&self) -> bool {
        self.incompat & INCOMPAT_LARGEDIR != 0
    }

    /// Block numbers have 48 bits.
    pub(super) fn is_64bit(&self) -> bool {
        self.incompat & INCOMPAT_64BIT != 0
    }

    /// Bytes of an inode in its table.
    pub(super) fn inode_size(&self) -> usize {
        usize::from(self.inode_size)
    }

    /// Looks up where inode `ino` lies, reading its group's descriptor.
    pub(super) fn inode_place(
        &self,
        reader: &mut Reader<'_, impl BlockSource + ?Sized>,
        ino: u64,
    ) -> Result<InodePlace, Ext4Error> {
        let bad = |problem| Ext4Error::Corrupt {
            structure: "inode",
            number: ino,
            problem,
        };
        let number = u32::try_from(ino)
            .ok()
            .filter(|&ino| ino > 0 && ino <= self.inodes);
        let index = number.ok_or_else(|| bad("no such inode number"))? - 1;
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);

        let size = u32::from(self.descriptor_size);
        let per_block = self.block_size / size;
        let block = self.descriptor_block(group / per_block);
        let bytes = reader.block("group descriptor", block)?;
        let all = Fields {
            bytes: &bytes,
            structure: "group descriptor",
            number: group.into(),
        };
        // In range: size <= 1024 <= block size.
        let raw = all.from((group % per_block * size) as usize)?;
        let high = if size >= 64 { raw.u32(0x28)? } else { 0 };
        let table = u64::from(high) << 32 | u64::from(raw.u32(0x8)?);

        let offset = u64::from(index) * u64::from(self.inode_size);
        let block_size = u64::from(self.block_size);
        let block = table
            .checked_add(offset / block_size)
            .filter(|&block| table != 0 && block < self.blocks)
            .ok_or_else(|| raw.corrupt("inode table lies beyond the filesystem"))?;
        Ok(InodePlace {
            block,
            offset: (offset % block_size) as usize,
        })
    }

    /// The block that holds the `index`th block of group descriptors. May lie
    /// beyond the filesystem if the superblock is corrupt; the reader checks.
    fn descriptor_block(&self, index: u32) -> u64 {
        let index = u64::from(index);
        if self.incompat & INCOMPAT_META_BG == 0 || index < u64::from(self.first_meta_bg) {
            // Behind the superblock, which fills block 1 of 1 KiB blocks or
            // lies inside block 0 of larger ones.
            let superblock = u64::from(self.block_size == 1024);
            return superblock + 1 + index;
        }
        // The first group of each meta group holds its descriptors, behind a
        // copy of the superblock if that group has one.
        let per_block = u64::from(self.block_size / u32::from(self.descriptor_size));
        let group = per_block * index;
        let mut block = group * u64::from(self.blocks_per_group) + u64::from(self.first_data_block);
        block += u64::from(self.has_superblock(group));
        // bigalloc on 1 KiB blocks: group 0 starts with the boot block.
        if self.block_size == 1024 && index == 0 && self.first_data_block == 0 {
            block += 1;
        }
        block
    }

    /// Whether a group starts with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self
                .backup_groups
                .iter()
                .any(|&backup| u64::from(backup) == group);
        }
        if group == 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 {
            return true;
        }
        let is_power_of = |base: u64| {
            let mut rest = group;
            while rest.is_multiple_of(base) {
                rest /= base;
            }
            rest == 1
        };
        [3, 5, 7].into_iter().any(is_power_of)
    }
}
