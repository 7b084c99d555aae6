//! The eBPF programs of Headstart: one file a family of hooks.
//!
//! Each program asks first whether the current cgroup is watched ([`track`]),
//! then whether what it sees is new ([`touch`], [`inode`]); only what is new is
//! sent ([`emit`]); what came in and what became of it is counted ([`count`]).
//! Nothing here blocks, allocates or calls back.
//!
//! Ring buffers make 5.8 the oldest kernel that takes them all together. From which kernel on
//! each attaches is in its docs, and `cargo xtask vm` holds that against every kernel that
//! it boots; what each attaches to, with its arguments, is in the line `match-proto`.
#![no_std]
#![no_main]

mod call;
mod cgroup;
mod config;
mod count;
mod emit;
mod exec;
mod fault;
mod inode;
mod names;
mod pagecache;
mod read;
mod signal;
mod touch;
mod track;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// bpf_probe_read_kernel and the task helpers are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
