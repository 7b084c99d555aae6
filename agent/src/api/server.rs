//! The threads that serve, from start to end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::http::{self, Pulse};
use super::proto::DESCRIPTORS;
use super::proto::v1::agent_server::AgentServer;
use super::service::{NotServed, Service};
use super::socket::{self, Bound};
use super::{ApiError, ApiOptions};
use crate::daemon::Handle;

/// Threads for what waits: notifications and streams of touches.
const WAITING: usize = 32;

/// A call that takes longer is given up; streams may last.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Largest request: a workload's name.
const LARGEST_REQUEST: usize = 64 << 10;

/// Calls at a time on one connection.
const CALLS: usize = 32;

/// How long calls that are being answered have when the server ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often it is looked whether the daemon is alive and ready.
const TICK: Duration = Duration::from_secs(1);

/// How long nobody is let in after nobody could be (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// Between two attempts at an address that somebody else has, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is served; all of it ends, and the socket goes, when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// `None` once it has ended.
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    /// Told when the gRPC server has answered its last call.
    ended: Receiver<()>,
    /// `None` once it is removed.
    bound: Option<Bound>,
    metrics: Option<SocketAddr>,
}

impl Server {
    /// Where metrics are served; `None` where they are not.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // First: whoever comes now is to find that no agent runs.
        self.bound = None;
        let _ = self.stop.send(true);
        // A stream of touches may never end by itself.
        let _ = self.ended.recv_timeout(FAREWELL);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves gRPC on `options.socket` and metrics on `options.metrics_listen`, on threads of
/// its own. A metrics address that can't be had is a warning and a missing feature; it is
/// tried again and again.
///
/// # Errors
/// The socket can't be had: another agent has it, or its directory can't be written.
pub fn serve(handle: Handle, options: ApiOptions) -> Result<Server, ApiError> {
    let (bound, listener) = Bound::new(&options.socket)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(WAITING)
        .thread_name("api")
        .enable_all()
        .build()
        .map_err(ApiError::Runtime)?;
    let inside = runtime.enter();
    listener.set_nonblocking(true).map_err(ApiError::Runtime)?;
    let listener = UnixListener::from_std(listener).map_err(ApiError::Runtime)?;

    let (stop, stopped) = watch::channel(false);
    let pulse = Arc::new(Pulse::new(Instant::now()));
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(look(handle.clone(), pulse.clone(), reporter));

    let not_served: NotServed = Arc::default();
    let mut metrics_address = None;
    if let Some(address) = options.metrics_listen {
        let served = http::Served {
            handle: handle.clone(),
            pulse,
            workloads: options.metrics_workloads,
        };
        let listener = bind_metrics(address, &not_served);
        metrics_address = listener.as_ref().and_then(|l| l.local_addr().ok());
        let not_served = not_served.clone();
        tokio::spawn(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => bind_later(address, &not_served).await,
            };
            http::serve(listener, served).await;
        });
    }

    let service = Service {
        handle,
        metrics: options.metrics_listen.map(|_| not_served),
        metrics_workloads: options.metrics_workloads,
    };
    let agent = AgentServer::new(service).max_decoding_message_size(LARGEST_REQUEST);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let told = |error: &_| tracing::warn!(%error, "the API can't be reflected upon");
    let (incoming, accepted) = mpsc::channel(1);
    tokio::spawn(accept(listener, incoming));
    let (end, ended) = sync_channel(1);
    let grpc = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .timeout(LONGEST_CALL)
        .add_service(agent)
        .add_service(health)
        .add_optional_service(reflection().build_v1().inspect_err(told).ok())
        // What older clients ask for.
        .add_optional_service(reflection().build_v1alpha().inspect_err(told).ok())
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), until(stopped));
    tokio::spawn(async move {
        if let Err(error) = grpc.await {
            tracing::error!(%error, "the API has ended");
        }
        let _ = end.send(());
    });
    drop(inside);
    Ok(Server {
        runtime: Some(runtime),
        stop,
        ended,
        bound: Some(bound),
        metrics: metrics_address,
    })
}

/// Listens for who wants metrics; says why not, once for each reason.
fn bind_metrics(address: SocketAddr, not_served: &NotServed) -> Option<tokio::net::TcpListener> {
    let bind = || {
        let listener = TcpListener::bind(address).or_else(|error| {
            let instead = without_ipv6(address, &error).ok_or(error)?;
            TcpListener::bind(instead)
        })?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    let bound = bind();
    let why = bound.as_ref().err();
    let why = why.map(|error| format!("listening at {address}: {error}"));
    let mut told = not_served.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(why)) {
        tracing::warn!("metrics are not served: {why}; it is tried again");
    }
    *told = why;
    bound.ok()
}

/// What `[::]` means where the kernel has no IPv6: all addresses, which are IPv4's then.
fn without_ipv6(address: SocketAddr, error: &std::io::Error) -> Option<SocketAddr> {
    let has_none = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    let any = address.is_ipv6() && address.ip().is_unspecified();
    (has_none && any).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Tries until it can be had: whoever has the port may let go of it.
async fn bind_later(address: SocketAddr, not_served: &NotServed) -> tokio::net::TcpListener {
    let mut pause = RETRY.0;
    loop {
        tokio::time::sleep(pause).await;
        if let Some(listener) = bind_metrics(address, not_served) {
            tracing::info!("metrics are served at {address}");
            return listener;
        }
        pause = (2 * pause).min(RETRY.1);
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error says that the server is gone, which is as good a reason.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Lets in whoever may ask.
async fn accept(listener: UnixListener, incoming: mpsc::Sender<std::io::Result<UnixStream>>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "nobody is let in to the API for a moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match socket::peer(&stream) {
            Ok((_, uid)) if socket::may_ask(uid) => {
                if incoming.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
            Ok((pid, uid)) => tracing::warn!(pid, uid, "is not let in to the API"),
            Err(error) => tracing::warn!(%error, "somebody unknown is not let in to the API"),
        }
    }
}

/// Follows how the daemon is.
async fn look(handle: Handle, pulse: Arc<Pulse>, reporter: HealthReporter) {
    loop {
        let view = handle.view();
        pulse.felt(view.alive_ms, Instant::now());
        let status = if view.ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        // Empty: the server as a whole.
        for service in ["", AgentServer::<Service>::NAME] {
            reporter.set_service_status(service, status).await;
        }
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_those_that_there_are() {
        let none = std::io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let taken = std::io::Error::from_raw_os_error(libc::EADDRINUSE);
        let instead = |address: &str, error| without_ipv6(address.parse().expect("valid"), error);
        let ipv4 = "0.0.0.0:9469".parse().expect("valid");
        assert_eq!(instead("[::]:9469", &none), Some(ipv4));
        assert_eq!(instead("[::]:9469", &taken), None);
        assert_eq!(instead("[::1]:9469", &none), None);
        assert_eq!(instead("0.0.0.0:9469", &none), None);
    }
}
