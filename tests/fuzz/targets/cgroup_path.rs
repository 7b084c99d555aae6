//! A cgroup's path, and the keys of a unit that it names.

#![no_main]

use headstart::profile::check_name;
use headstart::workload::{Place, place, unit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &[u8]| {
    match place(path) {
        Some(Place::Unit { name, user }) => {
            for key in unit::keys(&name, user).0 {
                check_name(&key).expect("a key names a profile");
            }
        }
        Some(Place::Container { id, .. }) => assert_eq!(id.len(), 64),
        None => {}
    }
});
