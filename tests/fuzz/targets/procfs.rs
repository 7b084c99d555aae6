//! What the kernel prints about processes, cgroups and disks.

#![no_main]

use headstart::run::procfs::{mappings, stall_us, status_field};
use headstart::warm::disk_use;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for (range, _) in mappings(text) {
        assert!(range.start <= range.end);
    }
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = (stall_us(text), disk_use(text));
        for name in ["Tgid", "Seccomp", "CapEff"] {
            let value = status_field(text, name);
            assert!(value.is_none_or(|v| !v.contains('\n')));
        }
    }
});
