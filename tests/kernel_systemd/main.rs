//! The agent as the service of a machine with systemd: its unit as it is shipped, put where
//! `deploy/README.md` says.
//!
//! It changes the machine that it runs on: for a guest of `cargo xtask vm` alone. What is
//! missing is said on standard error.

mod life;
mod machine;
#[path = "../common/residency.rs"]
mod residency;
mod service;
mod units;
