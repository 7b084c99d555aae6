//! The running kernel's layout, set by the agent before the programs are
//! loaded: the verifier sees constants.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_probe_read_kernel, programs::ProbeContext};
use headstart_abi::KernelLayout;

/// Overwritten by the agent through `.rodata`.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: KernelLayout = KernelLayout::UNKNOWN;

macro_rules! field {
    ($name:ident) => {{
        // SAFETY: a static of plain integers. Volatile, because the value is
        // replaced after compilation.
        unsafe { core::ptr::read_volatile(&raw const $crate::config::CONFIG.$name) }
    }};
}
pub(crate) use field;

/// Reads a `T` at `base + offset` in kernel memory; `None` where it faults.
#[inline(always)]
pub(crate) fn peek<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the source address itself and writes
    // size_of::<T>() bytes to the destination, zeroes on a fault.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            core::mem::size_of::<T>() as u32,
            (base + offset as u64) as *const _,
        )
    };
    // SAFETY: initialised by the helper in either case.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// As [`peek`], with zeroes where the read faults: no branch, which keeps
/// loops cheap to verify.
#[inline(always)]
pub(crate) fn peek_or_zero<T: Copy>(base: u64, offset: u32) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: as in `peek`; T is a plain integer or an array of them, for which
    // the helper's zeroes are valid.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            core::mem::size_of::<T>() as u32,
            (base + offset as u64) as *const _,
        );
        value.assume_init()
    }
}

/// Where something is in kernel memory, and how it is read from there.
pub(crate) trait Follow: Copy {
    /// The `T` at `offset`, a field of that size; zeroes where that faults.
    fn load<T: Copy>(self, offset: u32) -> T;
    /// The pointer at `offset`.
    fn follow(self, offset: u32) -> Self;
    /// The address, with which the verifier may not let arithmetic be done yet.
    fn address(self) -> u64;
}

/// A pointer into kernel memory of which the verifier knows the type: from a helper
/// that says it, or an argument of a BTF tracepoint or a traced function. What it points to is loaded, not
/// copied by a helper, whose call and return cost more than all the rest of a read's
/// program where a CPU needs Safe RET.
#[derive(Clone, Copy)]
pub(crate) struct Pointer(pub(crate) u64);

impl Follow for Pointer {
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the field, the kernel catches a fault.
        unsafe { ((self.0 + offset as u64) as *const T).read_volatile() }
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.load(offset))
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }
}

/// An address of which the verifier knows nothing: a helper reads from it.
#[derive(Clone, Copy)]
pub(crate) struct Address(pub(crate) u64);

impl Follow for Address {
    #[inline(always)]
    fn load<T: Copy>(self, offset: u32) -> T {
        peek_or_zero(self.0, offset)
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.load(offset))
    }

    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }
}

/// The first arguments of a function at whose entry a kprobe is. By offsets from BTF:
/// the object is one for all architectures.
#[inline(always)]
pub(crate) fn arguments(ctx: &ProbeContext) -> [u64; 4] {
    let regs = ctx.as_ptr() as u64;
    [
        peek_or_zero(regs, field!(call_arg0)),
        peek_or_zero(regs, field!(call_arg1)),
        peek_or_zero(regs, field!(call_arg2)),
        peek_or_zero(regs, field!(call_arg3)),
    ]
}
