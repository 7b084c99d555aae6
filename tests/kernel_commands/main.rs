//! The commands as a user runs them: the binary, on this machine's kernel.
//!
//! Most need root and a kernel that the probes load into; what is missing is
//! said on standard error.

#[path = "../common/prepare.rs"]
mod prepare;
#[path = "../common/residency.rs"]
mod residency;
mod cgroups;
mod compare;
mod config;
mod degraded;
mod devices;
mod doctor;
mod lockdown;
mod machine;
mod memory;
mod nfs;
mod record;
mod run;
mod scene;
mod signals;
mod store;
mod tools;
mod warm;
