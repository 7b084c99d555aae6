//! The ring buffer.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_ringbuf_query,
    },
    macros::map,
    maps::RingBuf,
};
use headstart_abi::{Header, MAX_PATH, NameRecord, Outcome, RecordKind, Stage};

use crate::count::Tally;

/// Resized by the agent before loading; 8 MiB if it does not.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

const NO_WAKEUP: u64 = 1;
pub(crate) const FORCE_WAKEUP: u64 = 2;
const AVAILABLE_DATA: u64 = 0;
const RING_SIZE: u64 = 1;

/// A record's header for the current task, now.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, cgroup: u64) -> Header {
    Header {
        kind: kind as u32,
        // SAFETY: helpers without arguments that can't fail.
        tgid: (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32,
        // SAFETY: as above.
        time_ns: unsafe { bpf_ktime_get_ns() },
        cgroup,
    }
}

/// Longest record: one with a path of [`MAX_PATH`].
const LONGEST: usize = core::mem::size_of::<NameRecord>() + MAX_PATH;

/// Sends `len` bytes at `record`; whether the ring had room.
#[inline(always)]
pub(crate) fn send(record: *const u8, len: usize) -> bool {
    let Some((tally, flags)) = begin() else {
        return false;
    };
    // Before 6.12 the verifier forgets what it knew of a number that was kept on the
    // stack: read anew, and looked at where it is used.
    // SAFETY: a local variable.
    let len = unsafe { (&raw const len).read_volatile() };
    if len > LONGEST {
        tally.one(Outcome::Lost);
        return false;
    }
    output(tally, record, len, flags)
}

/// One more comes in; its counters, and how it is to be sent. Wakes the agent only when
/// the ring is more than half full: a wake-up per record would cost more than the
/// record.
#[inline(always)]
fn begin() -> Option<(Tally, u64)> {
    let tally = Tally::of(Stage::Ring)?;
    tally.one(Outcome::In);
    // SAFETY: the map; queries have no side effects.
    let used = unsafe { bpf_ringbuf_query(ring(), AVAILABLE_DATA) };
    // SAFETY: as above.
    let size = unsafe { bpf_ringbuf_query(ring(), RING_SIZE) };
    let flags = if used > size / 2 {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    };
    Some((tally, flags))
}

#[inline(always)]
fn output(tally: Tally, record: *const u8, len: usize, flags: u64) -> bool {
    // SAFETY: the caller's buffer holds `len` initialised bytes, which the
    // verifier checks as well.
    let sent = unsafe { bpf_ringbuf_output(ring(), record as *mut _, len as u64, flags) } == 0;
    tally.one(outcome(sent));
    sent
}

#[inline(always)]
fn ring() -> *mut core::ffi::c_void {
    &raw const EVENTS as *mut _
}

/// What a stage counts for a record that was sent, or had no room.
#[inline(always)]
pub(crate) fn outcome(sent: bool) -> Outcome {
    if sent { Outcome::Out } else { Outcome::Lost }
}

/// Sends a record of fixed size.
#[inline(always)]
pub(crate) fn send_fixed<T>(record: &T) -> bool {
    let Some((tally, flags)) = begin() else {
        return false;
    };
    let len = core::mem::size_of::<T>();
    output(tally, (&raw const *record).cast(), len, flags)
}
