//! Buffered reads, sendfile and splice.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use headstart_abi::{CHUNK_PAGES, Counter};

use crate::config::field;
use crate::{emit, touch, track};

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
#[raw_tracepoint(tracepoint = "mm_filemap_get_pages")]
pub(crate) fn filemap_get_pages(ctx: RawTracePointContext) -> i32 {
    let Some(entry) = track::current() else { return 0 };
    let mapping: u64 = ctx.arg(0);
    let first: u64 = ctx.arg(1);
    let mut last: u64 = ctx.arg(2);
    if field!(last_is_exclusive) == 1 {
        last = last.wrapping_sub(1);
    }
    if last < first {
        return 0;
    }
    let chunk = first / CHUNK_PAGES;
    if last / CHUNK_PAGES == chunk {
        touch::certain(mapping, chunk, touch::page_bits(first, last), &entry);
        return 0;
    }
    many(mapping, first, last, entry.cgroup, entry.key)
}

#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn many(mapping: u64, first: u64, last: u64, cgroup: u64, key: u64) -> i32 {
    let entry = headstart_abi::TrackEntry { cgroup, key };
    let first_chunk = first / CHUNK_PAGES;
    let last_chunk = last / CHUNK_PAGES;
    for i in 0..MAX_CHUNKS {
        let chunk = first_chunk + i;
        if chunk > last_chunk {
            return 0;
        }
        let from = if i == 0 { first } else { chunk * CHUNK_PAGES };
        let to = if chunk == last_chunk { last } else { chunk * CHUNK_PAGES + CHUNK_PAGES - 1 };
        touch::certain(mapping, chunk, touch::page_bits(from, to), &entry);
    }
    emit::count(Counter::Clipped, 1);
    0
}
