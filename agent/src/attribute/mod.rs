//! Touches → files named by volume and path.
//!
//! Invariant: what is not known stays unknown; nothing is guessed.

pub mod mountinfo;
pub mod volume;
