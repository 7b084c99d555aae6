//! What is recorded, against what a program is known to have used: programs with
//! known offsets, on real file systems, by the path that `record` takes.
//!
//! Needs root, probes built in, and the programs that make file systems; what
//! can't be done is said on standard error. `docs/what-is-seen.md` names these
//! tests line by line.

#[path = "../common/residency.rs"]
mod residency;
mod cost;
mod disks;
mod exact;
mod exec;
mod fio;
mod hooks;
mod identity;
mod loss;
mod maps;
mod names;
mod narrow;
mod others;
mod pages;
mod places;
mod reader;
mod reads;
mod stages;
mod stream;
mod support;
