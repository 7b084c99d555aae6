//! The ext4 reader against what e2fsprogs and the kernel make of the same
//! images. Needs mkfs.ext4, e2fsck, tune2fs and debugfs; the kernel's part
//! needs root and a free loop device besides.

#[path = "../common/cachestat.rs"]
mod cachestat;
mod images;
mod kernel;
mod support;
