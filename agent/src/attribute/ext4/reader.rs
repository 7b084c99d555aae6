//! Blocks of the filesystem, read once per call and counted.

use std::collections::HashMap;
use std::rc::Rc;

use super::superblock::Superblock;
use super::{BlockSource, Ext4Error};

/// Bytes of blocks kept; all are dropped when there are more. Needs come in
/// order of use, so what is used together is read together.
const KEPT_BYTES: usize = 32 << 20;

/// Bytes that one call may read.
const READ_BYTES: usize = 256 << 20;

/// Tree entries that one call may follow.
const STEPS: u32 = 1 << 20;

/// Reads whole blocks, within the bounds of one call.
pub(super) struct Reader<'s, S: ?Sized> {
    source: &'s S,
    pub(super) superblock: &'s Superblock,
    kept: HashMap<u64, Rc<[u8]>>,
    kept_bytes: usize,
    bytes_left: usize,
    steps_left: u32,
}

impl<'s, S: BlockSource + ?Sized> Reader<'s, S> {
    pub(super) fn new(source: &'s S, superblock: &'s Superblock) -> Self {
        Self {
            source,
            superblock,
            kept: HashMap::new(),
            kept_bytes: 0,
            bytes_left: READ_BYTES,
            steps_left: STEPS,
        }
    }

    /// Checks that `block` lies in the filesystem; block 0 never holds what is
    /// looked for here.
    pub(super) fn check(&self, structure: &'static str, block: u64) -> Result<u64, Ext4Error> {
        if block == 0 || block >= self.superblock.blocks {
            let problem = "lies beyond the filesystem";
            return Err(Ext4Error::Corrupt {
                structure,
                number: block,
                problem,
            });
        }
        Ok(block)
    }

    /// The bytes of a block that holds a `structure`.
    pub(super) fn block(
        &mut self,
        structure: &'static str,
        block: u64,
    ) -> Result<Rc<[u8]>, Ext4Error> {
        if let Some(bytes) = self.kept.get(&block) {
            return Ok(Rc::clone(bytes));
        }
        self.check(structure, block)?;
        let length = self.superblock.block_size as usize;
        self.bytes_left = self
            .bytes_left
            .checked_sub(length)
            .ok_or(Ext4Error::TooMuch)?;
        // No overflow: the superblock's check bounds blocks * block size.
        let offset = block * length as u64;
        let mut bytes = vec![0; length];
        self.source
            .read_at(offset, &mut bytes)
            .map_err(|source| Ext4Error::Read {
                offset,
                length,
                source,
            })?;
        if self.kept_bytes + length > KEPT_BYTES {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        self.kept_bytes += length;
        let bytes: Rc<[u8]> = bytes.into();
        self.kept.insert(block, Rc::clone(&bytes));
        Ok(bytes)
    }

    /// Counts one entry followed. Trees are bounded in depth, but a corrupt
    /// one can still lead to the same blocks in exponentially many ways.
    pub(super) fn step(&mut self) -> Result<(), Ext4Error> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Ext4Error::TooMuch)?;
        Ok(())
    }
}
