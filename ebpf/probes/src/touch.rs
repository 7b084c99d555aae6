//! In-kernel deduplication of page touches: the hot path of every read.
//!
//! One direct-mapped slot per (mapping, 64-page chunk, cgroup) remembers which
//! pages were sent. A collision evicts: its pages are sent twice, never lost.

use aya_ebpf::{macros::map, maps::Array};
use headstart_abi::{
    CHUNK_PAGES, Header, Note, Outcome, RecordKind, Stage, TouchRecord, TrackEntry,
};

use crate::config::{Address, Follow, field, peek};
use crate::count::{Tally, note};
use crate::emit;
use crate::inode::{self, Identity};

const SLOTS: u32 = 1 << 15;

/// One cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    mapping: u64,
    key: u64,
    /// Pages sent as certainly used.
    pub(crate) certain: u64,
    /// Pages sent as part of a fault's window.
    pub(crate) window: u64,
    /// Pages taken for a window's faulting page.
    pub(crate) fault: u64,
    /// Of the inode that the mapping was of: see [`identity`].
    identity: u64,
    reserved: [u64; 2],
}

#[map]
static TOUCHED: Array<Slot> = Array::with_max_entries(SLOTS, 0);

/// A chunk of a mapping as one watched cgroup uses it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    mapping: u64,
    key: u64,
    identity: u64,
}

/// What tells the inode of a mapping from others that are at its address before or
/// after it: its number, and the generation that tells files apart which have a
/// number one after the other.
#[inline(always)]
pub(crate) fn identity<F: Follow>(mapping: F) -> u64 {
    let host = mapping.follow(field!(mapping_host));
    let number: u64 = host.load(field!(inode_ino));
    let generation: u32 = host.load(field!(inode_generation));
    number.rotate_left(32) ^ generation as u64
}

impl Place {
    /// `identity` is that of the mapping.
    #[inline(always)]
    pub(crate) fn new(mapping: u64, identity: u64, chunk: u64, entry: &TrackEntry) -> Self {
        Self {
            mapping,
            key: entry.key | (chunk & ((1 << 40) - 1)),
            identity,
        }
    }

