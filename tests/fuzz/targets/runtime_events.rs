//! containerd's events.

#![no_main]

use headstart::workload::{Heard, decode_event};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (id, namespace) = match decode_event(bytes) {
        None => return,
        Some(Heard::Made { namespace, id }) => (id, namespace),
        Some(Heard::Removed { id }) => (id, "default".to_owned()),
    };
    // They become parts of paths and headers.
    for name in [id, namespace] {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        assert!((1..=128).contains(&name.len()) && name.bytes().all(is_fine));
    }
});
