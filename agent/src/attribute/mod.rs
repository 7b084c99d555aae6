//! Touches → files named by volume and path.
//!
//! Invariant: what is not known stays unknown; nothing is guessed.

mod collect;
mod elf;
pub mod ext4;
mod faults;
pub mod mountinfo;
mod names;
mod resolve;
mod tally;
mod touches;
pub mod volume;

pub use collect::{Collector, Origin};
pub use resolve::{Attributed, attribute};
pub use tally::Gaps;
