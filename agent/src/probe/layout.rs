//! The running kernel's structure layout.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use headstart_abi::{ABI_VERSION, KernelLayout, NO_OFFSET};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::btf::{Btf, BtfError, KIND_FUNC, KIND_TYPEDEF};
use super::hooks::{HOOKS, Kind};

/// Where the kernel publishes its types.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why the layout could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel has no BTF, or it can't be read.
    #[error(
        "reading the kernel's types from {path}: {source}; without them nothing can be recorded (a kernel built with CONFIG_DEBUG_INFO_BTF has them)"
    )]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The kernel's BTF is not what it should be.
    #[error("the kernel's types in {path} can't be used: {reason}")]
    Parse {
        /// File.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
}

/// Fields without which nothing can be recorded, and those without which only
/// a part is missing.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    All,
    Part,
}

type Set = fn(&mut KernelLayout) -> &mut u32;

/// (structure, field, where it goes, how needed).
const FIELDS: &[(&str, &str, Set, Need)] = &[
    ("address_space", "host", |l| &mut l.mapping_host, Need::All),
    ("inode", "i_sb", |l| &mut l.inode_sb, Need::All),
    ("inode", "i_ino", |l| &mut l.inode_ino, Need::All),
    ("inode", "i_mode", |l| &mut l.inode_mode, Need::All),
    (
        "inode",
        "i_generation",
        |l| &mut l.inode_generation,
        Need::All,
    ),
    ("inode", "i_rdev", |l| &mut l.inode_rdev, Need::Part),
    ("inode", "i_dentry", |l| &mut l.inode_dentry, Need::All),
    ("super_block", "s_dev", |l| &mut l.sb_dev, Need::All),
    ("dentry", "d_parent", |l| &mut l.dentry_parent, Need::All),
    ("dentry", "d_name", |l| &mut l.dentry_name, Need::All),
    ("dentry", "d_inode", |l| &mut l.dentry_inode, Need::Part),
    ("dentry", "d_u.d_alias", |l| &mut l.dentry_alias, Need::All),
    ("folio", "mapping", |l| &mut l.folio_mapping, Need::Part),
    ("folio", "index", |l| &mut l.folio_index, Need::Part),
    ("task_struct", "fs", |l| &mut l.task_fs, Need::Part),
    ("task_struct", "files", |l| &mut l.task_files, Need::Part),
    (
        "task_struct",
        "cgroups",
        |l| &mut l.task_cgroups,
        Need::Part,
    ),
    ("css_set", "dfl_cgrp", |l| &mut l.set_cgroup, Need::Part),
    ("fs_struct", "pwd.dentry", |l| &mut l.fs_pwd, Need::Part),
    ("fs_struct", "root.dentry", |l| &mut l.fs_root, Need::Part),
    ("files_struct", "fdt", |l| &mut l.files_fdt, Need::Part),
    ("fdtable", "fd", |l| &mut l.fdt_fd, Need::Part),
    ("fdtable", "max_fds", |l| &mut l.fdt_max, Need::Part),
    ("file", "f_path.dentry", |l| &mut l.file_dentry, Need::Part),
    (
        "linux_binprm",
        "filename",
        |l| &mut l.bprm_filename,
        Need::Part,
    ),
    (
        "cgroup",
        "self.parent",
        |l| &mut l.cgroup_parent,
        Need::Part,
    ),
    ("cgroup", "kn", |l| &mut l.cgroup_kn, Need::Part),
    ("kernfs_node", "id", |l| &mut l.kn_id, Need::Part),
    ("cgroup", "root", |l| &mut l.cgroup_root, Need::Part),
    (
        "cgroup_root",
        "hierarchy_id",
        |l| &mut l.root_hierarchy,
        Need::Part,
    ),
    ("inode", "i_size", |l| &mut l.inode_size, Need::Part),
    ("file", "f_mapping", |l| &mut l.file_mapping, Need::Part),
    ("file", "f_pos", |l| &mut l.file_position, Need::Part),
    ("file", "f_flags", |l| &mut l.file_flags, Need::Part),
    ("kiocb", "ki_filp", |l| &mut l.kiocb_file, Need::Part),
    ("kiocb", "ki_pos", |l| &mut l.kiocb_position, Need::Part),
    ("iov_iter", "count", |l| &mut l.iter_count, Need::Part),
    ("vm_fault", "vma", |l| &mut l.fault_area, Need::Part),
    ("vm_fault", "pgoff", |l| &mut l.fault_page, Need::Part),
    ("vm_fault", "ptl", |l| &mut l.fault_lock, Need::Part),
    (
        "vm_area_struct",
        "vm_file",
        |l| &mut l.area_file,
        Need::Part,
    ),
    (
        "vm_area_struct",
        "vm_start",
        |l| &mut l.area_start,
        Need::Part,
    ),
    (
        "vm_area_struct",
        "vm_pgoff",
        |l| &mut l.area_page,
        Need::Part,
    ),
];

