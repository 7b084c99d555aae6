//! Which hook serves what: a table, not ifs.

use headstart_abi::{SYSCALL_AT, SYSCALL_LENGTH, SYSCALL_LIST, SYSCALL_PATH};

/// What a hook is for; groups are attached and detached together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Pages read and mapped: costs something on every read of the machine.
    Use,
    /// Pages brought in: costs nothing on cached reads.
    Miss,
    /// Names given to system calls.
    Names,
    /// Programs executed and cgroups made.
    Lifecycle,
}

/// One program and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the object file.
    pub program: &'static str,
    /// What it is for.
    pub group: Group,
    /// The tracepoint it is attached to: as a raw one, or by the types of its
    /// arguments where the program follows pointers from them.
    pub tracepoint: &'static str,
    /// What is missing where it can't attach.
    pub without: &'static str,
}

/// All hooks of kernels from 6.12 on.
pub const HOOKS: &[Hook] = &[
    Hook {
        program: "filemap_get_pages",
        group: Group::Use,
        tracepoint: "mm_filemap_get_pages",
        without: "pages read by read(2), sendfile(2) and splice(2) are not recorded",
    },
    Hook {
        program: "filemap_map_pages",
        group: Group::Use,
        tracepoint: "mm_filemap_map_pages",
        without: "mapped pages that were cached already are not recorded",
    },
    Hook {
        program: "filemap_fault",
        group: Group::Use,
        tracepoint: "mm_filemap_fault",
        without: "mapped pages that were not cached are not recorded",
    },
    Hook {
        program: "page_fault_user",
        group: Group::Use,
        tracepoint: "page_fault_user",
        without: "no page of a fault's window is certain",
    },
    Hook {
        program: "page_fault_kernel",
        group: Group::Use,
        tracepoint: "page_fault_kernel",
        without: "pages faulted by system calls stay uncertain",
    },
    Hook {
        program: "filemap_add",
        group: Group::Miss,
        tracepoint: "mm_filemap_add_to_page_cache",
        without: "metadata blocks read from disk are not recorded",
    },
    Hook {
        program: "sys_exit",
        group: Group::Names,
        tracepoint: "sys_exit",
        without: "names given to system calls are not recorded: only the file data is warmed",
    },
    Hook {
        program: "process_exec",
        group: Group::Lifecycle,
        tracepoint: "sched_process_exec",
        without: "the names of executed programs are not recorded",
    },
    Hook {
        program: "cgroup_mkdir",
        group: Group::Lifecycle,
        tracepoint: "cgroup_mkdir",
        without: "cgroups made by the command itself are not followed",
    },
];

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct HookState {
    /// The program.
    pub program: &'static str,
    /// What it is for.
    pub group: Group,
    /// Kind and place: `tp_btf mm_filemap_get_pages`.
    pub place: String,
    /// Whether it is attached.
    pub live: bool,
    /// Why it is not; empty where it is.
    pub reason: String,
    /// What is missing without it.
    pub without: &'static str,
}

/// System calls that name files, by number on this architecture.
#[cfg(target_arch = "x86_64")]
pub(crate) const SYSCALLS: &[(i64, u32)] = &[
    (libc::SYS_open, SYSCALL_PATH),
    (libc::SYS_stat, SYSCALL_PATH),
    (libc::SYS_lstat, SYSCALL_PATH),
    (libc::SYS_access, SYSCALL_PATH),
    (libc::SYS_readlink, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_execve, SYSCALL_PATH),
    (libc::SYS_statfs, SYSCALL_PATH),
    (libc::SYS_chdir, SYSCALL_PATH),
    (libc::SYS_getdents, SYSCALL_LIST),
    (libc::SYS_openat, SYSCALL_AT),
    (libc::SYS_openat2, SYSCALL_AT),
    (libc::SYS_newfstatat, SYSCALL_AT),
    (libc::SYS_statx, SYSCALL_AT),
    (libc::SYS_faccessat, SYSCALL_AT),
    (libc::SYS_faccessat2, SYSCALL_AT),
    (libc::SYS_readlinkat, SYSCALL_AT | SYSCALL_LENGTH),
    (libc::SYS_execveat, SYSCALL_AT),
    (libc::SYS_getdents64, SYSCALL_LIST),
];

/// System calls that name files, by number on this architecture.
#[cfg(target_arch = "aarch64")]
pub(crate) const SYSCALLS: &[(i64, u32)] = &[
    (libc::SYS_execve, SYSCALL_PATH),
    (libc::SYS_statfs, SYSCALL_PATH),
    (libc::SYS_chdir, SYSCALL_PATH),
    (libc::SYS_openat, SYSCALL_AT),
    (libc::SYS_openat2, SYSCALL_AT),
    (libc::SYS_newfstatat, SYSCALL_AT),
    (libc::SYS_statx, SYSCALL_AT),
    (libc::SYS_faccessat, SYSCALL_AT),
    (libc::SYS_faccessat2, SYSCALL_AT),
    (libc::SYS_readlinkat, SYSCALL_AT | SYSCALL_LENGTH),
    (libc::SYS_execveat, SYSCALL_AT),
    (libc::SYS_getdents64, SYSCALL_LIST),
];
