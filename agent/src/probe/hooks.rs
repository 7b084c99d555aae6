//! Which hook serves what: a table, not ifs.

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

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// A raw tracepoint.
    Raw(&'static str),
    /// Tracepoints of one category; those that the kernel lacks (system calls
    /// of other architectures) are left out.
    Tracepoints(&'static str, &'static [&'static str]),
}

/// One program and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program's name in the object file.
    pub program: &'static str,
    /// What it is for.
    pub group: Group,
    pub(crate) attach: Attach,
    /// What is missing where it can't attach.
    pub without: &'static str,
}

/// All hooks of kernels from 6.12 on.
pub const HOOKS: &[Hook] = &[
    Hook {
        program: "filemap_get_pages",
        group: Group::Use,
        attach: Attach::Raw("mm_filemap_get_pages"),
        without: "pages read by read(2), sendfile(2) and splice(2) are not recorded",
    },
    Hook {
        program: "filemap_map_pages",
        group: Group::Use,
        attach: Attach::Raw("mm_filemap_map_pages"),
        without: "mapped pages that were cached already are not recorded",
    },
    Hook {
        program: "filemap_fault",
        group: Group::Use,
        attach: Attach::Raw("mm_filemap_fault"),
        without: "mapped pages that were not cached are not recorded",
    },
    Hook {
        program: "page_fault_user",
        group: Group::Use,
        attach: Attach::Raw("page_fault_user"),
        without: "no page of a fault's window is certain",
    },
    Hook {
        program: "page_fault_kernel",
        group: Group::Use,
        attach: Attach::Raw("page_fault_kernel"),
        without: "pages faulted by system calls stay uncertain",
    },
    Hook {
        program: "filemap_add",
        group: Group::Miss,
        attach: Attach::Raw("mm_filemap_add_to_page_cache"),
        without: "metadata blocks read from disk are not recorded",
    },
    Hook {
        program: "name_at",
        group: Group::Names,
        attach: Attach::Tracepoints(
            "syscalls",
            &[
                "sys_exit_openat",
                "sys_exit_newfstatat",
                "sys_exit_statx",
                "sys_exit_faccessat",
                "sys_exit_faccessat2",
                "sys_exit_readlinkat",
                "sys_exit_openat2",
            ],
        ),
        without: "names given to openat, statx, faccessat and readlinkat are not recorded",
    },
    Hook {
        program: "name_cwd",
        group: Group::Names,
        attach: Attach::Tracepoints(
            "syscalls",
            &[
                "sys_exit_open",
                "sys_exit_newstat",
                "sys_exit_newlstat",
                "sys_exit_access",
                "sys_exit_readlink",
                "sys_exit_execve",
            ],
        ),
        without: "names given to open, stat, access and readlink are not recorded",
    },
    Hook {
        program: "list",
        group: Group::Names,
        attach: Attach::Tracepoints("syscalls", &["sys_exit_getdents64", "sys_exit_getdents"]),
        without: "directories that are listed are not recorded as such",
    },
    Hook {
        program: "process_exec",
        group: Group::Lifecycle,
        attach: Attach::Raw("sched_process_exec"),
        without: "the names of executed programs are not recorded",
    },
    Hook {
        program: "cgroup_mkdir",
        group: Group::Lifecycle,
        attach: Attach::Raw("cgroup_mkdir"),
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
    /// Kind and place: `raw_tracepoint mm_filemap_get_pages`.
    pub place: String,
    /// Whether it is attached.
    pub live: bool,
    /// Why it is not (or not everywhere); empty where it is.
    pub reason: String,
    /// What is missing without it.
    pub without: &'static str,
}

impl Attach {
    /// For people.
    pub(crate) fn place(&self) -> String {
        match self {
            Attach::Raw(name) => format!("raw_tracepoint {name}"),
            Attach::Tracepoints(category, names) => {
                let short: Vec<&str> = names
                    .iter()
                    .map(|name| name.strip_prefix("sys_exit_").unwrap_or(name))
                    .collect();
                format!("tracepoint {category}:sys_exit_{{{}}}", short.join(","))
            }
        }
    }
}