/// Where a field was before, or is in newer kernels: (structure, field) as in
/// [`FIELDS`], and another of the same meaning.
const ALTERNATIVES: &[(&str, &str, &str, &str)] = &[
    // A page cache of pages, before 5.16.
    ("folio", "mapping", "page", "mapping"),
    ("folio", "index", "page", "index"),
    ("dentry", "d_u.d_alias", "dentry", "d_alias"),
];

#[cfg(target_arch = "x86_64")]
const REGISTERS: [&str; 6] = ["orig_ax", "di", "si", "dx", "r10", "r8"];
#[cfg(target_arch = "aarch64")]
const REGISTERS: [&str; 6] = ["syscallno", "orig_x0", "regs", "regs", "regs", "regs"];

/// Arguments of a kernel function.
#[cfg(target_arch = "x86_64")]
const ARGUMENTS: [&str; 4] = ["di", "si", "dx", "cx"];
#[cfg(target_arch = "aarch64")]
const ARGUMENTS: [&str; 4] = ["regs"; 4];

/// Functions whose presence says what a kernel can do.
const FUNCTIONS: [&str; 3] = [GET_TASK, CHARGE_MAPS, "filemap_splice_read"];
/// The helper `bpf_get_current_task_btf`. Linux 5.11.
const GET_TASK: &str = "bpf_get_current_task_btf";
/// Until 5.11 maps and programs were locked memory of their user.
const CHARGE_MAPS: &str = "bpf_map_charge_init";

/// What the kernel's BTF says.
#[derive(Debug)]
pub struct KernelTypes {
    /// For the probes.
    pub layout: KernelLayout,
    /// Fields that were not found.
    pub missing: Vec<String>,
    /// Functions that it has, of those whose presence says what it can do.
    pub functions: Vec<&'static str>,
    /// BTF with what probes are attached to by type, and nothing else.
    pub places: Vec<u8>,
}

impl KernelTypes {
    /// Whether programs and maps count against the limit of locked memory.
    pub(crate) fn charges_memory(&self) -> bool {
        self.functions.contains(&CHARGE_MAPS)
    }
}

