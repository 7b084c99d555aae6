//! A container's `config.json`.

#![no_main]

use headstart::profile::check_name;
use headstart::workload::{Facts, container_keys, oci};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = oci::parse(bytes) else {
        return;
    };
    let text = |name: &str| config.annotations.get(name).map_or("", String::as_str);
    let keys = container_keys(&Facts {
        name: text("name"),
        image: text("image"),
        image_id: text("id"),
        args: &config.args,
        ..Facts::default()
    });
    for key in keys.0 {
        check_name(&key).expect("a key names a profile");
    }
});
