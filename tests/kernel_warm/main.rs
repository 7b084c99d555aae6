//! The executor on real files of a real disk, with the page cache dropped.
//!
//! Needs root for dropping caches, loop devices and overlay mounts; what can't
//! be done is said on standard error.

#[path = "../common/cachestat.rs"]
mod cachestat;
#[path = "../common/prepare.rs"]
mod prepare;
#[path = "../common/residency.rs"]
mod residency;
mod files;
mod others;
mod support;
mod volumes;
