//! What lies inside of profile files and of the store's values, and what is done
//! with it: written again, merged, predicted from and planned.

#![no_main]

use headstart::model::DeviceCost;
use headstart::plan::{self, PlanOptions, Timing};
use headstart::predict;
use headstart::profile::codec::{FORMAT_VERSION, MAGIC, decode, encode};
use headstart::profile::{Totals, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let payload = lz4_flex::block::compress(message);
    let mut file = MAGIC.to_vec();
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend(crc32fast::hash(&payload).to_le_bytes());
    file.extend((message.len() as u64).to_le_bytes());
    file.extend(payload);
    let Ok((name, profile)) = decode(&file) else {
        return;
    };
    let written = encode(&name, &profile);
    let (name_again, again) = decode(&written).expect("what was read can be written");
    assert_eq!((&name_again, &again), (&name, &profile));

    let _ = Totals::of(&profile).data_bytes();
    let merged = merge(&profile, &profile);
    decode(&encode(&name, &merged)).expect("what was merged can be kept");

    let _ = predict::wants_exact(&profile);
    let prediction = predict::predict(&profile);
    let times = [
        (Timing::Ahead, true),
        (Timing::Beside, true),
        (Timing::Beside, false),
    ];
    for (timing, lead) in times {
        let options = PlanOptions {
            budget: 1 << 20,
            timing,
            lead,
            maybe: true,
            cost: DeviceCost {
                read_ns: 20_000.0,
                latency_ns: 100_000.0,
                bytes_per_s: 1e9,
                readahead_bytes: 128 << 10,
                measured_ms: 0,
            },
        };
        let _ = plan::build(&prediction, &options);
    }
});
