//! Headstart makes data local before it is asked for.
//!
//! # Layout
//! The modules stand in the order in which data flows; a module uses only
//! those above it (`cargo xtask tidy` enforces this):
//!
//! 1. [`model`]: plain types. No I/O, no clocks.
//! 2. [`probe`]: kernel hooks → decoded touches.
//! 3. [`attribute`]: touches → files named by volume and path.
//! 4. [`profile`]: traces → merged profiles, and the store that keeps them.
//! 5. [`predict`]: profile → what the next run will read, and how sure.
//! 6. [`plan`]: prediction → ordered actions under a budget. Pure.
//! 7. [`warm`]: plan → resident bytes and names, verified.
//! 8. [`run`]: one command, recorded, warmed for, measured.
//! 9. [`cli`]: the commands.

pub mod model;
pub mod probe;
pub mod attribute;
pub mod profile;
pub mod predict;
pub mod plan;
pub mod warm;
pub mod run;
pub mod cli;
