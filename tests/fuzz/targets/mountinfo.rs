//! The mount table.

#![no_main]

use headstart::attribute::mountinfo::{covering, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(mounts) = parse(text) else { return };
    for mount in mounts.iter().filter(|m| m.mount_point.starts_with(b"/")) {
        let found = covering(&mounts, &mount.mount_point).expect("its own point is covered");
        assert!(found.mount_point.len() >= mount.mount_point.len());
    }
});
