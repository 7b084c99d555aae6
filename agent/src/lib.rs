//! Headstart makes data local before it is asked for.
//!
//! # Layout
//! The modules stand in the order in which data flows; a module uses only
//! those above it (`cargo xtask tidy` enforces this):
//!
//! 1. [`model`]: plain types. No I/O, no clocks.
//! 2. [`probe`]: kernel hooks → decoded touches.
//! 3. [`attribute`]: touches → files named by volume and path.
//! 4. [`workload`]: cgroup → workload, its key and its volumes.
//! 5. [`profile`]: traces → merged profiles, and the store that keeps them.
//! 6. [`predict`]: profile → what the next run will read, and how sure.
//! 7. [`plan`]: prediction → ordered actions under a budget. Pure.
//! 8. [`warm`]: plan → resident bytes and names, verified.
//! 9. [`run`]: one command, recorded, warmed for, measured.
//! 10. [`daemon`]: every workload of this machine, learned and warmed for.
//! 11. [`api`]: what the daemon tells and is told, by gRPC and as metrics.
//! 12. [`cli`]: the commands.

pub mod model;
pub mod probe;
pub mod attribute;
pub mod workload;
pub mod profile;
pub mod predict;
pub mod plan;
pub mod warm;
pub mod run;
pub mod daemon;
pub mod api;
pub mod cli;
