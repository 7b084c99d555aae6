//! The small values that the store keeps beside profiles.

#![no_main]

use headstart::profile::store::entry::{
    Entry, device_from_bytes, device_to_bytes, outcomes_from_bytes, outcomes_to_bytes,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Some(entry) = Entry::from_bytes("name", value) {
        assert_eq!(entry.to_bytes(), value);
    }
    if let Some(outcomes) = outcomes_from_bytes(value) {
        assert_eq!(outcomes_to_bytes(&outcomes), value);
    }
    if let Some(cost) = device_from_bytes(value) {
        assert!(cost.read_ns > 0.0 && cost.latency_ns > 0.0 && cost.bytes_per_s > 0.0);
        assert_eq!(device_to_bytes(&cost), value);
    }
});
