//! A kernel program that does nothing: the price of being called at all.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands of bpf(2), and a kind of program, from linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const KIND_RAW_TRACEPOINT: u32 = 17;

/// `r0 = 0; exit`.
const INSTRUCTIONS: [u64; 2] = [0xb7, 0x95];

/// The beginning of `union bpf_attr` for loading.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: u64,
}

/// The same for attaching to a raw tracepoint.
#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    padding: u32,
}

/// Detached when dropped.
pub(crate) struct Empty {
    _program: OwnedFd,
    _link: OwnedFd,
}

impl Empty {
    /// Loads it and attaches it to a raw tracepoint.
    pub(crate) fn attach(tracepoint: &str) -> io::Result<Self> {
        let program = bpf(
            PROG_LOAD,
            &Load {
                kind: KIND_RAW_TRACEPOINT,
                count: INSTRUCTIONS.len() as u32,
                instructions: INSTRUCTIONS.as_ptr() as u64,
                license: c"GPL".as_ptr() as u64,
                log: [0; 2],
                version_and_flags: 0,
            },
        )?;
        let name = CString::new(tracepoint)?;
        let link = bpf(
            RAW_TRACEPOINT_OPEN,
            &Open {
                name: name.as_ptr() as u64,
                program: program.as_raw_fd() as u32,
                padding: 0,
            },
        )?;
        Ok(Self {
            _program: program,
            _link: link,
        })
    }
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are plain integers without padding between them,
    // of the size given; pointers in them are to what outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
