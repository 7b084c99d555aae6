//! Kernel hooks → decoded touches.

mod object;

pub use object::object;
