//! The eBPF programs of Headstart: one file a family of hooks.
//!
//! Each program asks first whether the current cgroup is watched ([`track`]),
//! then whether what it sees is new ([`touch`], [`inode`]); only what is new is
//! sent ([`emit`]); what came in and what became of it is counted ([`count`]).
//! Nothing here blocks, allocates or calls back.
#![no_std]
#![no_main]

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
