//! Buffered reads, sendfile and splice.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use headstart_abi::{CHUNK_PAGES, Outcome, Stage, TrackEntry};

use crate::config::{Address, Follow, Pointer, arguments, field};
use crate::count::{Tally, enter_with};
use crate::{call, touch, track};

/// Chunks looked at for one batch of a read: 64 MiB. It can't bring more (31 folios of
/// 2 MiB), and the next batch of the same read starts behind it: looking further would be
/// work without end in a long read.
const BATCH_CHUNKS: u64 = 256;

/// Runs of chunks looked at for one call: 2 GiB, which is the most that one read(2) gives
/// (`MAX_RW_COUNT`), and one for its ends.
const MAX_RUNS: u64 = (2 << 30 >> 12) / CHUNK_PAGES / RUN_CHUNKS + 1;

/// Chunks of one run. The verifier goes through each chunk of a run, and through each run.
const RUN_CHUNKS: u64 = 32;

/// Pages asked for by a buffered read, whether they were cached or not.
///
/// match-proto:v6.12:include/trace/events/filemap.h:mm_filemap_get_pages(struct address_space *mapping, pgoff_t index, pgoff_t last_index)
///
/// # Minimum kernel
/// 6.12, where the tracepoint appeared.
/// # Cost
/// See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// Direct I/O and DAX, which have no page cache. What io_uring, aio and 32-bit programs
/// read before a page that was still on its way from the disk: see [`begun`]. Pages beyond
/// the end of the file are included when a read asks for more than there is: the agent cuts
/// them off by the file's size.
#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub(crate) fn filemap_get_pages(ctx: BtfTracePointContext) -> i32 {
    let typed = Pointer(ctx.arg(0));
    let entry = track::current_inline();
    let Some((entry, tally, typed, mapping)) = enter_with(entry, || typed, Stage::Read) else {
        return 0;
    };
    let (first, wanted): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    if wanted < first {
        tally.one(Outcome::In);
        tally.one(Outcome::Other);
        return 0;
    }
    let most = (first / CHUNK_PAGES + BATCH_CHUNKS) * CHUNK_PAGES - 1;
    let last = if wanted > most { most } else { wanted };
    if wanted > most {
        let beyond = wanted / CHUNK_PAGES - most / CHUNK_PAGES;
        tally.add(Outcome::In, beyond);
        tally.add(Outcome::TooLong, beyond);
    }
    let chunk = first / CHUNK_PAGES;
    let known = touch::Place::new(mapping, touch::identity(typed), chunk, &entry).certain();
    if last / CHUNK_PAGES == chunk && touch::page_bits(first, last) & !known == 0 {
        tally.one(Outcome::In);
        tally.one(Outcome::Known);
        return 0;
    }
    // A page that was waited for is new.
    let is_new = known >> (first % CHUNK_PAGES) & 1 == 0;
    let first = if is_new {
        begun(mapping, first, wanted)
    } else {
        first
    };
    many(mapping, first, last, entry.cgroup, entry.key)
}

/// The page at which a read up to `last` began, of which the kernel tells from `first` on.
///
/// Where a batch of pages ends with one that is still on its way from the disk,
/// `filemap_get_pages` waits, hands over the pages before it and does not come to its
/// tracepoint: of a file that is read in pieces across the borders of the kernel's
/// readahead, that would be a fifth of all pages. The next batch of the same read tells
/// where it goes on, and the system call where it began.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn begun(mapping: u64, first: u64, last: u64) -> u64 {
    let Some(position) = call::position(mapping, last) else {
        return first;
    };
    let page = position >> 12;
    if page >= first {
        return first;
    }
    // As far back as is looked ahead.
    let most = BATCH_CHUNKS * CHUNK_PAGES;
    if first - page > most {
        first - most
    } else {
        page
    }
}

/// A buffered read: where it begins and how long it may be.
///
/// Attached to `filemap_read`, before 5.11 to its predecessor
/// `generic_file_buffered_read`: both are exported to the modules that file systems
/// are, and so never inlined away, as `filemap_get_pages` may be. Their arguments
/// begin alike.
///
/// match-proto:v6.1:mm/filemap.c:filemap_read(struct kiocb *iocb, struct iov_iter *iter, ssize_t already_read)
/// match-proto:v5.10:mm/filemap.c:generic_file_buffered_read(struct kiocb *iocb, struct iov_iter *iter, ssize_t written)
///
/// # Minimum kernel
/// 5.5; arm64: 6.4 (fentry).
/// # Cost
/// See docs/kernels.md.
/// # Does not see
/// Direct I/O and DAX. Where a read ends early (a signal, `RWF_NOWAIT` at the first
/// page that is not cached, a bad buffer), what it asked for is taken for used up to
/// the end of the file. From 6.5 on splice(2) and sendfile(2) don't come here: see
/// [`splice_entry`].
#[fentry(function = "filemap_read")]
pub(crate) fn read_entry(ctx: FEntryContext) -> i32 {
    buffered_read(Pointer(ctx.arg(0)), Pointer(ctx.arg(1)))
}

/// [`read_entry`] where functions can't be traced: the same, and dearer.
///
/// # Minimum kernel
/// 5.5 (`bpf_probe_read_kernel`).
#[kprobe]
pub(crate) fn read_probe(ctx: ProbeContext) -> u32 {
    let [iocb, iter, ..] = arguments(&ctx);
    buffered_read(Address(iocb), Address(iter)) as u32
}

