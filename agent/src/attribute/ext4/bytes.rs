//! Little-endian fields of a structure, with errors that name it.

use super::Ext4Error;

/// Bytes of one structure.
#[derive(Clone, Copy)]
pub(super) struct Fields<'b> {
    pub(super) bytes: &'b [u8],
    /// Kind of structure, for errors.
    pub(super) structure: &'static str,
    /// Which one, for errors.
    pub(super) number: u64,
}

impl<'b> Fields<'b> {
    /// An error about this structure.
    pub(super) fn corrupt(&self, problem: &'static str) -> Ext4Error {
        Ext4Error::Corrupt {
            structure: self.structure,
            number: self.number,
            problem,
        }
    }

    /// `N` bytes at `at`.
    pub(super) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Ext4Error> {
        at.checked_add(N)
            .and_then(|end| self.bytes.get(at..end))
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| self.corrupt("field lies beyond its end"))
    }

    pub(super) fn u8(&self, at: usize) -> Result<u8, Ext4Error> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    pub(super) fn u16(&self, at: usize) -> Result<u16, Ext4Error> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&self, at: usize) -> Result<u32, Ext4Error> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// The rest from `at` on.
    pub(super) fn from(&self, at: usize) -> Result<Fields<'b>, Ext4Error> {
        match self.bytes.get(at..) {
            Some(bytes) => Ok(Fields { bytes, ..*self }),
            None => Err(self.corrupt("field lies beyond its end")),
        }
    }
}

/// First index in `low..high` for which `before` is false, given that it is
/// true for a prefix and false for the rest. Ends for any `before`.
pub(super) fn partition_point(
    mut low: usize,
    mut high: usize,
    mut before: impl FnMut(usize) -> Result<bool, Ext4Error>,
) -> Result<usize, Ext4Error> {
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
