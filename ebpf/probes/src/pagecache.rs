//! Insertions into the page cache: the miss side.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use headstart_abi::{CHUNK_PAGES, Outcome, RecordKind, Stage, TrackEntry};

use crate::config::{Address, field, peek};
use crate::count::enter;
use crate::touch::{self, Place, page_bits};
use crate::{emit, inode};

const S_IFMT: u32 = 0o170000;
const S_IFBLK: u32 = 0o060000;

/// A folio enters the page cache. For a block device this is filesystem
/// metadata being read (directory blocks, inode tables, extent trees): sent.
/// For a file it is counted only: what is read ahead is not what is used.
///
/// match-proto:v6.1:include/trace/events/filemap.h:mm_filemap_add_to_page_cache(struct folio *folio)
///
/// # Minimum kernel
/// 5.5 (`bpf_probe_read_kernel`). Before 5.16 what comes in is a `struct page`, whose fields the agent takes
/// for a folio's.
/// # Cost
/// Never reached by cached reads. See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// Metadata that a filesystem keeps in caches of its own (xfs, btrfs), and
/// metadata that was cached already.
#[raw_tracepoint(tracepoint = "mm_filemap_add_to_page_cache")]
pub(crate) fn filemap_add(ctx: RawTracePointContext) -> i32 {
    let Some((entry, tally)) = enter(Stage::Insert) else {
        return 0;
    };
    tally.one(look(ctx.arg(0), &entry));
    0
}

/// What becomes of a folio.
#[inline(always)]
fn look(folio: u64, entry: &TrackEntry) -> Outcome {
    let mapping = peek::<u64>(folio, field!(folio_mapping));
    let host = mapping.and_then(|mapping| peek::<u64>(mapping, field!(mapping_host)));
    let (Some(mapping), Some(host)) = (mapping, host) else {
        return Outcome::Unreadable;
    };
    let Some(mode) = peek::<u16>(host, field!(inode_mode)) else {
        return Outcome::Unreadable;
    };
    if mode as u32 & S_IFMT != S_IFBLK {
        return Outcome::Other;
    }
    let Some(index) = peek::<u64>(folio, field!(folio_index)) else {
        return Outcome::Unreadable;
    };
    let chunk = index / CHUNK_PAGES;
    let bits = page_bits(index, index);
    // Apart from what reads remember: where they are seen at their beginning, one of the
    // device itself comes before the pages that it brings in.
    let identity = !touch::identity(Address(mapping));
    let place = Place::new(mapping, identity, chunk, entry);
    if bits & !place.certain() == 0 {
        return Outcome::Known;
    }
    let Some(mut id) = inode::identify(host) else {
        return Outcome::Unreadable;
    };
    id.dev = peek::<u32>(host, field!(inode_rdev)).unwrap_or(0);
    let sent = emit::send_fixed(&touch::record(
        RecordKind::Block,
        entry.cgroup,
        &id,
        chunk,
        bits,
    ));
    if sent {
        place.remember(bits, 0, 0);
    }
    emit::outcome(sent)
}
