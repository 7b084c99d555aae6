//! The agent as a node runs it: real probes, real cgroups, real containers.
//!
//! Needs root and a kernel that the probes load into; what is missing is said on standard
//! error.

#[path = "../common/residency.rs"]
mod residency;
mod life;
mod load;
mod node;
mod units;
