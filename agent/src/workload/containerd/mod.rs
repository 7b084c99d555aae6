//! A client of containerd's API, for what its files don't tell: which image a container is
//! of, and the chain ids of its layers.
//!
//! A few kinds of calls, each asked once for a container when it starts; chain ids of
//! committed snapshots never change and are kept. [`follow`] hears of containers as soon as
//! they are made.

mod events;
mod messages;

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::Roots;
use crate::model::escape;

pub use events::{Heard, decode, follow};

/// Longest time that a call takes.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest time that all calls for one container take together.
const TIMEOUT: Duration = Duration::from_secs(1);

/// So long nothing is asked after it did not answer: starts that come in a burst don't each
/// wait for it.
const PAUSE: Duration = Duration::from_secs(5);

/// Layers of one container.
const MAX_LAYERS: usize = 512;

/// Snapshots whose parents are kept; with more they are all forgotten.
const MAX_KNOWN: usize = 20_000;

/// What containerd says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Image reference; empty where it has none.
    pub image: String,
    /// Digest of what the reference names now; empty where that is not known.
    pub image_digest: String,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Chain ids of its layers, the uppermost first.
    pub chain: Vec<String>,
    /// Its `config.json`, not parsed; empty where it has none.
    pub config: Vec<u8>,
    /// Options with which its root filesystem will be mounted, or is; empty where that is
    /// no overlay.
    pub overlay: Vec<u8>,
}

