//! Which hook serves what: a table, not ifs.

use std::fmt;

use headstart_abi::{
    READ_AT, READ_ON, READ_OUT, READ_TO, READ_VECTOR, READ_VECTOR_AT, SYSCALL_AT, SYSCALL_LENGTH,
    SYSCALL_LIST, SYSCALL_PATH, SYSCALL_SECOND, SYSCALL_SOCKET,
};

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
    /// Cgroups made, removed and filled again on the whole machine, told at once.
    Signal,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A tracepoint, by the types of its arguments: where pointers are followed from
    /// them. Linux 5.5.
    BtfTracepoint,
    /// A tracepoint, whose arguments are numbers.
    RawTracepoint,
    /// The beginning of a kernel function. Linux 5.5, on arm64 6.4.
    Fentry,
    /// The end of a kernel function. As [`Kind::Fentry`].
    Fexit,
    /// The beginning of a kernel function where it can't be traced: dearer.
    Kprobe,
}

impl Kind {
    /// As bpftool and the programs' sections call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BtfTracepoint => "tp_btf",
            Self::RawTracepoint => "raw_tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
        }
    }

    /// Whether it is attached to a function, not to a tracepoint.
    pub const fn is_function(self) -> bool {
        matches!(self, Self::Fentry | Self::Fexit | Self::Kprobe)
    }
}

/// Where a hook may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The program's name in the object file.
    pub program: &'static str,
    /// How it is attached.
    pub kind: Kind,
    /// The tracepoint or function.
    pub at: &'static str,
    /// A program that belongs to it, and a function which that is attached to in
    /// kernels that have it.
    pub beside: Option<(&'static str, &'static str)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.at)
    }
}

const fn place(kind: Kind, program: &'static str, at: &'static str) -> Place {
    Place {
        program,
        kind,
        at,
        beside: None,
    }
}

/// One purpose, and where the programs for it may go.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Its name: that of its first program.
    pub program: &'static str,
    /// What it is for.
    pub group: Group,
    /// Whether it tells of pages; the others say more of those, or of something else.
    pub sees_pages: bool,
    /// The first that this kernel takes is used.
    pub places: &'static [Place],
    /// What is missing where none can be attached.
    pub without: &'static str,
}

const READ: &[Place] = &[
    place(
        Kind::BtfTracepoint,
        "filemap_get_pages",
        "mm_filemap_get_pages",
    ),
    Place {
        beside: Some(("splice_entry", "filemap_splice_read")),
        ..place(Kind::Fentry, "read_entry", "filemap_read")
    },
    place(Kind::Fentry, "read_entry", "generic_file_buffered_read"),
    Place {
        beside: Some(("splice_probe", "filemap_splice_read")),
        ..place(Kind::Kprobe, "read_probe", "filemap_read")
    },
    place(Kind::Kprobe, "read_probe", "generic_file_buffered_read"),
];

const MAP: &[Place] = &[
    place(
        Kind::BtfTracepoint,
        "filemap_map_pages",
        "mm_filemap_map_pages",
    ),
    place(Kind::Fexit, "map_pages_exit", "filemap_map_pages"),
    place(Kind::Kprobe, "map_pages_probe", "filemap_map_pages"),
];

const FAULT: &[Place] = &[
    place(Kind::BtfTracepoint, "filemap_fault", "mm_filemap_fault"),
    place(Kind::Fentry, "fault_entry", "filemap_fault"),
    place(Kind::Kprobe, "fault_probe", "filemap_fault"),
];

const ADDRESS: &[Place] = &[
    place(Kind::RawTracepoint, "page_fault_user", "page_fault_user"),
    // Of system calls too.
    place(Kind::Fentry, "mm_fault_entry", "handle_mm_fault"),
    place(Kind::Kprobe, "mm_fault_probe", "handle_mm_fault"),
];

