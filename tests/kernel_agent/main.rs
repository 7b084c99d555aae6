//! The agent as a node runs it: real probes, real cgroups, real containers.
//!
//! Needs root and a kernel that the probes load into; what is missing is said on standard
//! error.

mod arrival;
mod charge;
mod clock;
mod containers;
mod dead_mount;
mod docker;
mod fuse;
mod image;
mod life;
mod narrow;
mod load;
mod node;
#[path = "../common/residency.rs"]
mod residency;
#[path = "../common/containers.rs"]
mod scene;
mod units;
