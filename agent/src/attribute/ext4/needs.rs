//! From what was done with inodes to the device pages it takes.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::htree::{self, Searched};
use super::inode::Inode;
use super::map::{Mapping, Run, Wanted, map};
use super::reader::Reader;
use super::superblock::Superblock;
use super::{BlockSource, Ext4Error};
use crate::model::{BlockTouch, PAGE_SIZE};

/// Directories up to this size (bytes) are taken whole: one read in parallel
/// with others costs less than knowing better.
const SMALL_DIR: u64 = 64 << 10;

/// Bytes taken of a directory that has to be searched from its start.
const SEARCHED_DIR: u64 = 1 << 20;

/// Bytes taken of a directory that was listed.
const LISTED_DIR: u64 = 16 << 20;

/// What was done with an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'n> {
    /// It was looked up: stat, open, or passed through.
    Inode,
    /// A name was looked up in this directory, found or not.
    Search(&'n [u8]),
    /// The directory was listed.
    List,
    /// The symbolic link was read. Linux before 5.19 keeps long targets in the
    /// link's own page cache, which reading the device doesn't fill.
    ReadLink,
    /// Pages of the file were read (4 KiB pages of the file).
    Read {
        /// First page.
        start_page: u64,
        /// Number of pages.
        pages: u64,
    },
    /// The file was read, and it is not known where.
    ReadAll,
}

/// An inode and what was done with it. Every need includes [`Need::Inode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeNeed<'n> {
    /// Its number, as `stat(2)` tells it.
    pub ino: u64,
    /// What was done.
    pub need: Need<'n>,
    /// First use, ns since the run's start.
    pub first_use_ns: u64,
}

/// Where the metadata lies.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Pages of the device in order of first use, disjoint; neighbours of the
    /// same time are joined.
    pub touches: Vec<BlockTouch>,
    /// Inodes whose needs could not be followed to their end, and why. Each
    /// only once; what was found before the failure is in `touches`.
    pub failed: Vec<(u64, Ext4Error)>,
    /// Something was left out because a bound was reached.
    pub truncated: bool,
}

impl Metadata {
    /// Bound of the pages that one call returns (256 MiB).
    pub const MAX_PAGES: usize = 1 << 16;

    /// Number of pages in all touches.
    pub fn pages(&self) -> u64 {
        self.touches
            .iter()
            .map(|touch| u64::from(touch.pages))
            .sum()
    }
}

pub(super) fn resolve<S: BlockSource + ?Sized>(
    source: &S,
    superblock: &Superblock,
    volume: u32,
    needs: &[InodeNeed<'_>],
) -> Metadata {
    let mut resolver = Resolver {
        reader: Reader::new(source, superblock),
        inodes: HashMap::new(),
        taken: HashMap::new(),
        failed: HashSet::new(),
        pages: HashSet::new(),
        volume,
        now: 0,
        out: Metadata::default(),
    };
    for need in needs {
        resolver.now = need.first_use_ns;
        match resolver.need(need) {
            Ok(()) => {}
            Err(Ext4Error::TooMuch) => {
                resolver.out.truncated = true;
                break;
            }
            Err(error) => {
                if resolver.failed.insert(need.ino) {
                    resolver.out.failed.push((need.ino, error));
                }
            }
        }
    }
    resolver.out
}

struct Resolver<'s, S: ?Sized> {
    reader: Reader<'s, S>,
    /// `None` for those that can't be read, which was reported then.
    inodes: HashMap<u64, Option<Rc<Inode>>>,
    /// How many bytes of a directory, from its start, are noted already; for
    /// a file, how many bytes of it have their map noted.
    taken: HashMap<u64, u64>,
    /// Inodes reported as failed.
    failed: HashSet<u64>,
    pages: HashSet<u64>,
    volume: u32,
    /// Time of the need at hand.
    now: u64,
    out: Metadata,
}