/// Reads the kernel's BTF.
pub(crate) fn kernel_types(path: &Path) -> Result<KernelTypes, LayoutError> {
    let read = || -> std::io::Result<_> {
        let file = std::fs::File::open(path)?;
        let mapped = Mapped::of(&file);
        match mapped {
            Some(mapped) => Ok((Some(mapped), Vec::new())),
            None => std::fs::read(path).map(|data| (None, data)),
        }
    };
    let (mapped, data) = read().map_err(|source| LayoutError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let data = mapped.as_ref().map_or(data.as_slice(), Mapped::bytes);
    let mut kernel = types_from_btf(data).map_err(|error| LayoutError::Parse {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    kernel.layout.fault_around_pages = fault_around_pages();
    Ok(kernel)
}

/// The kernel's BTF, mapped: sysfs hands out a page per read otherwise, which
/// takes 1,400 of them. Linux 6.16.
struct Mapped {
    address: NonNull<c_void>,
    length: usize,
}

impl Mapped {
    fn of(file: &std::fs::File) -> Option<Self> {
        let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
        let (prot, flags) = (ProtFlags::READ, MapFlags::PRIVATE);
        // SAFETY: a new mapping of kernel memory that nobody writes; the kernel
        // refuses a length beyond its end.
        let address = unsafe { mmap(std::ptr::null_mut(), length, prot, flags, file, 0) }.ok()?;
        Some(Self {
            address: NonNull::new(address)?,
            length,
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and read-only.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().cast(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `of`; no slice of it outlives `self`. It
        // can only fail for arguments that are wrong.
        let _ = unsafe { munmap(self.address.as_ptr(), self.length) };
    }
}

/// Kinds and names of the types of what hooks may be attached to by type.
fn attached_by_type() -> Vec<(u32, String)> {
    let places = HOOKS.iter().flat_map(|hook| hook.places);
    let types = places.flat_map(|place| match place.kind {
        Kind::BtfTracepoint => vec![(KIND_TYPEDEF, format!("btf_trace_{}", place.at))],
        Kind::Fentry | Kind::Fexit => {
            let beside = place.beside.map(|(_, function)| function);
            let functions = [Some(place.at), beside].into_iter().flatten();
            functions.map(|name| (KIND_FUNC, name.to_owned())).collect()
        }
        Kind::RawTracepoint | Kind::Kprobe => Vec::new(),
    });
    types.collect()
}

/// What a kernel's BTF says. Pure: how far a fault maps around itself is not in it.
///
/// # Errors
/// No BTF, or a field is missing without which nothing can be recorded.
pub fn types_from_btf(data: &[u8]) -> Result<KernelTypes, BtfError> {
    let mut wanted: Vec<&'static str> = FIELDS.iter().map(|f| f.0).collect();
    wanted.extend(ALTERNATIVES.iter().map(|a| a.2));
    wanted.push("pt_regs");
    wanted.dedup();
    let btf = Btf::parse(data, &wanted, &FUNCTIONS)?;
    let mut layout = KernelLayout::UNKNOWN;
    let mut missing = Vec::new();
    for (structure, field, set, need) in FIELDS {
        let found = btf.offset(structure, field).or_else(|error| {
            ALTERNATIVES
                .iter()
                .filter(|other| (other.0, other.1) == (*structure, *field))
                .find_map(|other| btf.offset(other.2, other.3).ok())
                .ok_or(error)
        });
        match found {
            Ok(offset) => *set(&mut layout) = offset,
            Err(error) if *need == Need::All => return Err(error),
            Err(_) => missing.push(format!("{structure}.{field}")),
        }
    }
    let register = |i: usize| btf.offset("pt_regs", REGISTERS[i]).unwrap_or(NO_OFFSET);
    (layout.regs_number, layout.regs_arg0) = (register(0), register(1));
    (layout.regs_arg1, layout.regs_arg2) = (register(2), register(3));
    (layout.regs_arg3, layout.regs_arg4) = (register(4), register(5));
    if cfg!(target_arch = "aarch64") && layout.regs_arg1 != NO_OFFSET {
        layout.regs_arg1 += 8;
        layout.regs_arg2 += 16;
        layout.regs_arg3 += 24;
        layout.regs_arg4 += 32;
    }
    let argument = |i: usize| btf.offset("pt_regs", ARGUMENTS[i]).unwrap_or(NO_OFFSET);
    (layout.call_arg0, layout.call_arg1) = (argument(0), argument(1));
    (layout.call_arg2, layout.call_arg3) = (argument(2), argument(3));
    if cfg!(target_arch = "aarch64") && layout.call_arg0 != NO_OFFSET {
        layout.call_arg1 += 8;
        layout.call_arg2 += 16;
        layout.call_arg3 += 24;
    }
    layout.abi_version = ABI_VERSION;
    layout.direct_flag = libc::O_DIRECT as u32;
    let mut functions = FUNCTIONS.to_vec();
    functions.retain(|name| btf.has_function(name));
    // Without it the probes ask for the cgroup in another way.
    if !functions.contains(&GET_TASK) {
        layout.task_cgroups = NO_OFFSET;
    }
    Ok(KernelTypes {
        layout,
        missing,
        functions,
        places: btf.extract(&attached_by_type()),
    })
}

/// Pages of a fault-around window: from debugfs where it can be read, else the
/// kernel's default of 64 KiB. That too where it is one page: then there are no windows,
/// and if there are some later, because it was put back, they are as usual.
fn fault_around_pages() -> u32 {
    std::fs::read_to_string("/sys/kernel/debug/fault_around_bytes")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .filter(|&bytes| bytes > 4096)
        .map_or(16, |bytes| (bytes / 4096).min(64))
}
