//! The socket.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use headstart::api::{ApiError, ApiOptions, Client, ClientError, SocketError, serve, v1};
use headstart::daemon::{Handle, Notified, OrderError, Touched, View};

use crate::scene::{ODD, Scene, answer, until, view};

#[test]
fn the_view_arrives_whole() {
    let scene = Scene::new(view());
    let mut client = scene.client();
    let status = client.status().expect("answered");
    assert_eq!(status.pid, std::process::id());
    assert!(status.ready);
    assert_eq!((status.cgroups, status.learning, status.warming), (3, 1, 1));
    let totals = status.totals.expect("totals");
    assert_eq!(totals.starts["cgroup"], 5);
    assert_eq!(totals.outcome_bytes["used"], 3 << 20);
    assert_eq!(totals.lead.expect("leads").count, 3);
    assert_eq!(totals.stages[0].filtered["other"], 10);

    let workloads = client.workloads(false).expect("answered");
    let names: Vec<&str> = workloads.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, [ODD, "redis", "before.service", "web.service"]);
    let seen: Vec<bool> = workloads.iter().map(|w| w.seen).collect();
    assert_eq!(seen, [true, true, false, true]);
    assert_eq!(client.workloads(true).expect("answered").len(), 3);
    let files = |w: &headstart::api::v1::Workload| w.last.as_ref().map(|l| l.files.len());
    assert!(workloads.iter().all(|w| files(w) == Some(0)));

    // What was not seen since the agent started is told by the store.
    let before = client.explain("unit:before.service").expect("answered");
    assert_eq!((before.runs, before.seen), (4, false));
    assert_eq!(before.last.expect("a start").used, 1 << 20);
    let by_name = client.explain("before.service").expect("answered");
    assert_eq!(by_name.key, "unit:before.service");

    let explained = client.explain("web.service").expect("answered");
    assert_eq!(explained.key, "unit:web.service");
    assert_eq!(files(&explained), Some(2));
    let last = explained.last.expect("a start");
    assert_eq!(last.lead_seconds, Some(0.3));
    assert_eq!(last.files[0].path, "usr/lib/a.so");
}

#[test]
fn workloads_and_profiles_come_in_pages() {
    let scene = Scene::new(view());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let socket = format!("unix:{}", scene.socket().display());
    let (workloads, profiles) = runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(socket).expect("a path");
        let channel = channel.connect().await.expect("connected");
        let mut client = v1::agent_client::AgentClient::new(channel);
        let (mut workloads, mut profiles) = (Vec::new(), Vec::new());
        let mut page_token = String::new();
        loop {
            let answer = client.list_workloads(v1::ListWorkloadsRequest {
                page_size: 2,
                page_token,
                seen_only: false,
            });
            let answer = answer.await.expect("answered").into_inner();
            workloads.push(answer.workloads.len());
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        loop {
            let answer = client.list_profiles(v1::ListProfilesRequest {
                page_size: 3,
                page_token,
            });
            let answer = answer.await.expect("answered").into_inner();
            profiles.extend(answer.profiles.into_iter().map(|p| (p.name, p.runs)));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        (workloads, profiles)
    });
    assert_eq!(workloads, [2, 2]);
    assert_eq!(profiles.len(), 4);
    assert_eq!(profiles[2], ("unit:before.service".to_owned(), 4));
}

#[test]
fn a_workload_is_found_by_what_is_shown_of_it() {
    let mut view = view();
    let mut twin = (*view.workloads["container:redis"]).clone();
    twin.key = "container:redis:other".to_owned();
    view.add(twin);
    let scene = Scene::new(view);
    let mut client = scene.client();
    let shown = headstart::model::escape(ODD.as_bytes());
    assert_eq!(client.explain(&shown).expect("found").name, ODD);
    assert_eq!(
        client.explain("container:redis").expect("found").name,
        "redis"
    );
    let ambiguous = client
        .explain("redis")
        .expect_err("two of them")
        .to_string();
    assert!(
        ambiguous.contains("called `redis`: name one by its key (container:redis, container:r"),
        "{ambiguous}"
    );
    let unknown = client.explain("no\x1bbody").expect_err("none").to_string();
    assert!(unknown.contains("`no\\x1bbody`"), "{unknown}");
}

#[test]
fn a_notification_is_answered_as_the_daemon_answers_it() {
    let mut scene = Scene::new(view());
    answer(
        scene.orders.take().expect("orders"),
        |workload| match workload {
            "unit:web.service" => Ok(Notified {
                key: workload.to_owned(),
                planned: 4096,
                queued: false,
            }),
            "later" => Err(OrderError::NotWarmed {
                workload: workload.to_owned(),
                reason: "no_gain",
            }),
            _ => Err(OrderError::Unknown(workload.to_owned())),
        },
    );
    let mut client = scene.client();
    // By name here; the daemon is told the key.
    let notified = client.notify("web.service").expect("planned");
    assert_eq!(
        (notified.key.as_str(), notified.planned),
        ("unit:web.service", 4096)
    );
    let refused = client.notify("later").expect_err("not warmed").to_string();
    assert_eq!(refused, "`later` is not warmed: no_gain");
    assert!(matches!(
        client.notify("nobody"),
        Err(ClientError::Refused(_))
    ));
}

