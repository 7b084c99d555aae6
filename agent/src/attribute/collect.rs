//! Gathers the records of one run as they come. Cheap: it runs while the
//! command does.

use std::collections::HashMap;

use crate::probe::{DecodeError, Fault, Inode, InodeKey, Record, What, decode};

/// Records kept of one run; more are counted as dropped. About 400 MB.
const MAX_RECORDS: u64 = 4_000_000;

/// Where a run begins.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// `CLOCK_MONOTONIC`, ns: the command's exec.
    pub time_ns: u64,
    /// The command's process. What it did before the exec was ours, not the
    /// command's.
    pub tgid: u32,
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
    /// is not 0, and no call that takes a path but opens nothing returns more.
    pub(super) opened: bool,
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
    pub(super) lists: Vec<(At, InodeKey)>,
    records: u64,
    dropped: u64,
    undecodable: u64,
    last_error: Option<DecodeError>,
}

impl Collector {
    /// Takes one ring buffer entry.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.records >= MAX_RECORDS {
            self.dropped += 1;
            return;
        }
        self.records += 1;
        match decode(bytes) {
            Ok(record) => self.sort_in(record),
            Err(error) => {
                self.undecodable += 1;
                self.last_error = Some(error);
            }
        }
    }

    fn sort_in(&mut self, record: Record) {
        let at = At {
            time_ns: record.time_ns,
            tgid: record.tgid,
        };
        match record.what {
            What::Touch(t) => {
                self.touches
                    .entry(t.inode)
                    .or_default()
                    .push((at, t.base_page, t.pages));
            }
            What::Block(t) => {
                self.blocks
                    .entry(t.inode)
                    .or_default()
                    .push((at, t.base_page, t.pages));
            }
            What::Fault(f) => {
                self.faults
                    .entry((f.inode, at.tgid))
                    .or_default()
                    .push((at, f));
            }
            What::Inode(inode) => {
                self.inodes.insert(inode.inode, inode);
            }
            What::Name(name) => {
                self.names.push(SeenName {
                    at,
                    base: name.base,
                    path: name.path,
                    exec: false,
                    opened: name.result > 0,
                });
            }
            What::Exec(name) => {
                self.names.push(SeenName {
                    at,
                    base: None,
                    path: name.path,
                    exec: true,
                    opened: true,
                });
            }
            What::List(name) => {
                if let Some(base) = name.base {
                    self.lists.push((at, base));
                }
            }
        }
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
    /// ns since the origin; `None` for what this process did before the
    /// command was there.
    pub(super) fn since(&self, at: At) -> Option<u64> {
        if at.tgid == self.tgid && at.time_ns < self.time_ns {
            return None;
        }
        Some(at.time_ns.saturating_sub(self.time_ns))
    }
}
