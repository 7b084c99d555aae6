//! What paths mean to a run that is attributed.

use super::mountinfo::Mount;
use super::names::Bind;

/// What paths mean to a run.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The mount table of this process; paths beneath other mounts are not looked at.
    pub mounts: &'a [Mount],
    /// Mounts of the run's own.
    pub binds: &'a [Bind],
    /// Root directory of its processes, as this process sees it, where they don't tell.
    pub root: &'a [u8],
    /// Where `root` is not mounted any more: the directories that were shown there as one
    /// (overlay), the uppermost first. Else empty.
    pub layers: &'a [Vec<u8>],
}

impl<'a> Surroundings<'a> {
    /// Of a run that sees what this process sees.
    pub fn here(mounts: &'a [Mount]) -> Self {
        Self {
            mounts,
            binds: &[],
            root: b"/",
            layers: &[],
        }
    }
}
