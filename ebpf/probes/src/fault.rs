//! Page faults on mapped files.

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid,
    macros::{btf_tracepoint, fentry, fexit, kprobe, map, raw_tracepoint},
    maps::Array,
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
    },
};
use headstart_abi::{
    CHUNK_PAGES, FaultRecord, FaultSlot, Note, Outcome, RecordKind, Stage, TrackEntry,
};

use crate::config::{Address, Follow, Pointer, arguments, field, peek};
use crate::count::{Tally, enter, enter_with, note};
use crate::touch::{self, Place, page_bits};
use crate::{emit, inode, track};

const THREADS: u32 = 4096;

/// The last fault of a thread, found by its id: one place only; a collision
/// loses an address, which the thread id beside it tells.
#[map]
static FAULTS: Array<FaultSlot> = Array::with_max_entries(THREADS, 0);

/// Remembers the address of a fault from user mode.
///
/// match-proto:v6.12:arch/x86/include/asm/trace/exceptions.h:page_fault_user(unsigned long address, struct pt_regs *regs, unsigned long error_code)
///
/// # Minimum kernel
/// 4.17; arm64: never, there is no such tracepoint, see [`mm_fault_entry`].
/// # Cost
/// See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// Accesses to pages that are mapped already.
#[raw_tracepoint(tracepoint = "page_fault_user")]
pub(crate) fn page_fault_user(ctx: RawTracePointContext) -> i32 {
    remember_address(ctx.arg(0))
}

/// Remembers the address of a fault in a system call that reads or writes
/// user memory. See [`page_fault_user`].
///
/// # Minimum kernel
/// 4.17; arm64: never, as [`page_fault_user`].
#[raw_tracepoint(tracepoint = "page_fault_kernel")]
pub(crate) fn page_fault_kernel(ctx: RawTracePointContext) -> i32 {
    remember_address(ctx.arg(0))
}

/// [`page_fault_user`] and [`page_fault_kernel`] where the architecture has no tracepoints
/// for them: arm64.
///
/// Attached to the function that each architecture calls for a fault, in another file
/// than it is in: it is never inlined.
///
/// match-proto:v6.12:mm/memory.c:handle_mm_fault(struct vm_area_struct *vma, unsigned long address, unsigned int flags, struct pt_regs *regs)
/// match-proto:v5.10:mm/memory.c:handle_mm_fault(struct vm_area_struct *vma, unsigned long address, unsigned int flags, struct pt_regs *regs)
///
/// # Minimum kernel
/// 5.5; arm64: 6.4 (fentry).
/// # Cost
/// See docs/kernels.md.
/// # Does not see
/// Accesses to pages that are mapped already.
#[fentry(function = "handle_mm_fault")]
pub(crate) fn mm_fault_entry(ctx: FEntryContext) -> i32 {
    remember_address(ctx.arg(1))
}

/// [`mm_fault_entry`] where functions can't be traced.
///
/// # Minimum kernel
/// 4.1 (kprobe).
#[kprobe]
pub(crate) fn mm_fault_probe(ctx: ProbeContext) -> u32 {
    let [_, address, ..] = arguments(&ctx);
    remember_address(address) as u32
}

#[inline(always)]
fn remember_address(address: u64) -> i32 {
    let Some((_, tally)) = enter(Stage::Address) else {
        return 0;
    };
    // SAFETY: a helper without arguments that can't fail.
    let thread = unsafe { bpf_get_current_pid_tgid() };
    if let Some(slot) = FAULTS.get_ptr_mut(thread as u32 & (THREADS - 1)) {
        // SAFETY: a pointer into the map's value; another thread's write is
        // told by `thread`.
        let owner = unsafe { (*slot).thread };
        if owner != thread && owner != 0 {
            note(Note::EvictedAddresses);
        }
        // SAFETY: as above.
        unsafe { *slot = FaultSlot { thread, address } };
        tally.one(Outcome::Out);
    }
    0
}

/// The page number of the current thread's last fault; 0 if unknown.
#[inline(always)]
fn faulting_page() -> u64 {
    // SAFETY: a helper without arguments that can't fail.
    let thread = unsafe { bpf_get_current_pid_tgid() };
    match FAULTS.get_ptr(thread as u32 & (THREADS - 1)) {
        // SAFETY: as in `remember_address`.
        Some(slot) if unsafe { (*slot).thread } == thread => unsafe { (*slot).address >> 12 },
        _ => 0,
    }
}

/// A read fault that maps what is cached of a window of pages around it. The
/// window is what the kernel tried; which page of it faulted follows from the
/// address, which the agent works out (a window may be cut by its mapping's
/// start, which is not seen here).
///
/// match-proto:v6.12:include/trace/events/filemap.h:mm_filemap_map_pages(struct address_space *mapping, pgoff_t start_pgoff, pgoff_t end_pgoff)
///
/// # Minimum kernel
/// 6.12, where the tracepoint appeared.
/// # Cost
/// See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// Which of the other pages of the window are used afterwards.
#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub(crate) fn filemap_map_pages(ctx: BtfTracePointContext) -> i32 {
    let typed = Pointer(ctx.arg(0));
    let Some((entry, tally, typed, mapping)) =
        enter_with(track::current(), || typed, Stage::Window)
    else {
        return 0;
    };
    let window = (ctx.arg(1), ctx.arg(2));
    let vpn = faulting_page();
    let around = field!(fault_around_pages) as u64;
    // Where the window was not cut at its start, this is the page that faulted.
    let guess = if vpn == 0 {
        u64::MAX
    } else {
        window.0 + (vpn & (around.wrapping_sub(1)))
    };
    map_window(tally, typed, mapping, window, (vpn, guess), &entry)
}

