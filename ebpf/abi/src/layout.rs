//! Where the running kernel keeps the fields that the probes read.

/// An offset that the kernel's BTF did not have: what needs it is left out.
pub const NO_OFFSET: u32 = u32::MAX;

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Byte offsets of kernel structure fields, resolved from BTF at start
        /// and given to the probes as a constant, plus a few sizes.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct KernelLayout {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl KernelLayout {
            /// A layout in which nothing is known.
            pub const UNKNOWN: Self = Self { $($field: NO_OFFSET,)* };
        }
    };
}

layout! {
    /// [`super::ABI_VERSION`] of whoever filled this in.
    abi_version,
    /// `address_space.host`
    mapping_host,
    /// `inode.i_sb`
    inode_sb,
    /// `inode.i_ino`
    inode_ino,
    /// `inode.i_mode`
    inode_mode,
    /// `inode.i_generation`
    inode_generation,
    /// `inode.i_rdev`
    inode_rdev,
    /// `inode.i_dentry` (list of dentries)
    inode_dentry,
    /// `super_block.s_dev`
    sb_dev,
    /// `dentry.d_parent`
    dentry_parent,
    /// `dentry.d_name` (hash and length, then the pointer)
    dentry_name,
    /// `dentry.d_inode`
    dentry_inode,
    /// `dentry.d_u.d_alias`
    dentry_alias,
    /// `folio.mapping`
    folio_mapping,
    /// `folio.index`
    folio_index,
    /// `task_struct.fs`
    task_fs,
    /// `task_struct.files`
    task_files,
    /// `task_struct.cgroups`
    task_cgroups,
    /// `css_set.dfl_cgrp`
    set_cgroup,
    /// `fs_struct.pwd.dentry`
    fs_pwd,
    /// `fs_struct.root.dentry`
    fs_root,
    /// `files_struct.fdt`
    files_fdt,
    /// `fdtable.fd`
    fdt_fd,
    /// `fdtable.max_fds`
    fdt_max,
    /// `file.f_path.dentry`
    file_dentry,
    /// `linux_binprm.filename`
    bprm_filename,
    /// `cgroup.self.parent`
    cgroup_parent,
    /// `cgroup.kn` then `kernfs_node.id`: offset of `kn`
    cgroup_kn,
    /// `kernfs_node.id`
    kn_id,
    /// `cgroup.root`
    cgroup_root,
    /// `cgroup_root.hierarchy_id`: 0 for v2
    root_hierarchy,
    /// `inode.i_size`
    inode_size,
    /// `file.f_mapping`
    file_mapping,
    /// `file.f_pos`
    file_position,
    /// `file.f_flags`
    file_flags,
    /// `kiocb.ki_filp`
    kiocb_file,
    /// `kiocb.ki_pos`
    kiocb_position,
    /// `iov_iter.count`
    iter_count,
    /// `vm_fault.vma`
    fault_area,
    /// `vm_fault.pgoff`
    fault_page,
    /// `vm_fault.ptl`
    fault_lock,
    /// `vm_area_struct.vm_file`
    area_file,
    /// `vm_area_struct.vm_start`
    area_start,
    /// `vm_area_struct.vm_pgoff`
    area_page,
    /// `pt_regs`: first argument of a kernel function, at its entry
    call_arg0,
    /// The second
    call_arg1,
    /// The third
    call_arg2,
    /// The fourth
    call_arg3,
    /// `pt_regs`: number of the system call
    regs_number,
    /// `pt_regs`: first system call argument as it is after the call
    regs_arg0,
    /// `pt_regs`: second system call argument
    regs_arg1,
    /// `pt_regs`: third system call argument
    regs_arg2,
    /// `pt_regs`: fourth system call argument
    regs_arg3,
    /// `pt_regs`: fifth system call argument
    regs_arg4,
    /// `O_DIRECT`, which architectures do not agree on
    direct_flag,
    /// Pages of a fault-around window (16 unless debugfs says otherwise)
    fault_around_pages,
}

#[cfg(feature = "user")]
// SAFETY: repr(C), only u32 fields.
unsafe impl aya::Pod for KernelLayout {}
