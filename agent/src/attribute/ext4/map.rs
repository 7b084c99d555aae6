//! Which blocks hold a file's data, and which hold the map that says so.
//!
//! Format: `Documentation/filesystems/ext4/{ifork,blockmap}.rst`.

use std::ops::Range;

use super::bytes::{Fields, partition_point};
use super::inode::Inode;
use super::reader::Reader;
use super::{BlockSource, Ext4Error};

const EXTENT_MAGIC: u16 = 0xF30A;
/// Size of a node's header and of each of its entries, bytes.
const EXTENT_ENTRY: usize = 12;
/// `EXT4_MAX_EXTENT_DEPTH`.
const MAX_DEPTH: u16 = 5;
/// An extent longer than this is allocated but unwritten; the rest is its length.
const MAX_EXTENT_LENGTH: u16 = 32768;

/// Blocks of `i_block` that are mapped directly.
const DIRECT: u64 = 12;

/// A run of a file's blocks that lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First block of the file.
    pub(super) logical: u64,
    /// First block of the filesystem.
    pub(super) physical: u64,
    /// Number of blocks, at least 1; all within the filesystem.
    pub(super) blocks: u64,
}

/// How a range of a file's blocks is mapped.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// Blocks outside the inode that hold the map: extent tree nodes or
    /// indirect blocks, each before those it leads to.
    pub(super) nodes: Vec<u64>,
    /// Where the data lies. Holes are left out.
    pub(super) runs: Vec<Run>,
}

/// What of a mapping is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// [`Mapping::nodes`] only: the last level is not read, since the level
    /// above tells where it lies.
    Nodes,
    /// Both.
    Runs,
}

/// Maps the blocks `range` of `inode`.
pub(super) fn map(
    reader: &mut Reader<'_, impl BlockSource + ?Sized>,
    inode: &Inode,
    range: Range<u64>,
    wanted: Wanted,
) -> Result<Mapping, Ext4Error> {
    let mut mapper = Mapper {
        reader,
        range,
        wanted,
        mapping: Mapping::default(),
    };
    if inode.is_inline() || mapper.range.is_empty() {
        return Ok(mapper.mapping);
    }
    let root = Fields {
        bytes: &inode.i_block,
        structure: "block map of inode",
        number: inode.number,
    };
    if inode.has_extents() {
        mapper.extent_node(root, None)?;
    } else {
        mapper.block_map(root)?;
    }
    Ok(mapper.mapping)
}

struct Mapper<'r, 's, S: ?Sized> {
    reader: &'r mut Reader<'s, S>,
    range: Range<u64>,
    wanted: Wanted,
    mapping: Mapping,
}

impl<S: BlockSource + ?Sized> Mapper<'_, '_, S> {
    /// Follows one node; `expected` is the depth that its parent gives it.
    fn extent_node(&mut self, node: Fields<'_>, expected: Option<u16>) -> Result<(), Ext4Error> {
        if node.u16(0)? != EXTENT_MAGIC {
            return Err(node.corrupt("extent header without its magic number"));
        }
        let entries = usize::from(node.u16(2)?);
        let depth = node.u16(6)?;
        if depth > MAX_DEPTH || expected.is_some_and(|expected| expected != depth) {
            return Err(node.corrupt("extent tree depth"));
        }
        let at = |index: usize| EXTENT_ENTRY * (index + 1);
        if at(entries) > node.bytes.len() {
            return Err(node.corrupt("more extents than fit"));
        }
        // Every entry covers what lies from its own first block up to the next
        // entry's; the kernel takes the first one for what lies before it too.
        let wanted = self.range.clone();
        let first = partition_point(0, entries, |index| {
            Ok(u64::from(node.u32(at(index))?) <= wanted.start)
        })?
        .saturating_sub(1);
        for index in first..entries {
            let entry = node.from(at(index))?;
            let logical = u64::from(entry.u32(0)?);
            if index > first && logical >= wanted.end {
                break;
            }
            self.reader.step()?;
            if depth == 0 {
                let length = entry.u16(4)?;
                let length = if length > MAX_EXTENT_LENGTH {
                    length - MAX_EXTENT_LENGTH
                } else {
                    length
                };
                let physical = u64::from(entry.u16(6)?) << 32 | u64::from(entry.u32(8)?);
                self.run(node, logical, physical, length.into())?;
            } else {
                let block = u64::from(entry.u16(8)?) << 32 | u64::from(entry.u32(4)?);
                self.mapping
                    .nodes
                    .push(self.reader.check("extent node", block)?);
                if depth > 1 || self.wanted == Wanted::Runs {
                    let bytes = self.reader.block("extent node", block)?;
                    let child = Fields {
                        bytes: &bytes,
                        structure: "extent node",
                        number: block,
                    };
                    self.extent_node(child, Some(depth - 1))?;
                }
            }
        }
        Ok(())
    }