/// Sends a window, from its first page to its last, unless all of it was sent before.
/// `fault` is the virtual page that faulted (0 if unknown), and which page of the file
/// that is taken for, so that it is sent although its window was (`u64::MAX`: none).
#[inline(always)]
fn map_window<F: Follow>(
    tally: Tally,
    typed: F,
    mapping: u64,
    (start, last): (u64, u64),
    (vpn, guess): (u64, u64),
    entry: &TrackEntry,
) -> i32 {
    tally.one(Outcome::In);
    if last < start || last - start >= CHUNK_PAGES {
        tally.one(Outcome::Unreadable);
        return 0;
    }
    let first_chunk = start / CHUNK_PAGES;
    let last_chunk = last / CHUNK_PAGES;
    let split = if last_chunk == first_chunk {
        last
    } else {
        first_chunk * CHUNK_PAGES + CHUNK_PAGES - 1
    };

    let identity = touch::identity(typed);
    let low = Place::new(mapping, identity, first_chunk, entry);
    let low_window = page_bits(start, split);
    let low_fault = if guess <= split {
        page_bits(guess, guess)
    } else {
        0
    };
    let [low_certain, low_seen, low_faults] = low.known();
    let mut new =
        (low_window & !(low_seen | low_certain)) | (low_fault & !(low_faults | low_certain));

    let high = Place::new(mapping, identity, last_chunk, entry);
    let mut high_window = 0;
    let mut high_fault = 0;
    if last_chunk != first_chunk {
        high_window = page_bits(last_chunk * CHUNK_PAGES, last);
        high_fault = if guess > split && guess <= last {
            page_bits(guess, guess)
        } else {
            0
        };
        let [certain, seen, faults] = high.known();
        new |= (high_window & !(seen | certain)) | (high_fault & !(faults | certain));
    }
    if new == 0 {
        tally.one(Outcome::Known);
        return 0;
    }
    if vpn == 0 {
        note(Note::NoAddress);
    }
    let result = send_fault(mapping, start, last, vpn, entry.cgroup);
    if became(tally, result) {
        low.remember(0, low_window, low_fault);
        if last_chunk != first_chunk {
            high.remember(0, high_window, high_fault);
        }
    }
    0
}

/// [`send_fault`]'s results.
const SENT: i32 = 0;
/// Sent, but the path of its file was lost.
const WITHOUT_PATH: i32 = 1;
const LOST: i32 = 2;
const UNREADABLE: i32 = 3;

/// Counts a result of [`send_fault`]; whether it is to be remembered as sent.
#[inline(always)]
fn became(tally: Tally, result: i32) -> bool {
    tally.one(match result {
        SENT | WITHOUT_PATH => Outcome::Out,
        LOST => Outcome::Lost,
        _ => Outcome::Unreadable,
    });
    result == SENT
}

#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn send_fault(
    mapping: u64,
    start: u64,
    last: u64,
    vpn: u64,
    cgroup: u64,
) -> i32 {
    let host = peek::<u64>(mapping, field!(mapping_host));
    let Some((id, path)) = host.and_then(|host| inode::ensure(host, cgroup)) else {
        return UNREADABLE;
    };
    let record = FaultRecord {
        header: emit::header(RecordKind::Fault, cgroup),
        inode: id.inode,
        ino: id.ino,
        generation: id.generation,
        dev: id.dev,
        start,
        last,
        vpn,
    };
    match (emit::send_fixed(&record), path) {
        (true, true) => SENT,
        (true, false) => WITHOUT_PATH,
        (false, _) => LOST,
    }
}

/// A fault on a page that was not cached, or that is mapped alone: exact. Sent
/// with its address, as a window of one page: together they tell where the file
/// is mapped, and so which page of other windows faulted.
///
/// match-proto:v6.12:include/trace/events/filemap.h:mm_filemap_fault(struct address_space *mapping, pgoff_t index)
///
/// # Minimum kernel
/// 6.12, where the tracepoint appeared.
/// # Cost
/// See docs/benchmarks.md, "Probe cost".
/// # Does not see
/// DAX mappings. Pages mapped along with this one as one huge page.
#[btf_tracepoint(function = "mm_filemap_fault")]
pub(crate) fn filemap_fault(ctx: BtfTracePointContext) -> i32 {
    let typed = Pointer(ctx.arg(0));
    let Some((entry, tally, typed, mapping)) = enter_with(track::current(), || typed, Stage::Fault)
    else {
        return 0;
    };
    let identity = touch::identity(typed);
    one_page(
        tally,
        identity,
        mapping,
        ctx.arg(1),
        faulting_page(),
        &entry,
    )
}

