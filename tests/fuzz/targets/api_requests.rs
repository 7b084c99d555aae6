//! Requests to the agent's socket, and the names in them as metrics.

#![no_main]

use headstart::api::metrics::render;
use headstart::api::v1;
use headstart::daemon::{View, WorkloadView};
use headstart::profile::Called;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, message)) = bytes.split_first() else {
        return;
    };
    let name = match kind % 3 {
        0 => v1::NotifyRequest::decode(message).map(|request| request.workload),
        1 => v1::ExplainRequest::decode(message).map(|request| request.workload),
        _ => v1::WatchTouchesRequest::decode(message).map(|request| request.workload),
    };
    let Ok(name) = name else {
        return;
    };
    let mut view = View::default();
    let workload = WorkloadView {
        key: name.clone(),
        called: Called {
            name: name.clone(),
            namespace: name.clone(),
            ..Called::default()
        },
        ..WorkloadView::default()
    };
    view.add(workload);
    let text = render(&view, 1);
    // No name ends its line, or reaches a terminal as anything but text.
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().map(str::parse::<f64>);
        assert!(
            line.starts_with("headstart_") && matches!(value, Some(Ok(_))),
            "{line}"
        );
    }
});