    /// The map of ext2 and ext3: direct blocks, then trees of 1 to 3 levels.
    fn block_map(&mut self, root: Fields<'_>) -> Result<(), Ext4Error> {
        for index in self.range.start..self.range.end.min(DIRECT) {
            let block = u64::from(root.u32(index as usize * 4)?);
            if block != 0 {
                self.run(root, index, block, 1)?;
            }
        }
        let per_block = u64::from(self.reader.superblock.block_size / 4);
        let mut first = DIRECT;
        // 3 levels of 64 KiB blocks map 2^42 blocks: no product overflows.
        for level in 1..=3_u32 {
            let block = u64::from(root.u32((DIRECT as usize + level as usize - 1) * 4)?);
            self.indirect(block, level, first, per_block)?;
            first += per_block.pow(level);
        }
        Ok(())
    }

    /// Follows an indirect block that maps the blocks from `first` on through
    /// `level` levels, itself included.
    fn indirect(
        &mut self,
        block: u64,
        level: u32,
        first: u64,
        per_block: u64,
    ) -> Result<(), Ext4Error> {
        let end = first + per_block.pow(level);
        let wanted = self.range.start.max(first)..self.range.end.min(end);
        if block == 0 || wanted.is_empty() {
            return Ok(());
        }
        self.reader.step()?;
        self.mapping
            .nodes
            .push(self.reader.check("indirect block", block)?);
        if level == 1 && self.wanted == Wanted::Nodes {
            return Ok(());
        }
        let bytes = self.reader.block("indirect block", block)?;
        let node = Fields {
            bytes: &bytes,
            structure: "indirect block",
            number: block,
        };
        let span = per_block.pow(level - 1);
        for index in (wanted.start - first) / span..=(wanted.end - 1 - first) / span {
            let child = u64::from(node.u32(index as usize * 4)?);
            if level > 1 {
                self.indirect(child, level - 1, first + index * span, per_block)?;
            } else if child != 0 {
                self.reader.step()?;
                self.run(node, first + index, child, 1)?;
            }
        }
        Ok(())
    }

    /// Notes that `blocks` blocks from `logical` on lie at `physical`, as far
    /// as they are wanted.
    fn run(
        &mut self,
        node: Fields<'_>,
        logical: u64,
        physical: u64,
        blocks: u64,
    ) -> Result<(), Ext4Error> {
        let end = physical.checked_add(blocks);
        if physical == 0 || end.is_none_or(|end| end > self.reader.superblock.blocks) {
            return Err(node.corrupt("maps blocks beyond the filesystem"));
        }
        let start = self.range.start.max(logical);
        let end = self.range.end.min(logical + blocks);
        if self.wanted == Wanted::Nodes || start >= end {
            return Ok(());
        }
        let physical = physical + (start - logical);
        let blocks = end - start;
        match self.mapping.runs.last_mut() {
            Some(last)
                if last.logical + last.blocks == start
                    && last.physical + last.blocks == physical =>
            {
                last.blocks += blocks;
            }
            _ => self.mapping.runs.push(Run {
                logical: start,
                physical,
                blocks,
            }),
        }
        Ok(())
    }
}
