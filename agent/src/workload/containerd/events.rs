//! What containerd tells of containers as they are made and removed: its stream of events.
//!
//! A container is made before its task is, and with that its cgroup: what it will read can
//! be known then.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use super::{CALL_TIMEOUT, Call, ContainerdError, channel, endpoint, messages};

const VERSION: &str = "/containerd.services.version.v1.Version/Version";
const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";

/// How long nothing may come until it is asked whether anybody is there. By a call: HTTP/2's
/// own pings servers take offence at where they come more often than every five minutes.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Largest event that is read, bytes; those that are asked for take some hundred.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// Longest id or namespace that is taken, bytes.
const LONGEST: usize = 128;

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A container was made; its task will start, or not.
    Made {
        /// Namespace of containerd.
        namespace: String,
        /// The container's id.
        id: String,
    },
    /// A container was removed.
    Removed {
        /// Its id.
        id: String,
    },
}

/// Listens to the containerd at the first of `sockets` that is there, until that ends. Calls
/// `live` once it does, then `each` for each event; where that says `false` there was no room
/// for it, and nothing is read for as long as `pause`.
///
/// # Errors
/// Always, in the end: why nothing more is heard.
pub async fn follow(
    sockets: Vec<PathBuf>,
    pause: Duration,
    live: impl FnOnce() + Send,
    mut each: impl FnMut(Heard) -> bool + Send,
) -> ContainerdError {
    let first = sockets.first().cloned().unwrap_or_default();
    let channel = channel(endpoint(), sockets);
    // The stream's first answer comes with its first event; this one at once.
    let call = || Call {
        channel: &channel,
        socket: &first,
        namespace: "default",
        deadline: Instant::now() + CALL_TIMEOUT,
    };
    match version(&call()).await {
        Ok(()) => live(),
        Err(error) => return error,
    }
    let failed = |status: tonic::Status| ContainerdError::Call {
        call: SUBSCRIBE,
        status: Box::new(status),
    };
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_EVENT_BYTES);
    if let Err(source) = client.ready().await {
        return call().unconnected(source);
    }
    let topics = ["/containers/create", "/containers/delete"];
    let request = Request::new(messages::Subscribe {
        filters: topics.map(|topic| format!("topic==\"{topic}\"")).into(),
    });
    let codec = tonic_prost::ProstCodec::<messages::Subscribe, messages::Envelope>::default();
    let path = PathAndQuery::from_static(SUBSCRIBE);
    let mut events = match client.server_streaming(request, path, codec).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return failed(status),
    };
    loop {
        let Ok(message) = tokio::time::timeout(ASKED_EVERY, events.message()).await else {
            if let Err(error) = version(&call()).await {
                return error;
            }
            continue;
        };
        match message {
            Ok(Some(envelope)) => {
                if understood(envelope).is_some_and(|heard| !each(heard)) {
                    tokio::time::sleep(pause).await;
                }
            }
            Ok(None) => return ContainerdError::Ended,
            Err(status) => return failed(status),
        }
    }
}

/// Asks for what is always told.
pub(super) async fn version(call: &Call<'_>) -> Result<(), ContainerdError> {
    let answer: Option<messages::Nothing> = call.make(VERSION, messages::Nothing {}).await?;
    answer.map(drop).ok_or(ContainerdError::Ended)
}

/// An event's message, as it comes over the socket; `None` for what is none, or says nothing
/// of interest.
pub fn decode(bytes: &[u8]) -> Option<Heard> {
    understood(messages::Envelope::decode(bytes).ok()?)
}

fn understood(envelope: messages::Envelope) -> Option<Heard> {
    let event = envelope.event?;
    let id = messages::OfContainer::decode(&event.value[..]).ok()?.id;
    let is_fine = |text: &str| {
        let is_one = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_one)
    };
    // What may be asked about with them: containerd takes no others.
    if !is_fine(&id) || !is_fine(&envelope.namespace) {
        return None;
    }
    match envelope.topic.as_str() {
        "/containers/create" => Some(Heard::Made {
            namespace: envelope.namespace,
            id,
        }),
        "/containers/delete" => Some(Heard::Removed { id }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(topic: &str, namespace: &str, id: &str) -> Vec<u8> {
        let of_container = messages::OfContainer { id: id.to_owned() };
        messages::Envelope {
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(messages::Any {
                type_url: "containerd.events.ContainerCreate".to_owned(),
                value: of_container.encode_to_vec(),
            }),
        }
        .encode_to_vec()
    }

    #[test]
    fn containers_made_and_removed_are_understood_and_nothing_else() {
        let made = decode(&envelope("/containers/create", "k8s.io", "ab12"));
        let (namespace, id) = ("k8s.io".to_owned(), "ab12".to_owned());
        let wanted = Heard::Made {
            namespace,
            id: id.clone(),
        };
        assert_eq!(made, Some(wanted));
        let removed = decode(&envelope("/containers/delete", "k8s.io", "ab12"));
        assert_eq!(removed, Some(Heard::Removed { id }));
        for odd in [
            envelope("/tasks/start", "k8s.io", "ab12"),
            envelope("/containers/create", "k8s.io", ""),
            envelope("/containers/create", "k8s.io", "../ab12"),
            envelope("/containers/create", "a\nb", "ab12"),
            envelope("/containers/create", "k8s.io", &"a".repeat(1000)),
            messages::Envelope::default().encode_to_vec(),
            b"\xff\xff\xff".to_vec(),
        ] {
            assert_eq!(decode(&odd), None, "{odd:?}");
        }
    }

    #[test]
    fn nobody_there_and_one_that_is_mute_are_told_in_time() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let dir = tempfile::tempdir().expect("temp dir");
        let told = |socket: PathBuf| {
            runtime.block_on(follow(
                vec![socket],
                Duration::ZERO,
                || panic!("live"),
                |_| true,
            ))
        };
        let began = Instant::now();
        told(dir.path().join("none.sock"));
        let socket = dir.path().join("mute.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        let error = told(socket);
        assert!(matches!(error, ContainerdError::Timeout(_)), "{error}");
        assert!(began.elapsed() < 4 * CALL_TIMEOUT);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
