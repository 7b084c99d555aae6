//! Gathers the records of one run as they come. Cheap: it runs while the
//! command does.

use std::collections::HashMap;

use super::tally::Tally;
use crate::model::StageCounts;
use crate::probe::{DecodeError, Fault, Inode, InodeKey, Record, What, decode};

/// Records kept of one run; more are counted as dropped. About 400 MB.
const MAX_RECORDS: u64 = 4_000_000;

/// Where a run begins.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// `CLOCK_MONOTONIC`, ns: the command's exec.
    pub time_ns: u64,
    /// Nothing was watched before but a process of ours that was to become the command:
    /// what came earlier is not the command's. (Processes are not told apart: in a pid
    /// namespace nobody knows the numbers that the kernel counts by.)
    pub ours_before: bool,
}

/// A time and the process it concerns.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) time_ns: u64,
    pub(super) tgid: u32,
}

#[derive(Clone, Debug)]
pub(super) struct SeenName {
    pub(super) at: At,
    pub(super) base: Option<InodeKey>,
    pub(super) path: Vec<u8>,
    pub(super) exec: bool,
    /// It was opened or executed, as far as the call's result tells: a descriptor
    /// is not 0, and of a call that opens nothing the probes tell no more.
    pub(super) opened: bool,
}

/// Records sorted in, by kind.
#[derive(Default)]
struct Kinds {
    paths: u64,
    paths_again: u64,
    pages: u64,
    names: u64,
    blocks: u64,
}

/// The records of one run, by file.
#[derive(Default)]
pub struct Collector {
    pub(super) inodes: HashMap<InodeKey, Inode>,
    /// First page of the bits, the bits.
    pub(super) touches: HashMap<InodeKey, Vec<(At, u64, u64)>>,
    pub(super) faults: HashMap<(InodeKey, u32), Vec<(At, Fault)>>,
    pub(super) blocks: HashMap<InodeKey, Vec<(At, u64, u64)>>,
    pub(super) names: Vec<SeenName>,
    pub(super) lists: Vec<(At, Option<InodeKey>)>,
    kinds: Kinds,
    records: u64,
    dropped: u64,
    undecodable: u64,
    last_error: Option<DecodeError>,
}

impl Collector {
    /// Takes one ring buffer entry.
    pub fn add(&mut self, bytes: &[u8]) {
        if !self.has_room() {
            return;
        }
        match decode(bytes) {
            Ok(record) => self.sort_in(record),
            Err(error) => {
                self.undecodable += 1;
                self.last_error = Some(error);
            }
        }
    }

    /// Takes one entry that is decoded already.
    pub fn take(&mut self, record: Record) {
        if self.has_room() {
            self.sort_in(record);
        }
    }

    /// One more comes in; whether it is kept.
    fn has_room(&mut self) -> bool {
        let has_room = self.records < MAX_RECORDS;
        if has_room {
            self.records += 1;
        } else {
            self.dropped += 1;
        }
        has_room
    }

    /// The path of an inode within its filesystem, as far as it is known yet.
    pub fn path(&self, inode: &InodeKey) -> Option<&[u8]> {
        let inode = self.inodes.get(inode).filter(|inode| !inode.truncated)?;
        Some(&inode.path)
    }

    pub(super) fn sort_in(&mut self, record: Record) {
        let at = At {
            time_ns: record.time_ns,
            tgid: record.tgid,
        };
        match record.what {
            What::Touch(t) => {
                self.kinds.pages += 1;
                self.touches
                    .entry(t.inode)
                    .or_default()
                    .push((at, t.base_page, t.pages));
            }
            What::Block(t) => {
                self.kinds.blocks += 1;
                self.blocks
                    .entry(t.inode)
                    .or_default()
                    .push((at, t.base_page, t.pages));
            }
            What::Fault(f) => {
                self.kinds.pages += 1;
                self.faults
                    .entry((f.inode, at.tgid))
                    .or_default()
                    .push((at, f));
            }
            What::Inode(inode) => {
                self.kinds.paths += 1;
                let old = self.inodes.insert(inode.inode, inode);
                self.kinds.paths_again += u64::from(old.is_some());
            }
            What::Name(name) => {
                self.kinds.names += 1;
                self.names.push(SeenName {
                    at,
                    base: name.base,
                    path: name.path,
                    exec: false,
                    opened: name.result > 0,
                });
            }
            What::Exec(name) => {
                self.kinds.names += 1;
                self.names.push(SeenName {
                    at,
                    base: None,
                    path: name.path,
                    exec: true,
                    opened: true,
                });
            }
            What::List(name) => {
                self.kinds.names += 1;
                self.lists.push((at, name.base));
            }
            // They come by the ring of signals, never by this one.
            What::CgroupMade(_) | What::CgroupGone(_) | What::CgroupFilled(_) => {
                self.undecodable += 1;
            }
        }
    }

    /// What became of the records, as far as it is known before they are
    /// attributed.
    pub(super) fn stages(&self) -> Vec<StageCounts> {
        let mut collect = StageCounts::new("collect", "records");
        collect.seen = self.records + self.dropped;
        collect.lost = self.dropped;
        collect.filter("undecodable", self.undecodable);
        let Kinds {
            paths,
            paths_again,
            pages,
            names,
            blocks,
        } = self.kinds;
        collect.out = paths + pages + names + blocks;
        let mut inodes = StageCounts::new("paths", "records");
        inodes.seen = paths;
        inodes.out = self.inodes.len() as u64;
        inodes.filter("known", paths_again);
        vec![collect, inodes]
    }

    /// What is to be attributed.
    pub(super) fn tally(&self) -> Tally {
        Tally::of(self.kinds.pages, self.kinds.names, self.kinds.blocks)
    }

    /// Records taken.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records not kept: over the bound, or not understood.
    pub fn lost(&self) -> u64 {
        self.dropped + self.undecodable
    }

    /// The last record that was not understood.
    pub fn last_error(&self) -> Option<&DecodeError> {
        self.last_error.as_ref()
    }
}

impl Origin {
    /// ns since the origin; `None` for what was done before the command was there.
    pub(super) fn since(&self, at: At) -> Option<u64> {
        if self.ours_before && at.time_ns < self.time_ns {
            return None;
        }
        Some(at.time_ns.saturating_sub(self.time_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut touch = [0u8; 64];
        touch[0] = headstart_abi::RecordKind::Touch as u8;
        let mut collector = Collector::default();
        for _ in 0..3 {
            collector.add(&touch);
        }
        for _ in 3..MAX_RECORDS {
            collector.add(b"?");
        }
        for _ in 0..5 {
            collector.add(&touch);
        }
        let stages = collector.stages();
        let collect = &stages[0];
        assert_eq!((collect.seen, collect.out), (MAX_RECORDS + 5, 3));
        assert_eq!(collect.lost, 5);
        assert_eq!(collect.filtered["undecodable"], MAX_RECORDS - 3);
        assert_eq!(collector.lost(), MAX_RECORDS + 2);
        assert!(stages.iter().all(StageCounts::is_balanced), "{stages:?}");
    }
}