    #[inline(always)]
    fn slot(&self) -> Option<*mut Slot> {
        let hash = (self.mapping ^ self.key.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        TOUCHED.get_ptr_mut((hash >> 49) as u32 & (SLOTS - 1))
    }

    /// Whether a slot is of this place.
    ///
    /// # Safety
    /// `slot` points to a slot.
    #[inline(always)]
    unsafe fn owns(&self, slot: *mut Slot) -> bool {
        // SAFETY: the caller's promise; aligned. Other CPUs may write.
        unsafe {
            (&raw const (*slot).mapping).read_volatile() == self.mapping
                && (&raw const (*slot).key).read_volatile() == self.key
                && (&raw const (*slot).identity).read_volatile() == self.identity
        }
    }

    /// Reads what is known of this place; zeroes if its slot holds another. The
    /// slot's owner is looked at again after the bits: another CPU may have taken
    /// the slot over in between.
    #[inline(always)]
    fn read<const N: usize>(&self, bits: impl Fn(*mut Slot) -> [u64; N]) -> [u64; N] {
        let Some(slot) = self.slot() else {
            return [0; N];
        };
        // SAFETY: a pointer into the map's value.
        if !unsafe { self.owns(slot) } {
            return [0; N];
        }
        let bits = bits(slot);
        // SAFETY: as above.
        if !unsafe { self.owns(slot) } {
            return [0; N];
        }
        bits
    }

    /// Pages sent as certainly used: all that reads ask for, and no more.
    #[inline(always)]
    pub(crate) fn certain(&self) -> u64 {
        // SAFETY: a pointer to a slot, aligned.
        let [certain] = self.read(|slot| [unsafe { (&raw const (*slot).certain).read_volatile() }]);
        certain
    }

    /// Pages sent as certainly used, as part of a window, and taken for a window's
    /// faulting page.
    #[inline(always)]
    pub(crate) fn known(&self) -> [u64; 3] {
        // SAFETY: a pointer to a slot, aligned.
        self.read(|slot| unsafe {
            [
                (&raw const (*slot).certain).read_volatile(),
                (&raw const (*slot).window).read_volatile(),
                (&raw const (*slot).fault).read_volatile(),
            ]
        })
    }

    /// Remembers pages as sent.
    #[inline(always)]
    pub(crate) fn remember(&self, certain: u64, window: u64, fault: u64) {
        let Some(slot) = self.slot() else { return };
        // SAFETY: as in `read`. A lost update of the bits sends a page twice.
        // On takeover the mapping is cleared before the bits change, so that a
        // reader that saw the old key does not believe the new bits.
        unsafe {
            if self.owns(slot) {
                (&raw mut (*slot).certain).write_volatile((*slot).certain | certain);
                (&raw mut (*slot).window).write_volatile((*slot).window | window);
                (&raw mut (*slot).fault).write_volatile((*slot).fault | fault);
                return;
            }
            if (&raw const (*slot).mapping).read_volatile() != 0 {
                note(Note::EvictedPages);
            }
            (&raw mut (*slot).mapping).write_volatile(0);
            (&raw mut (*slot).certain).write_volatile(certain);
            (&raw mut (*slot).window).write_volatile(window);
            (&raw mut (*slot).fault).write_volatile(fault);
            (&raw mut (*slot).key).write_volatile(self.key);
            (&raw mut (*slot).identity).write_volatile(self.identity);
            (&raw mut (*slot).mapping).write_volatile(self.mapping);
        }
    }
}

/// Bits `first..=last` of a chunk, for pages of the same chunk.
#[inline(always)]
pub(crate) fn page_bits(first: u64, last: u64) -> u64 {
    let count = (last - first) & (CHUNK_PAGES - 1);
    (u64::MAX >> (CHUNK_PAGES - 1 - count)) << (first & (CHUNK_PAGES - 1))
}

/// Sends the pages `bits` of `chunk` that were not sent before. `tally` is that
/// of [`Stage::Read`].
#[inline(always)]
pub(crate) fn certain(
    tally: Tally,
    mapping: u64,
    identity: u64,
    chunk: u64,
    bits: u64,
    entry: &TrackEntry,
) {
    let place = Place::new(mapping, identity, chunk, entry);
    let new = bits & !place.certain();
    if new == 0 {
        tally.one(Outcome::Known);
    } else {
        send_touch(mapping, chunk, new, entry.cgroup, entry.key);
    }
}

/// [`certain`] as a global function, for loops: verified once.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn certain_chunk(
    mapping: u64,
    chunk: u64,
    bits: u64,
    cgroup: u64,
    key: u64,
) -> i32 {
    if let Some(tally) = Tally::of(Stage::Read) {
        let entry = TrackEntry {
            cgroup,
            key,
            except: 0,
        };
        let identity = identity(Address(mapping));
        certain(tally, mapping, identity, chunk, bits, &entry);
    }
    0
}

/// The slow path of [`certain`], kept out of line: the hot path stays small.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn send_touch(
    mapping: u64,
    chunk: u64,
    new: u64,
    cgroup: u64,
    key: u64,
) -> u32 {
    let Some(tally) = Tally::of(Stage::Read) else {
        return 0;
    };
    let host = peek::<u64>(mapping, field!(mapping_host));
    let Some((id, path)) = host.and_then(|host| inode::ensure(host, cgroup)) else {
        tally.one(Outcome::Unreadable);
        return 0;
    };
    let sent = emit::send_fixed(&record(RecordKind::Touch, cgroup, &id, chunk, new));
    tally.one(emit::outcome(sent));
    if sent && path {
        let entry = TrackEntry {
            cgroup,
            key,
            except: 0,
        };
        let identity = identity(Address(mapping));
        Place::new(mapping, identity, chunk, &entry).remember(new, 0, 0);
    }
    0
}

/// A [`TouchRecord`] of `pages` of `chunk`.
#[inline(always)]
pub(crate) fn record(
    kind: RecordKind,
    cgroup: u64,
    id: &Identity,
    chunk: u64,
    pages: u64,
) -> TouchRecord {
    let header: Header = emit::header(kind, cgroup);
    TouchRecord {
        header,
        inode: id.inode,
        ino: id.ino,
        generation: id.generation,
        dev: id.dev,
        chunk,
        pages,
    }
}
