//! Ring buffer entries: decoded, gathered, attributed and made a profile of.
//! The input is a row of entries, each after its length (two bytes).

#![no_main]

use headstart::attribute::{Collector, Origin, Surroundings, attribute_in, mountinfo::Mount};
use headstart::model::RunInfo;
use headstart::probe;
use headstart::profile::{decode, encode, from_trace};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut collector = Collector::default();
    // The command is whoever comes first.
    let mut origin = None;
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (entry, tail) = tail.split_at(length);
        collector.add(entry);
        if let (None, Ok(first)) = (origin, probe::decode(entry)) {
            origin = Some(Origin {
                time_ns: first.time_ns,
                ours_before: first.tgid % 2 == 0,
            });
        }
        rest = tail;
    }
    let Some(origin) = origin else { return };
    let attributed = attribute_in(Surroundings::here(&[nowhere()]), &collector, origin, 16);
    let run = RunInfo {
        started_ms: 1,
        id: 1,
        duration_ns: 1,
        exact: false,
        blind_ns: 0,
    };
    let profile = from_trace(&attributed.trace, run);
    let (_, read) = decode(&encode("fuzz", &profile)).expect("what is recorded can be kept");
    assert_eq!(read, profile);
});

/// A disk's mount on which no name exists: nothing of this machine is looked at.
fn nowhere() -> Mount {
    Mount {
        id: 1,
        parent: 0,
        device: (254, 0),
        root: b"/".to_vec(),
        mount_point: b"/nowhere".to_vec(),
        options: b"rw".to_vec(),
        fs_type: "ext4".to_owned(),
        source: b"/dev/vda".to_vec(),
        super_options: b"rw".to_vec(),
    }
}
