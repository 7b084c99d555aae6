//! One column: varints one behind another.

use prost::bytes::Bytes;

use super::CodecError;

/// Writes a column.
#[derive(Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    last: u64,
}

impl Writer {
    pub(super) fn with_capacity(values: usize) -> Self {
        Writer {
            bytes: Vec::with_capacity(values),
            last: 0,
        }
    }

    pub(super) fn push(&mut self, value: impl Into<u64>) {
        let mut value = value.into();
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Writes the difference to the value before, modulo 2^64, in zigzag form.
    pub(super) fn push_delta(&mut self, value: u64) {
        let delta = value.wrapping_sub(self.last) as i64;
        self.last = value;
        self.push(((delta << 1) ^ (delta >> 63)) as u64);
    }

    pub(super) fn finish(self) -> Bytes {
        self.bytes.into()
    }
}

/// Reads a column; names itself in errors.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    record: &'static str,
    field: &'static str,
    /// Values read so far.
    index: usize,
    last: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], record: &'static str, field: &'static str) -> Self {
        Reader {
            rest: bytes,
            record,
            field,
            index: 0,
            last: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes left, which are no fewer than the values left.
    pub(super) fn rest_len(&self) -> usize {
        self.rest.len()
    }

    /// An error about the value read last.
    #[cold]
    pub(super) fn error(&self, problem: impl Into<String>) -> CodecError {
        CodecError::Field {
            record: self.record,
            index: self.index.saturating_sub(1),
            field: self.field,
            problem: problem.into(),
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<u64, CodecError> {
        self.index += 1;
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            _ => self.next_long(),
        }
    }

    fn next_long(&mut self) -> Result<u64, CodecError> {
        let mut value = 0_u64;
        for (at, &byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return Err(self.error("number of more than 64 bits"));
            }
            value |= bits << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(self.error(match self.rest.len() {
            0 => "has no value",
            1..10 => "number cut short",
            _ => "number of more than 64 bits",
        }))
    }

    #[inline]
    pub(super) fn next_u32(&mut self) -> Result<u32, CodecError> {
        let value = self.next()?;
        u32::try_from(value).map_err(|_| self.error(format!("{value} does not fit in 32 bits")))
    }

    /// Undoes [`Writer::push_delta`].
    #[inline]
    pub(super) fn next_delta(&mut self) -> Result<u64, CodecError> {
        let zigzag = self.next()?;
        let delta = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        self.last = self.last.wrapping_add(delta);
        Ok(self.last)
    }

    /// The column must have been read to its end.
    pub(super) fn finish(mut self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        self.index += 1;
        Err(self.error(format!(
            "there are only {} {}s",
            self.index - 1,
            self.record
        )))
    }
}
