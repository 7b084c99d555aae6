//! Kernel hooks → decoded touches.
//!
//! Invariant: only this module names aya. A hook that can't attach is a fact
//! that is reported ([`HookState`]), never a failure of the others.

mod attach;
mod btf;
mod counters;
mod decode;
mod hooks;
mod layout;
mod load;
mod memlock;
mod object;
mod ring;

pub use btf::BtfError;
pub use counters::{Counters, Ran};
pub use decode::{
    CgroupChange, DecodeError, Fault, Inode, InodeKey, Name, Record, Touch, What, decode,
};
pub use hooks::{Group, HOOKS, Hook, HookState, Kind, Place};
pub use layout::{KernelTypes, LayoutError, types_from_btf};
pub use load::{ProbeError, Probes};
pub use object::object;
pub use ring::{Reader, wait};
