//! Profiles as bytes: a file to carry to another node, a value in the store.
//!
//! 24 bytes of header (magic, format version, CRC-32 of the payload, length of
//! the payload once decompressed), then the payload: an LZ4 block of a protobuf
//! message with one column for each field (`docs/profile-format.md`).
//!
//! Decoding trusts nothing: what it returns is canonical but for extents that
//! could be longer, and it needs no more memory than a small multiple of what
//! the bytes announce, which is bounded.

mod column;
mod decode;
mod encode;

use crate::model::{Profile, escape};

use super::name::NameError;

/// First bytes of a profile file. The line end shows transfers that "repair"
/// text.
pub const MAGIC: [u8; 8] = *b"HSPROF\r\n";

/// The version that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 24;

/// Most bytes a payload may have once decompressed.
pub const MAX_UNCOMPRESSED: u64 = 1 << 30;

/// Why bytes are not a profile, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The header is not complete.
    #[error(
        "cut short: {have} bytes, where the header alone has {HEADER_BYTES}; copy or export it again"
    )]
    Truncated {
        /// Bytes there are.
        have: usize,
    },
    /// It starts with something else.
    #[error("not a headstart profile; `headstart profile export` writes one")]
    Foreign,
    /// The magic number's line end was changed on the way.
    #[error(
        "damaged by a transfer in text mode, which changed its line ends; copy it again as binary"
    )]
    TextMode,
    /// Written by a newer headstart.
    #[error(
        "has format version {found}, and this build reads up to {FORMAT_VERSION}: upgrade headstart"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// No headstart wrote this version.
    #[error("has format version {found}, which never existed; export it again")]
    NoSuchVersion {
        /// Its version.
        found: u32,
    },
    /// The payload's checksum is not the one in the header.
    #[error(
        "checksum mismatch: it was cut short or damaged since it was written; copy or export it again"
    )]
    Checksum,
    /// More than [`MAX_UNCOMPRESSED`], or than the payload can hold.
    #[error("says that it holds {announced} bytes, which is {why}; export it again")]
    Size {
        /// Bytes announced.
        announced: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The LZ4 block is not one.
    #[error("can't be decompressed ({0}); export it again")]
    Decompress(String),
    /// Not a protobuf message of this schema.
    #[error("is not a valid message ({0}); export it again")]
    Message(String),
    /// The name inside is none.
    #[error("{0}; import it under another name with --as")]
    Name(NameError),
    /// A value that breaks a rule of the format.
    #[error(
        "field {field} of {record} #{index}: {problem}; export it again with a current headstart"
    )]
    Field {
        /// What the field belongs to: `file`, `extent`, `name`...
        record: &'static str,
        /// Which one, from 0.
        index: usize,
        /// The field, as in the schema.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// More of something than a profile may have.
    #[error("has more than {limit} {what}s, the most that are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// Writes a profile. `name` is kept as the name to import it under.
///
/// A profile that is not canonical is written all the same and refused when
/// read.
pub fn encode(name: &str, profile: &Profile) -> Vec<u8> {
    let message = encode::message(name, profile);
    let payload = lz4_flex::block::compress(&message);
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    out.extend_from_slice(&(message.len() as u64).to_le_bytes());
    out.extend_from_slice(&payload);
    out
}

/// Reads a profile and the name it was written under.
pub fn decode(bytes: &[u8]) -> Result<(String, Profile), CodecError> {
    let (announced, payload) = open(bytes)?;
    let message = lz4_flex::block::decompress(payload, announced)
        .map_err(|e| CodecError::Decompress(e.to_string()))?;
    if message.len() != announced {
        let problem = format!("{} bytes instead of {announced}", message.len());
        return Err(CodecError::Decompress(problem));
    }
    decode::message(message)
}

/// Checks header and checksum; the announced length and the payload.
fn open(bytes: &[u8]) -> Result<(usize, &[u8]), CodecError> {
    let common = MAGIC.len().min(bytes.len());
    if bytes[..common] != MAGIC[..common] {
        return Err(match bytes.starts_with(b"HSPROF") {
            true => CodecError::TextMode,
            false => CodecError::Foreign,
        });
    }
    let truncated = CodecError::Truncated { have: bytes.len() };
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(truncated);
    };
    let [.., v0, v1, v2, v3, c0, c1, c2, c3, _, _, _, _, _, _, _, _] = *header;
    let [.., l0, l1, l2, l3, l4, l5, l6, l7] = *header;
    match u32::from_le_bytes([v0, v1, v2, v3]) {
        FORMAT_VERSION => {}
        0 => return Err(CodecError::NoSuchVersion { found: 0 }),
        found => return Err(CodecError::Newer { found }),
    }
    if crc32fast::hash(payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(CodecError::Checksum);
    }
    let announced = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
    let why = if announced > MAX_UNCOMPRESSED {
        "more than the 1 GiB allowed"
    } else if announced > payload.len() as u64 * 255 {
        "more than its payload can expand to"
    } else {
        return Ok((announced as usize, payload));
    };
    Err(CodecError::Size { announced, why })
}

/// Bytes that a written profile has once decompressed, as its header says.
pub(super) fn announced(bytes: &[u8]) -> u64 {
    let length = bytes.get(16..HEADER_BYTES).and_then(|b| b.try_into().ok());
    length.map_or(0, u64::from_le_bytes)
}

fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 80;
    match bytes.get(..MOST) {
        Some(start) => format!("`{}…`", escape(start)),
        None => format!("`{}`", escape(bytes)),
    }
}

#[cfg(test)]
mod tests;
