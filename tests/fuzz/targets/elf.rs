//! Heads of programs, libraries and scripts.

#![no_main]

use headstart::attribute::elf::{interpreter, mapping_starts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| {
    if let Some(path) = interpreter(head) {
        assert!(!path.is_empty() && !path.contains(&0));
        // The name of a program's may hold one.
        assert!(!head.starts_with(b"#!") || !path.contains(&b'\n'));
    }
    if let Some(starts) = mapping_starts(head) {
        assert!(!starts.is_empty() && starts.is_sorted());
    }
});
