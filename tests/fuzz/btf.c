/* The structures that are asked of BTF, with the kinds of types that kernels have:
 * anonymous unions, typedefs, qualifiers, bit fields, arrays, functions. */
typedef unsigned int u32; typedef unsigned long u64; typedef const volatile u64 odd;
struct hlist_node { struct hlist_node *next, **pprev; };
struct super_block { void *s_list[2]; u32 s_dev; };
struct inode { unsigned short i_mode; struct super_block *i_sb; u64 i_ino; u32 i_rdev; u32 i_generation;
	union { void *i_dentry; int i_rcu; }; };
struct address_space { struct inode *host; odd flags; };
struct qstr { union { struct { u32 hash, len; }; u64 hash_len; }; const unsigned char *name; };
struct dentry { u32 d_flags; struct dentry *d_parent; struct qstr d_name; struct inode *d_inode;
	union { struct hlist_node d_alias; struct hlist_node d_in_lookup; } d_u; };
struct folio { union { struct { u64 flags; struct address_space *mapping; u64 index; }; u64 page[8]; }; };
struct path { void *mnt; struct dentry *dentry; };
struct fs_struct { int users; struct path root, pwd; };
struct fdtable { u32 max_fds; struct file __attribute__((btf_type_tag("rcu"))) **fd; } __attribute__((btf_decl_tag("tag")));
struct files_struct { int count; struct fdtable *fdt; };
struct file { u32 f_mode : 7, f_more : 25; struct path f_path; };
struct kernfs_node { int count; u64 id; };
struct cgroup; struct cgroup_subsys_state { struct cgroup *cgroup; struct cgroup_subsys_state *parent; };
struct cgroup { struct cgroup_subsys_state self; u64 flags; struct kernfs_node *kn; };
struct css_set { void *subsys[14]; struct cgroup *dfl_cgrp; };
enum state { RUNNING, STOPPED = 1 << 20 };
enum wide { LARGE = 1ul << 40 };
struct task_struct { enum state state; enum wide wide; struct fs_struct *fs; struct files_struct *files; struct css_set *cgroups; float f; };
struct linux_binprm { char buf[4]; const char *filename; };
struct pt_regs { u64 r15, r14, r8, si, di, orig_ax; };
struct task_struct *current_task; u64 counter;
int use(struct address_space *a, struct dentry *d, struct folio *f, struct file *file, void *rest);
int probe(struct address_space *a, struct dentry *d, struct folio *f, struct file *file) { struct linux_binprm b; struct pt_regs r; counter++; return use(a, d, f, file, &b) + use(a, d, f, file, &r) + current_task->state; }
struct { struct super_block a; struct inode b; struct address_space c; struct dentry d; struct folio e; struct fs_struct f;
	struct files_struct g; struct fdtable h; struct file i; struct kernfs_node j; struct cgroup k; struct css_set l;
	struct task_struct m; struct linux_binprm n; struct pt_regs o; } all;