/// Sends one page that faulted, unless it was sent before.
#[inline(always)]
fn one_page(
    tally: Tally,
    identity: u64,
    mapping: u64,
    index: u64,
    vpn: u64,
    entry: &TrackEntry,
) -> i32 {
    tally.one(Outcome::In);
    let place = Place::new(mapping, identity, index / CHUNK_PAGES, entry);
    let page = page_bits(index, index);
    if page & !place.certain() == 0 {
        tally.one(Outcome::Known);
        return 0;
    }
    let result = send_fault(mapping, index, index, vpn, entry.cgroup);
    if became(tally, result) {
        place.remember(page, 0, 0);
    }
    0
}

/// A read fault that mapped what is cached of a window around it. What it was called
/// with says which page faulted: that one is sent by itself first, as certain.
///
/// Attached to `filemap_map_pages`, to which file systems have pointers: it is never
/// inlined. At its end, for then the lock of the page table says whether there was
/// anything to map: it is a null pointer before.
///
/// match-proto:v6.1:mm/filemap.c:filemap_map_pages(struct vm_fault *vmf, pgoff_t start_pgoff, pgoff_t end_pgoff)
///
/// # Minimum kernel
/// 5.5; arm64: 6.4 (fexit).
/// # Cost
/// See docs/kernels.md.
/// # Does not see
/// Which of the other pages of the window are used afterwards.
#[fexit(function = "filemap_map_pages")]
pub(crate) fn map_pages_exit(ctx: FExitContext) -> i32 {
    let fault = Pointer(ctx.arg(0));
    map_pages(fault, (ctx.arg(1), ctx.arg(2)), || {
        fault.load::<u64>(field!(fault_lock)) != 0
    })
}

/// [`map_pages_exit`] where functions can't be traced. At the beginning, so that windows
/// with nothing cached in them are sent too: more of what is a maybe is not used.
///
/// # Minimum kernel
/// 5.5 (`bpf_probe_read_kernel`).
#[kprobe]
pub(crate) fn map_pages_probe(ctx: ProbeContext) -> u32 {
    let [fault, start, last, _] = arguments(&ctx);
    map_pages(Address(fault), (start, last), || true) as u32
}

#[inline(always)]
fn map_pages<F: Follow>(fault: F, window: (u64, u64), mapped: impl FnOnce() -> bool) -> i32 {
    let Some((entry, tally, typed, mapping)) =
        enter_with(track::current(), || mapping_of(fault), Stage::Window)
    else {
        return 0;
    };
    let Some(faults) = Tally::of(Stage::Fault) else {
        return 0;
    };
    let (index, vpn) = page_of(fault);
    let identity = touch::identity(typed);
    one_page(faults, identity, mapping, index, vpn, &entry);
    if mapped() {
        map_window(tally, typed, mapping, window, (vpn, u64::MAX), &entry);
    }
    0
}

/// A fault on a page that was not cached: see [`filemap_fault`].
///
/// Attached to the function of that name, to which file systems have pointers: it is
/// never inlined.
///
/// match-proto:v6.1:mm/filemap.c:filemap_fault(struct vm_fault *vmf)
///
/// # Minimum kernel
/// 5.5; arm64: 6.4 (fentry).
/// # Cost
/// See docs/kernels.md.
/// # Does not see
/// DAX mappings. Pages mapped along with this one as one huge page.
#[fentry(function = "filemap_fault")]
pub(crate) fn fault_entry(ctx: FEntryContext) -> i32 {
    fault(Pointer(ctx.arg(0)))
}

/// [`fault_entry`] where functions can't be traced.
///
/// # Minimum kernel
/// 5.5 (`bpf_probe_read_kernel`).
#[kprobe]
pub(crate) fn fault_probe(ctx: ProbeContext) -> u32 {
    let [fault_at, ..] = arguments(&ctx);
    fault(Address(fault_at)) as u32
}

#[inline(always)]
fn fault<F: Follow>(fault: F) -> i32 {
    let Some((entry, tally, typed, mapping)) =
        enter_with(track::current(), || mapping_of(fault), Stage::Fault)
    else {
        return 0;
    };
    let (index, vpn) = page_of(fault);
    let identity = touch::identity(typed);
    one_page(tally, identity, mapping, index, vpn, &entry)
}

/// The mapping in which there was a fault.
#[inline(always)]
fn mapping_of<F: Follow>(fault: F) -> F {
    let area = fault.follow(field!(fault_area));
    area.follow(field!(area_file)).follow(field!(file_mapping))
}

/// The page of the file that faulted, and where that is mapped, as a virtual page.
#[inline(always)]
fn page_of<F: Follow>(fault: F) -> (u64, u64) {
    let area = fault.follow(field!(fault_area));
    let index: u64 = fault.load(field!(fault_page));
    let begin: u64 = area.load(field!(area_start));
    let first: u64 = area.load(field!(area_page));
    (index, (begin >> 12).wrapping_add(index).wrapping_sub(first))
}