#[inline(always)]
fn buffered_read<F: Follow>(iocb: F, iter: F) -> i32 {
    let mapping = || iocb.follow(field!(kiocb_file)).follow(field!(file_mapping));
    let Some((entry, tally, typed, mapping)) =
        enter_with(track::current_inline(), mapping, Stage::Read)
    else {
        return 0;
    };
    let from: u64 = iocb.load(field!(kiocb_position));
    let length: u64 = iter.load(field!(iter_count));
    bytes(tally, typed, mapping, from, length, &entry)
}

/// A read into a pipe: sendfile(2) and splice(2).
///
/// match-proto:v6.8:mm/filemap.c:filemap_splice_read(struct file *in, loff_t *ppos, struct pipe_inode_info *pipe, size_t len, unsigned int flags)
///
/// # Minimum kernel
/// 6.5, where it appeared, exported; before it a splice is a buffered read.
/// # Cost
/// See docs/kernels.md.
/// # Does not see
/// As [`read_entry`]. More than the pipe has room for is taken for used.
#[fentry(function = "filemap_splice_read")]
pub(crate) fn splice_entry(ctx: FEntryContext) -> i32 {
    splice(Pointer(ctx.arg(0)), ctx.arg(1), ctx.arg(3))
}

/// [`splice_entry`] where functions can't be traced.
///
/// # Minimum kernel
/// 6.5, as [`splice_entry`].
#[kprobe]
pub(crate) fn splice_probe(ctx: ProbeContext) -> u32 {
    let [file, position, _, length] = arguments(&ctx);
    splice(Address(file), position, length) as u32
}

#[inline(always)]
fn splice<F: Follow>(file: F, position: u64, length: u64) -> i32 {
    let mapping = || file.follow(field!(file_mapping));
    let Some((entry, tally, typed, mapping)) =
        enter_with(track::current_inline(), mapping, Stage::Read)
    else {
        return 0;
    };
    let from: u64 = Address(position).load(0);
    bytes(tally, typed, mapping, from, length, &entry)
}

/// What is asked for by byte, up to the end of the file.
#[inline(always)]
fn bytes<F: Follow>(
    tally: Tally,
    typed: F,
    mapping: u64,
    from: u64,
    length: u64,
    entry: &TrackEntry,
) -> i32 {
    let size: u64 = typed.follow(field!(mapping_host)).load(field!(inode_size));
    let wanted = from.saturating_add(length);
    let end = if wanted < size { wanted } else { size };
    // A read of nothing has its last page before its first.
    let last = if from < end { (end - 1) >> 12 } else { 0 };
    let first = if from < end { from >> 12 } else { 1 };
    pages(tally, typed, mapping, first, last, entry)
}

/// Pages used, the last one too; none where it is before the first.
#[inline(always)]
fn pages<F: Follow>(
    tally: Tally,
    typed: F,
    mapping: u64,
    first: u64,
    last: u64,
    entry: &TrackEntry,
) -> i32 {
    if last < first {
        tally.one(Outcome::In);
        tally.one(Outcome::Other);
        return 0;
    }
    let chunk = first / CHUNK_PAGES;
    if last / CHUNK_PAGES == chunk {
        tally.one(Outcome::In);
        let bits = touch::page_bits(first, last);
        touch::certain(tally, mapping, touch::identity(typed), chunk, bits, entry);
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
    if first_chunk == last_chunk {
        let bits = touch::page_bits(first, last);
        return touch::certain_chunk(mapping, first_chunk, bits, cgroup, key);
    }
    let head = touch::page_bits(first, first | (CHUNK_PAGES - 1));
    touch::certain_chunk(mapping, first_chunk, head, cgroup, key);
    // Whole chunks only in the loops: one path through them for the verifier.
    let mut from = first_chunk + 1;
    for _ in 0..MAX_RUNS {
        if from >= last_chunk {
            break;
        }
        from = whole(mapping, from, last_chunk, cgroup, key);
    }
    if from < last_chunk {
        tally.add(Outcome::TooLong, last_chunk - from + 1);
        return 0;
    }
    let tail = touch::page_bits(last & !(CHUNK_PAGES - 1), last);
    touch::certain_chunk(mapping, last_chunk, tail, cgroup, key);
    0
}

/// Whole chunks from `from` up to `end`, which is not one of them, as far as one run
/// goes; where the next begins.
///
/// The verifier looks at a function of its own once, whoever calls it how often: with all
/// in one loop it would give up. It looks at the chunks by itself: another call within it
/// would take more stack than there is.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn whole(mapping: u64, from: u64, end: u64, cgroup: u64, key: u64) -> u64 {
    let Some(tally) = Tally::of(Stage::Read) else {
        return end;
    };
    let entry = TrackEntry {
        cgroup,
        key,
        except: 0,
    };
    let identity = touch::identity(Address(mapping));
    for i in 0..RUN_CHUNKS {
        let chunk = from + i;
        if chunk >= end {
            return end;
        }
        touch::certain(tally, mapping, identity, chunk, u64::MAX, &entry);
    }
    from + RUN_CHUNKS
}