impl<S: BlockSource + ?Sized> Resolver<'_, S> {
    fn need(&mut self, need: &InodeNeed<'_>) -> Result<(), Ext4Error> {
        let Some(inode) = self.inode(need.ino)? else {
            return Ok(());
        };
        match need.need {
            Need::Search(name) if inode.is_directory() => self.search(&inode, name),
            Need::List if inode.is_directory() => self.directory(&inode, LISTED_DIR),
            Need::ReadLink if inode.is_slow_link() => self.data(&inode, inode.size),
            Need::Read { start_page, pages } if inode.is_file() => {
                let end = start_page.saturating_add(pages).saturating_mul(PAGE_SIZE);
                let start = start_page.saturating_mul(PAGE_SIZE);
                self.nodes(&inode, start, end)
            }
            Need::ReadAll if inode.is_file() && self.take(inode.number, u64::MAX) => {
                self.nodes(&inode, 0, u64::MAX)
            }
            // Just the inode, or a need that doesn't go with what it is now:
            // numbers are used again.
            _ => Ok(()),
        }
    }

    /// Reads an inode and notes its own blocks.
    fn inode(&mut self, ino: u64) -> Result<Option<Rc<Inode>>, Ext4Error> {
        if let Some(known) = self.inodes.get(&ino) {
            return Ok(known.clone());
        }
        let inode = match Inode::read(&mut self.reader, ino) {
            Ok(inode) => Rc::new(inode),
            Err(error) => {
                self.inodes.insert(ino, None);
                return Err(error);
            }
        };
        self.inodes.insert(ino, Some(Rc::clone(&inode)));
        self.block(inode.table_block)?;
        if inode.attribute_block != 0 {
            let block = self
                .reader
                .check("attribute block", inode.attribute_block)?;
            self.block(block)?;
        }
        Ok(Some(inode))
    }

    fn search(&mut self, directory: &Inode, name: &[u8]) -> Result<(), Ext4Error> {
        if directory.size <= SMALL_DIR {
            return self.directory(directory, SMALL_DIR);
        }
        if self
            .taken
            .get(&directory.number)
            .is_some_and(|&bytes| bytes >= directory.size)
        {
            return Ok(());
        }
        let indexed = self.reader.superblock.has_dir_index() && directory.is_indexed();
        if !indexed {
            return self.directory(directory, SEARCHED_DIR);
        }
        let (blocks, failure) = match htree::search(&mut self.reader, directory, name) {
            Ok(Searched {
                blocks,
                complete: true,
            }) => (blocks, None),
            Ok(Searched { .. }) => return self.directory(directory, SEARCHED_DIR),
            // The kernel, too, then searches the directory from its start.
            Err(error @ Ext4Error::Corrupt { .. }) => (Vec::new(), Some(error)),
            Err(error) => return Err(error),
        };
        for block in blocks {
            self.block(block)?;
        }
        match failure {
            Some(error) => self.directory(directory, SEARCHED_DIR).and(Err(error)),
            None => Ok(()),
        }
    }

    /// Takes all of a directory, up to `limit` bytes.
    fn directory(&mut self, directory: &Inode, limit: u64) -> Result<(), Ext4Error> {
        self.out.truncated |= directory.size > limit;
        let bytes = directory.size.min(limit);
        if self.take(directory.number, bytes) {
            self.data(directory, bytes)
        } else {
            Ok(())
        }
    }

    /// Whether fewer than `bytes` bytes of an inode were taken before.
    fn take(&mut self, ino: u64, bytes: u64) -> bool {
        let taken = self.taken.entry(ino).or_default();
        let more = *taken < bytes;
        *taken = bytes.max(*taken);
        more
    }

    /// Takes the first `bytes` bytes of an inode's data, and what maps them.
    fn data(&mut self, inode: &Inode, bytes: u64) -> Result<(), Ext4Error> {
        let end = bytes.div_ceil(self.block_size());
        let Mapping { nodes, runs } = map(&mut self.reader, inode, 0..end, Wanted::Runs)?;
        for node in nodes {
            self.block(node)?;
        }
        for Run {
            physical, blocks, ..
        } in runs
        {
            for block in physical..physical + blocks {
                self.block(block)?;
            }
        }
        Ok(())
    }

    /// Takes what maps the bytes `start..end` of a file.
    fn nodes(&mut self, file: &Inode, start: u64, end: u64) -> Result<(), Ext4Error> {
        let range = start / self.block_size()..end.div_ceil(self.block_size());
        for node in map(&mut self.reader, file, range, Wanted::Nodes)?.nodes {
            self.block(node)?;
        }
        Ok(())
    }

    fn block_size(&self) -> u64 {
        self.reader.superblock.block_size.into()
    }

    /// Notes the pages of a block that lies in the filesystem.
    fn block(&mut self, block: u64) -> Result<(), Ext4Error> {
        // No overflow: the superblock's check bounds blocks * block size.
        let start = block * self.block_size();
        let first = start / PAGE_SIZE;
        for page in first..first + self.block_size().div_ceil(PAGE_SIZE) {
            if self.pages.contains(&page) {
                continue;
            }
            if self.pages.len() >= Metadata::MAX_PAGES {
                return Err(Ext4Error::TooMuch);
            }
            self.pages.insert(page);
            match self.out.touches.last_mut() {
                Some(last)
                    if last.first_use_ns == self.now
                        && last.start_page.checked_add(last.pages.into()) == Some(page) =>
                {
                    last.pages += 1;
                }
                _ => self.out.touches.push(BlockTouch {
                    volume: self.volume,
                    start_page: page,
                    pages: 1,
                    first_use_ns: self.now,
                }),
            }
        }
        Ok(())
    }
}