/// All hooks. Which place of each is taken is found out by trying.
pub const HOOKS: &[Hook] = &[
    Hook {
        program: "filemap_get_pages",
        group: Group::Use,
        sees_pages: true,
        places: READ,
        without: "pages read by read(2), sendfile(2) and splice(2) are not recorded",
    },
    Hook {
        program: "filemap_map_pages",
        group: Group::Use,
        sees_pages: true,
        places: MAP,
        without: "mapped pages that were cached already are not recorded",
    },
    Hook {
        program: "filemap_fault",
        group: Group::Use,
        sees_pages: true,
        places: FAULT,
        without: "mapped pages that were not cached are not recorded",
    },
    Hook {
        program: "page_fault_user",
        group: Group::Use,
        sees_pages: false,
        places: ADDRESS,
        without: "no page of a fault's window is certain",
    },
    #[cfg(target_arch = "x86_64")]
    Hook {
        program: "page_fault_kernel",
        group: Group::Use,
        sees_pages: false,
        places: &[place(
            Kind::RawTracepoint,
            "page_fault_kernel",
            "page_fault_kernel",
        )],
        without: "pages faulted by system calls stay uncertain",
    },
    Hook {
        program: "filemap_add",
        group: Group::Miss,
        sees_pages: false,
        places: &[place(
            Kind::RawTracepoint,
            "filemap_add",
            "mm_filemap_add_to_page_cache",
        )],
        without: "metadata blocks read from disk are not recorded",
    },
    Hook {
        program: "sys_exit",
        group: Group::Names,
        sees_pages: false,
        places: &[place(Kind::BtfTracepoint, "sys_exit", "sys_exit")],
        without: "names given to system calls are not recorded: only the file data is warmed",
    },
    Hook {
        program: "process_exec",
        group: Group::Lifecycle,
        sees_pages: false,
        places: &[place(
            Kind::RawTracepoint,
            "process_exec",
            "sched_process_exec",
        )],
        without: "the names of executed programs are not recorded",
    },
    Hook {
        program: "cgroup_mkdir",
        group: Group::Lifecycle,
        sees_pages: false,
        places: &[place(Kind::RawTracepoint, "cgroup_mkdir", "cgroup_mkdir")],
        without: "cgroups made by the command itself are not followed",
    },
    Hook {
        program: "signal_mkdir",
        group: Group::Signal,
        sees_pages: false,
        places: &[place(Kind::RawTracepoint, "signal_mkdir", "cgroup_mkdir")],
        without: "the agent does not notice that something starts",
    },
    Hook {
        program: "signal_rmdir",
        group: Group::Signal,
        sees_pages: false,
        places: &[place(Kind::RawTracepoint, "signal_rmdir", "cgroup_rmdir")],
        without: "the agent does not notice that something is gone",
    },
    Hook {
        program: "signal_fill",
        group: Group::Signal,
        sees_pages: false,
        places: &[place(
            Kind::RawTracepoint,
            "signal_fill",
            "cgroup_notify_populated",
        )],
        without: "the agent does not notice what starts again in the cgroup that it had",
    },
];

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct HookState {
    /// The hook's name.
    pub program: &'static str,
    /// What it is for.
    pub group: Group,
    /// See [`Hook::sees_pages`].
    pub sees_pages: bool,
    /// Kind and place: `tp_btf mm_filemap_get_pages`; the first of those tried where
    /// it is not attached.
    pub place: String,
    /// Whether it is attached.
    pub live: bool,
    /// Why it is not, for each place tried; empty where it is.
    pub reason: String,
    /// Instructions that the kernel's verifier went through for it. Linux 5.16.
    pub verified: Option<u32>,
    /// What is missing without it.
    pub without: &'static str,
}

/// System calls that name files.
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
    (libc::SYS_mkdirat, SYSCALL_AT),
    (libc::SYS_unlinkat, SYSCALL_AT),
    (libc::SYS_fchmodat, SYSCALL_AT),
    (libc::SYS_fchownat, SYSCALL_AT),
    (libc::SYS_utimensat, SYSCALL_AT),
    (libc::SYS_name_to_handle_at, SYSCALL_AT),
    (libc::SYS_truncate, SYSCALL_PATH),
    (libc::SYS_getxattr, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_lgetxattr, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_listxattr, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_llistxattr, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_inotify_add_watch, SYSCALL_SECOND | SYSCALL_LENGTH),
    (libc::SYS_connect, SYSCALL_SOCKET),
    (libc::SYS_bind, SYSCALL_SOCKET),
];

/// System calls that read files, and where each says from where on.
pub(crate) const READS: &[(i64, u32)] = &[
    (libc::SYS_read, READ_ON),
    (libc::SYS_readv, READ_VECTOR),
    (libc::SYS_pread64, READ_AT),
    (libc::SYS_preadv, READ_VECTOR_AT),
    (libc::SYS_preadv2, READ_VECTOR_AT),
    (libc::SYS_splice, READ_TO),
    (libc::SYS_copy_file_range, READ_TO),
    (libc::SYS_sendfile, READ_OUT),
];

/// Those that younger architectures do without.
#[cfg(target_arch = "x86_64")]
pub(crate) const OLD_SYSCALLS: &[(i64, u32)] = &[
    (libc::SYS_open, SYSCALL_PATH),
    (libc::SYS_stat, SYSCALL_PATH),
    (libc::SYS_lstat, SYSCALL_PATH),
    (libc::SYS_access, SYSCALL_PATH),
    (libc::SYS_readlink, SYSCALL_PATH | SYSCALL_LENGTH),
    (libc::SYS_creat, SYSCALL_PATH),
    (libc::SYS_mkdir, SYSCALL_PATH),
    (libc::SYS_rmdir, SYSCALL_PATH),
    (libc::SYS_unlink, SYSCALL_PATH),
    (libc::SYS_chmod, SYSCALL_PATH),
    (libc::SYS_chown, SYSCALL_PATH),
    (libc::SYS_lchown, SYSCALL_PATH),
    (libc::SYS_getdents, SYSCALL_LIST),
];
#[cfg(target_arch = "aarch64")]
pub(crate) const OLD_SYSCALLS: &[(i64, u32)] = &[];
