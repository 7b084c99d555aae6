//! `/metrics`, `/livez`, `/readyz`.

use crate::scene::{Scene, http, view};

#[test]
fn metrics_are_those_of_the_view_of_the_moment() {
    let scene = Scene::new(view());
    let (status, before) = http(scene.address(), "GET /metrics");
    assert_eq!(status, 200);
    assert!(
        before.contains("headstart_starts_total{signal=\"cgroup\"} 5\n"),
        "{before}"
    );
    assert!(before.contains("workload=\"redis\""), "{before}");
    let mut changed = view();
    changed.totals.starts.insert("cgroup", 6);
    changed.forget("container:redis");
    scene.handle.publish(changed);
    let (_, after) = http(scene.address(), "GET /metrics");
    assert!(
        after.contains("headstart_starts_total{signal=\"cgroup\"} 6\n"),
        "{after}"
    );
    assert!(
        !after.contains("redis"),
        "series go with their workload: {after}"
    );
    assert_eq!(scene.client().metrics().expect("answered"), after);
}

#[test]
fn ready_is_what_the_daemon_says_and_alive_from_the_start() {
    let mut unready = view();
    unready.ready = false;
    let scene = Scene::new(unready);
    assert_eq!(http(scene.address(), "GET /livez").0, 200);
    assert_eq!(http(scene.address(), "GET /readyz").0, 503);
    scene.handle.publish(view());
    assert_eq!(http(scene.address(), "GET /readyz").0, 200);
}

#[test]
fn what_is_not_there_is_said() {
    let scene = Scene::new(view());
    assert_eq!(http(scene.address(), "GET /").0, 404);
    assert_eq!(http(scene.address(), "POST /metrics").0, 405);
    let (status, body) = http(scene.address(), "HEAD /metrics");
    assert_eq!((status, body.as_str()), (200, ""));
}
