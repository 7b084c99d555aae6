//! Options of an overlay filesystem.

#![no_main]

use headstart::workload::overlay::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|options: &[u8]| {
    let overlay = parse(options);
    let bytes: usize = overlay.lower.iter().map(Vec::len).sum();
    assert!(bytes <= options.len());
    assert!(overlay.lower.iter().all(|path| !path.is_empty()));
});
