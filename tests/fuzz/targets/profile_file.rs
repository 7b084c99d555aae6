//! Profile files as they are imported: the input as it is, and as a file whose
//! checksum is right, which no mutation would find. Then it is an LZ4 block after
//! its length uncompressed (four bytes).

#![no_main]

use headstart::profile::codec::{FORMAT_VERSION, MAGIC, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = decode(data);
    let Some((announced, payload)) = data.split_first_chunk() else {
        return;
    };
    let mut file = MAGIC.to_vec();
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend(crc32fast::hash(payload).to_le_bytes());
    file.extend(u64::from(u32::from_le_bytes(*announced)).to_le_bytes());
    file.extend(payload);
    let _ = decode(&file);
});
