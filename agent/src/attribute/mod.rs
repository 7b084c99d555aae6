//! (to come)
pub mod ext4;
