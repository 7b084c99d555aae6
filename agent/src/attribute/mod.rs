//! Touches → files named by volume and path.
//!
//! Invariant: what is not known stays unknown; nothing is guessed.

mod collect;
pub mod elf;
pub mod ext4;
mod faults;
mod links;
mod metadata;
pub mod mountinfo;
mod names;
pub(crate) mod paths;
pub(crate) mod regular;
mod resolve;
mod stat;
mod surroundings;
mod tally;
mod touches;
pub mod volume;

pub use collect::{Collector, Origin};
pub use names::Bind;
pub use resolve::{Attributed, attribute, attribute_in};
pub use surroundings::Surroundings;
pub use tally::Gaps;
