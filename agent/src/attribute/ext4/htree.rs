//! Which blocks of a large directory a look-up reads.
//!
//! Format: `Documentation/filesystems/ext4/directory.rst` ("Hash Tree
//! Directories").

use super::bytes::{Fields, partition_point};
use super::hash::{HashVersion, dir_hash};
use super::inode::Inode;
use super::map::{Mapping, Wanted, map};
use super::reader::Reader;
use super::{BlockSource, Ext4Error};

/// The root's fields stand behind the entries for `.` and `..`.
const ROOT_INFO: usize = 24;
/// An inner node's entries stand behind an empty directory entry.
const NODE_ENTRIES: usize = 8;
/// Size of an entry: hash, block of the directory.
const ENTRY: usize = 8;
/// The upper bits of an entry's block are reserved.
const BLOCK_MASK: u32 = 0x0fff_ffff;
/// Names with equal hashes may continue in the next leaf; more leaves than
/// this in a row are a corrupt tree.
const MAX_CONTINUED: usize = 8;

/// What a look-up found on its way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Searched {
    /// Blocks of the filesystem: extent nodes, index blocks and leaves of the
    /// directory in order of use.
    pub(super) blocks: Vec<u64>,
    /// Whether the tree could be followed to the leaf. If not (hash of an
    /// unknown kind, corrupt tree) the kernel may read any block.
    pub(super) complete: bool,
}

/// Entries of one index block. The first has no hash: it covers all below the
/// second's.
struct IndexNode {
    entries: Vec<(u32, u32)>,
    at: usize,
}

/// Follows the hash tree of `directory` to where `name` is or would be.
pub(super) fn search(
    reader: &mut Reader<'_, impl BlockSource + ?Sized>,
    directory: &Inode,
    name: &[u8],
) -> Result<Searched, Ext4Error> {
    let mut out = Searched::default();
    let root = read(reader, directory, 0, &mut out)?;
    if matches!(name, b"." | b"..") {
        out.complete = true;
        return Ok(out);
    }
    let root = Fields {
        bytes: &root,
        structure: "directory",
        number: directory.number,
    };
    let version = HashVersion::from_disk(root.u8(ROOT_INFO + 4)?);
    let Some(version) = version.filter(|_| !directory.hashes_other_names()) else {
        return Ok(out);
    };
    let superblock = reader.superblock;
    let hash = dir_hash(
        version,
        superblock.hash_unsigned,
        superblock.hash_seed.words(),
        name,
    );
    let levels = root.u8(ROOT_INFO + 6)?;
    if levels > if superblock.has_largedir() { 2 } else { 1 } {
        return Err(root.corrupt("hash tree has too many levels"));
    }

    let first = IndexNode::parse(root, ROOT_INFO + usize::from(root.u8(ROOT_INFO + 5)?), hash)?;
    let mut path = vec![first];
    descend(reader, directory, &mut path, levels, Some(hash), &mut out)?;
    for _ in 0..MAX_CONTINUED {
        // The next leaf's own entry says whether it continues this hash.
        let Some(level) = path
            .iter()
            .rposition(|node| node.at + 1 < node.entries.len())
        else {
            break;
        };
        path.truncate(level + 1);
        let Some(node) = path.last_mut() else { break };
        node.at += 1;
        if node
            .entries
            .get(node.at)
            .is_none_or(|&(next, _)| next & !1 != hash)
        {
            break;
        }
        descend(reader, directory, &mut path, levels, None, &mut out)?;
    }
    out.complete = true;
    Ok(out)
}

/// Reads index blocks below the last of `path` until a leaf's place is known,
/// taking the entry for `hash`, or the first of each if there is none.
fn descend(
    reader: &mut Reader<'_, impl BlockSource + ?Sized>,
    directory: &Inode,
    path: &mut Vec<IndexNode>,
    levels: u8,
    hash: Option<u32>,
    out: &mut Searched,
) -> Result<(), Ext4Error> {
    while let Some(block) = path
        .last()
        .and_then(|node| node.entries.get(node.at))
        .map(|e| e.1)
    {
        if path.len() > usize::from(levels) {
            return place(reader, directory, block, out).map(|_| ());
        }
        let bytes = read(reader, directory, block, out)?;
        let node = Fields {
            bytes: &bytes,
            structure: "directory index",
            number: block.into(),
        };
        path.push(IndexNode::parse(node, NODE_ENTRIES, hash.unwrap_or(0))?);
    }
    Ok(())
}

/// Notes where a block of the directory lies, and what maps it.
fn place(
    reader: &mut Reader<'_, impl BlockSource + ?Sized>,
    directory: &Inode,
    block: u32,
    out: &mut Searched,
) -> Result<u64, Ext4Error> {
    let block = u64::from(block);
    let Mapping { nodes, runs } = map(reader, directory, block..block + 1, Wanted::Runs)?;
    out.blocks.extend(nodes);
    let run = runs.first().ok_or(Ext4Error::Corrupt {
        structure: "directory",
        number: directory.number,
        problem: "hash tree leads to a block that is not there",
    })?;
    out.blocks.push(run.physical);
    Ok(run.physical)
}

fn read(
    reader: &mut Reader<'_, impl BlockSource + ?Sized>,
    directory: &Inode,
    block: u32,
    out: &mut Searched,
) -> Result<std::rc::Rc<[u8]>, Ext4Error> {
    let physical = place(reader, directory, block, out)?;
    reader.block("directory", physical)
}

impl IndexNode {
    /// Parses the entries that start at `start`, and finds the one for `hash`.
    fn parse(node: Fields<'_>, start: usize, hash: u32) -> Result<Self, Ext4Error> {
        // In place of the first entry's hash: u16 limit, u16 count.
        let count = usize::from(node.u16(start + 2)?);
        let raw = node.from(start)?;
        if count == 0 || count > raw.bytes.len() / ENTRY {
            return Err(node.corrupt("entry count of an index block"));
        }
        let mut entries = Vec::with_capacity(count);
        for index in 0..count {
            let hash = if index == 0 {
                0
            } else {
                raw.u32(index * ENTRY)?
            };
            entries.push((hash, raw.u32(index * ENTRY + 4)? & BLOCK_MASK));
        }
        let at = partition_point(1, count, |index| Ok(raw.u32(index * ENTRY)? <= hash))? - 1;
        Ok(Self { entries, at })
    }
}
