//! The list of layers of containers/storage.

#![no_main]

use headstart::workload::layers::parse_layers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(layers) = parse_layers(bytes) else {
        return;
    };
    assert!(layers.values().all(|digest| digest.contains(':')));
});
