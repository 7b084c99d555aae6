//! Traces become profiles; profiles merge, travel and are kept.
//!
//! [`build`], [`mod@merge`] and [`codec`] are pure. [`store`] is the only part that
//! touches a disk.
//!
//! Invariant: a profile that leaves this module is *canonical*: volumes, files,
//! names and blocks are sorted and unique, extents are sorted, disjoint, not
//! empty and as long as their history allows, every mask is a non-empty subset
//! of the runs, and nothing exceeds [`Limits`].

pub mod build;
pub mod codec;
pub mod exact;
mod extents;
mod limits;
pub mod merge;
pub mod name;
mod record;
pub mod stats;
pub mod store;
#[cfg(test)]
pub(crate) mod strategies;
mod wire;

pub use build::{from_trace, from_trace_within};
pub use codec::{CodecError, decode, encode};
pub use exact::ExactRuns;
pub use limits::{Limits, Pruned};
pub use merge::{merge, merge_within};
pub use name::{NameError, check_name};
pub use stats::{Totals, within_version};
pub use store::{
    Access, Called, Entry, KEPT, Notices, Outcome, Past, Store, StoreError, keep, panics,
};
