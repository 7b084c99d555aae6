//! The kernel's type information.

#![no_main]

use headstart::probe::types_from_btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = types_from_btf(data);
});