/// Why containerd did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// No thread to wait for answers.
    #[error("can't make a client of containerd: {0}")]
    Client(#[from] std::io::Error),
    /// The socket is missing, or what listens there is something else.
    #[error("containerd at {socket}: {source}")]
    Connect {
        /// Which.
        socket: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// It answered with an error.
    #[error("containerd: {call}: {}", .status.message())]
    Call {
        /// Which call.
        call: &'static str,
        /// What it answered.
        status: Box<Status>,
    },
    /// It did not answer in time.
    #[error("containerd: {0}: no answer in time")]
    Timeout(&'static str),
    /// It ended what it was telling.
    #[error("containerd ended its stream of events")]
    Ended,
    /// It did not answer a moment ago, and is not asked again yet.
    #[error("containerd did not answer a moment ago")]
    Paused,
}

/// A connection to one containerd, made when it is first needed and again when it broke.
///
/// Its calls wait for their answers: not to be made in an asynchronous task.
#[derive(Debug)]
pub struct Containerd {
    /// Where it may listen; the first that is there.
    sockets: Vec<PathBuf>,
    runtime: Runtime,
    channel: Channel,
    /// Snapshotter and name of a committed snapshot → its parent's name, empty where it has
    /// none.
    parents: Mutex<HashMap<(String, String), String>>,
    /// When it last did not answer.
    failed: Mutex<Option<Instant>>,
}

impl Containerd {
    /// A client of the containerd that listens at the first of `sockets` that is there when
    /// it is needed (`/run/containerd/containerd.sock`). Nothing is connected yet.
    ///
    /// # Errors
    /// No event loop can be made.
    pub fn new(sockets: Vec<PathBuf>) -> Result<Self, ContainerdError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let channel = {
            let _inside = runtime.enter();
            channel(endpoint(), sockets.clone())
        };
        Ok(Self {
            sockets,
            runtime,
            channel,
            parents: Mutex::default(),
            failed: Mutex::default(),
        })
    }

    /// Clients of those that listen beside or in the state directories of `roots` (as
    /// containerd, k3s, k0s and MicroK8s have it), or will. Docker's own is none of them.
    pub fn of(roots: &Roots) -> Vec<Self> {
        let clients = roots.containerd.iter().map(|state| {
            let sockets = [state.join("containerd.sock"), state.with_extension("sock")];
            Self::new(sockets.into())
        });
        clients
            .filter_map(|client| {
                client
                    .inspect_err(|error| tracing::warn!(%error, "containerd is not asked"))
                    .ok()
            })
            .collect()
    }

    /// Where it may listen.
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Whether it answers at all.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub fn answers(&self) -> Result<(), ContainerdError> {
        self.runtime.block_on(events::version(&Call {
            channel: &self.channel,
            socket: self.socket(),
            namespace: "default",
            deadline: Instant::now() + CALL_TIMEOUT,
        }))
    }

    fn socket(&self) -> &Path {
        self.sockets.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// What it knows of container `id` in its own `namespace` (`k8s.io`, `default`);
    /// `None` where it does not know it. Takes at most a second.
    ///
    /// # Errors
    /// It does not answer, or not in time.
    pub fn describe(
        &self,
        namespace: &str,
        id: &str,
    ) -> Result<Option<Described>, ContainerdError> {
        self.describe_as(namespace, id, false)
    }

    /// As [`Containerd::describe`], of a container that may have no cgroup and no root
    /// filesystem yet: what these will be, too.
    ///
    /// # Errors
    /// As [`Containerd::describe`].
    pub fn foresee(&self, namespace: &str, id: &str) -> Result<Option<Described>, ContainerdError> {
        self.describe_as(namespace, id, true)
    }

    fn describe_as(
        &self,
        namespace: &str,
        id: &str,
        ahead: bool,
    ) -> Result<Option<Described>, ContainerdError> {
        let now = Instant::now();
        if lock(&self.failed).is_some_and(|failed| now.duration_since(failed) < PAUSE) {
            return Err(ContainerdError::Paused);
        }
        let answer = self
            .runtime
            .block_on(self.ask(namespace, id, ahead, now + TIMEOUT));
        // It may answer with an error about one container and know the next one.
        let is_silent = matches!(
            answer,
            Err(ContainerdError::Timeout(_) | ContainerdError::Connect { .. })
        );
        *lock(&self.failed) = is_silent.then(Instant::now);
        answer
    }

    async fn ask(
        &self,
        namespace: &str,
        id: &str,
        ahead: bool,
        deadline: Instant,
    ) -> Result<Option<Described>, ContainerdError> {
        let call = Call {
            channel: &self.channel,
            socket: self.socket(),
            namespace,
            deadline,
        };
        let request = messages::Get {
            name: id.to_owned(),
        };
        let answer: Option<messages::GotContainer> = call.make(CONTAINER, request).await?;
        let Some(container) = answer.and_then(|answer| answer.container) else {
            return Ok(None);
        };
        let mut described = Described {
            labels: container.labels.into_iter().collect(),
            image: container.image,
            ..Described::default()
        };
        if !described.image.is_empty() {
            let request = messages::Get {
                name: described.image.clone(),
            };
            // An image may be removed while its containers run.
            let answer: Option<messages::GotImage> = call.make(IMAGE, request).await?;
            described.image_digest = answer
                .and_then(|answer| answer.image?.target)
                .map(|target| target.digest)
                .unwrap_or_default();
        }
        if !container.snapshot_key.is_empty() {
            described.chain = self
                .chain(&call, &container.snapshotter, &container.snapshot_key)
                .await?;
        }
        if ahead {
            described.config = container.spec.map(|spec| spec.value).unwrap_or_default();
            let request = messages::Stat {
                snapshotter: container.snapshotter,
                key: container.snapshot_key,
            };
            let answer: Option<messages::Mounts> = call.make(MOUNTS, request).await?;
            let mut mounts = answer.into_iter().flat_map(|answer| answer.mounts);
            let overlay = mounts.find(|mount| mount.kind == "overlay");
            let options = overlay.map(|mount| mount.options.join(","));
            described.overlay = options.unwrap_or_default().into_bytes();
        }
        Ok(Some(described))
    }

    /// Names of the snapshots that `key` is on, the next one first. None where they can't
    /// all be told.
    async fn chain(
        &self,
        call: &Call<'_>,
        snapshotter: &str,
        key: &str,
    ) -> Result<Vec<String>, ContainerdError> {
        let mut chain: Vec<String> = Vec::new();
        let mut name = key.to_owned();
        while chain.len() < MAX_LAYERS {
            // What a container writes to is new each time: not worth being kept.
            let is_committed = !chain.is_empty();
            // Other namespaces may give one name to other contents, but not a digest.
            let known = (snapshotter.to_owned(), name.clone());
            let kept = is_committed
                .then(|| lock(&self.parents).get(&known).cloned())
                .flatten();
            let parent = match kept {
                Some(parent) => parent,
                None => {
                    let request = messages::Stat {
                        snapshotter: snapshotter.to_owned(),
                        key: name,
                    };
                    let answer: Option<messages::Stated> = call.make(SNAPSHOT, request).await?;
                    let Some(info) = answer.and_then(|answer| answer.info) else {
                        return Ok(Vec::new());
                    };
                    if is_committed && super::layers::is_digest(&known.1) {
                        let mut parents = lock(&self.parents);
                        if parents.len() >= MAX_KNOWN {
                            parents.clear();
                        }
                        parents.insert(known, info.parent.clone());
                    }
                    info.parent
                }
            };
            if parent.is_empty() {
                return Ok(chain);
            }
            chain.push(parent.clone());
            name = parent;
        }
        Ok(Vec::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const IMAGE: &str = "/containerd.services.images.v1.Images/Get";
const SNAPSHOT: &str = "/containerd.services.snapshots.v1.Snapshots/Stat";
const MOUNTS: &str = "/containerd.services.snapshots.v1.Snapshots/Mounts";

/// Where a Unix socket is, no address says: this one is only for the headers.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost").connect_timeout(CALL_TIMEOUT)
}

/// A channel to the first of these sockets that is there, connected when it is first used.
fn channel(endpoint: Endpoint, sockets: Vec<PathBuf>) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let sockets = sockets.clone();
        async move {
            let mut refused =
                std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such socket");
            for socket in sockets {
                match UnixStream::connect(socket).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => refused = error,
                }
            }
            Err(refused)
        }
    }))
}

