//! The kernel's type information.

#![no_main]

use headstart::probe::layout_from_btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = layout_from_btf(data, &["mm_filemap_get_pages", "sys_exit"]);
});