#[test]
fn touches_come_as_they_are_told_and_only_those_that_are_wanted() {
    let scene = Scene::new(view());
    let handle = scene.handle.clone();
    let telling = std::thread::spawn(move || {
        until("somebody listens", || handle.has_listeners());
        for (workload, page) in [("unit:other", 1), ("unit:web.service", 2)] {
            handle.tell(&Touched {
                workload: workload.to_owned(),
                since_start_ns: 5,
                path: b"a\n".to_vec(),
                page,
                pages: 1,
                maybe: true,
            });
        }
    });
    let mut seen = Vec::new();
    let watched = scene.client().watch_touches("unit:web.service", |touch| {
        seen.push((touch.path, touch.page));
        false
    });
    watched.expect("watched");
    telling.join().expect("told");
    assert_eq!(seen, [("a\\x0a".to_owned(), 2)]);
    let touched = Touched {
        workload: String::new(),
        since_start_ns: 0,
        path: Vec::new(),
        page: 0,
        pages: 1,
        maybe: false,
    };
    until("a listener that has gone is forgotten", || {
        scene.handle.tell(&touched);
        !scene.handle.has_listeners()
    });
}

#[test]
fn a_server_that_ends_takes_its_socket_and_its_port_with_it() {
    let mut scene = Scene::new(view());
    let (socket, address) = (scene.socket(), scene.address());
    assert_eq!(
        std::fs::metadata(&socket).expect("there").mode() & 0o777,
        0o600
    );
    let mut client = scene.client();
    client.status().expect("answered");
    scene.server = None;
    assert!(!socket.exists());
    assert!(matches!(
        Client::connect(&socket),
        Err(ClientError::NotRunning(_))
    ));
    until("the port is closed", || {
        std::net::TcpStream::connect(address).is_err()
    });
    assert!(client.status().is_err());
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() {
    let scene = Scene::new(view());
    let options = ApiOptions {
        socket: scene.socket(),
        metrics_listen: None,
        ..ApiOptions::default()
    };
    let (handle, _orders) = Handle::new();
    let refused = serve(handle, options).expect_err("one is enough");
    assert!(
        matches!(refused, ApiError::Socket(SocketError::Taken { .. })),
        "{refused}"
    );
    scene.client().status().expect("it goes on");
}

#[test]
fn a_port_that_is_taken_leaves_the_socket_and_is_tried_again() {
    let scene = Scene::new(View::default());
    let dir = tempfile::tempdir().expect("a directory");
    let (handle, _orders) = Handle::new();
    let options = ApiOptions {
        socket: dir.path().join("agent.sock"),
        metrics_listen: Some(scene.address()),
        ..ApiOptions::default()
    };
    let server = serve(handle, options.clone()).expect("served");
    assert_eq!(server.metrics_address(), None);
    let mut client = Client::connect(&options.socket).expect("connected");
    let mut metrics = || {
        let status = client.status().expect("answered");
        let mut features = status.features.into_iter();
        features.find(|f| f.name == "metrics").expect("a feature")
    };
    assert!(metrics().reason.contains("in use"));
    drop(scene);
    crate::scene::until("metrics are served", || metrics().live);
}

#[test]
fn metrics_at_all_addresses_are_served_at_those_of_ipv4_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (handle, _orders) = Handle::new();
    let options = ApiOptions {
        socket: dir.path().join("agent.sock"),
        metrics_listen: Some("[::]:0".parse().expect("an address")),
        ..ApiOptions::default()
    };
    let server = serve(handle, options).expect("served");
    let port = server.metrics_address().expect("served").port();
    let address = ([127, 0, 0, 1], port).into();
    let (status, _) = crate::scene::http(address, "GET /livez");
    assert_eq!(status, 200);
}

#[test]
fn health_and_reflection_are_there() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let scene = Scene::new(view());
    let socket = scene.socket();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let target = format!("unix:{}", socket.display());
        let endpoint = tonic::transport::Endpoint::from_shared(target).expect("an address");
        let channel = endpoint.connect().await.expect("connected");
        let mut health = HealthClient::new(channel.clone());
        let serving = |ready: bool| if ready { 1 } else { 2 };
        for (service, ready) in [("headstart.v1.Agent", true), ("", false)] {
            let mut changed = view();
            changed.ready = ready;
            scene.handle.publish(changed);
            let deadline = std::time::Instant::now() + crate::scene::PATIENCE;
            loop {
                let service = service.to_owned();
                let answer = health.check(HealthCheckRequest { service }).await;
                if answer.is_ok_and(|a| a.into_inner().status == serving(ready)) {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "never {ready}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let mut reflection = ServerReflectionClient::new(channel);
        let asked = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let asked = tokio_stream::iter([asked]);
        let mut answers = reflection
            .server_reflection_info(asked)
            .await
            .expect("answered")
            .into_inner();
        let answer = answers.message().await.expect("answered").expect("one");
        let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
            panic!("{answer:?}");
        };
        let names: Vec<String> = services.service.into_iter().map(|s| s.name).collect();
        assert!(
            names.contains(&"headstart.v1.Agent".to_owned()),
            "{names:?}"
        );
        assert!(
            names.contains(&"grpc.health.v1.Health".to_owned()),
            "{names:?}"
        );
    });
}
