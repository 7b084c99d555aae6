//! Buffered reads, sendfile and splice.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use headstart_abi::{CHUNK_PAGES, Outcome, Stage};

use crate::config::{Pointer, field};
use crate::count::{Tally, tally_with};
use crate::{touch, track};

/// Chunks looked at for one call: 64 MiB. One call's batch can't bring more
/// (31 folios of 2 MiB), and the next call of the same read starts behind it.
const MAX_CHUNKS: u64 = 256;

/// Pages asked for by a buffered read, whether they were cached or not.
///
/// match-proto:v6.12:include/trace/events/filemap.h:mm_filemap_get_pages(struct address_space *mapping, pgoff_t index, pgoff_t last_index)
///
/// # Minimum kernel
/// 6.12, where the tracepoint appeared.
/// # Cost
/// See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// Direct I/O and DAX, which have no page cache. Pages beyond the end of the
/// file are included when a read asks for more than there is: the agent cuts
/// them off by the file's size.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub(crate) fn filemap_get_pages(ctx: BtfTracePointContext) -> i32 {
    let typed = Pointer(ctx.arg(0));
    let Some(entry) = track::current_inline() else {
        return 0;
    };
    let Some((tally, mapping)) = tally_with(typed, Stage::Read) else {
        return 0;
    };
    let first: u64 = ctx.arg(1);
    let mut last: u64 = ctx.arg(2);
    if field!(last_is_exclusive) == 1 {
        last = last.wrapping_sub(1);
    }
    if last < first {
        tally.one(Outcome::In);
        tally.one(Outcome::Other);
        return 0;
    }
    let chunk = first / CHUNK_PAGES;
    if last / CHUNK_PAGES == chunk {
        tally.one(Outcome::In);
        let bits = touch::page_bits(first, last);
        touch::certain(tally, mapping, touch::identity(typed), chunk, bits, &entry);
        return 0;
    }
    many(mapping, first, last, entry.cgroup, entry.key)
}

#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn many(mapping: u64, first: u64, last: u64, cgroup: u64, key: u64) -> i32 {
    let first_chunk = first / CHUNK_PAGES;
    let last_chunk = last / CHUNK_PAGES;
    let Some(tally) = Tally::of(Stage::Read) else {
        return 0;
    };
    tally.add(Outcome::In, last_chunk - first_chunk + 1);
    let head = touch::page_bits(first, first | (CHUNK_PAGES - 1));
    touch::certain_chunk(mapping, first_chunk, head, cgroup, key);
    // Whole chunks only in the loop: one path through it for the verifier.
    for i in 1..MAX_CHUNKS {
        let chunk = first_chunk + i;
        if chunk >= last_chunk {
            break;
        }
        touch::certain_chunk(mapping, chunk, u64::MAX, cgroup, key);
    }
    if last_chunk - first_chunk >= MAX_CHUNKS {
        tally.add(Outcome::TooLong, last_chunk - first_chunk + 1 - MAX_CHUNKS);
        return 0;
    }
    let tail = touch::page_bits(last & !(CHUNK_PAGES - 1), last);
    touch::certain_chunk(mapping, last_chunk, tail, cgroup, key);
    0
}