struct Call<'a> {
    channel: &'a Channel,
    socket: &'a Path,
    namespace: &'a str,
    deadline: Instant,
}

impl Call<'_> {
    /// Makes a call; `None` where what is asked for is not known there.
    async fn make<Q, A>(&self, name: &'static str, message: Q) -> Result<Option<A>, ContainerdError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = left.min(CALL_TIMEOUT);
        let answer = in_time(limit, name, async {
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(Failed::Connect)?;
            let mut request = Request::new(message);
            let namespace = MetadataValue::try_from(self.namespace)
                .map_err(|_| Failed::Status(Status::invalid_argument("namespace")))?;
            request
                .metadata_mut()
                .insert("containerd-namespace", namespace);
            request.set_timeout(limit);
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(name);
            client
                .unary(request, path, codec)
                .await
                .map_err(Failed::Status)
        });
        match answer.await? {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(Failed::Status(status)) if status.code() == Code::NotFound => Ok(None),
            // The connection's own clock may be the faster one.
            Err(Failed::Status(status))
                if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) =>
            {
                Err(ContainerdError::Timeout(name))
            }
            Err(Failed::Status(status)) => Err(ContainerdError::Call {
                call: name,
                status: Box::new(status),
            }),
            Err(Failed::Connect(source)) => Err(self.unconnected(source)),
        }
    }

    fn unconnected(&self, source: tonic::transport::Error) -> ContainerdError {
        ContainerdError::Connect {
            socket: escape(self.socket.as_os_str().as_bytes()),
            source,
        }
    }
}

enum Failed {
    Connect(tonic::transport::Error),
    Status(Status),
}

async fn in_time<T>(
    limit: Duration,
    name: &'static str,
    future: impl Future<Output = T>,
) -> Result<T, ContainerdError> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| ContainerdError::Timeout(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_an_error_at_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let client = Containerd::new(vec![dir.path().join("none.sock")]).expect("client");
        let began = Instant::now();
        assert!(client.describe("default", "x").is_err());
        assert!(began.elapsed() < TIMEOUT);
    }

    #[test]
    fn one_that_never_answers_is_left_in_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("mute.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        let client = Containerd::new(vec![socket.clone()]).expect("client");
        let began = Instant::now();
        assert!(client.describe("default", "x").is_err());
        assert!(began.elapsed() < 2 * TIMEOUT);
    }

    #[test]
    fn one_that_answers_nonsense_is_an_error() {
        use std::io::Write;
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("odd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"HTTP/1.1 400 no\r\n\r\n");
            }
        });
        let client = Containerd::new(vec![socket.clone()]).expect("client");
        assert!(client.describe("default", "x").is_err());
    }
}
