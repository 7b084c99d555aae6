//! `/metrics`, `/livez` and `/readyz` over HTTP.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::metrics;
use crate::daemon::Handle;

/// The event loop may rest so long.
const LIVE: Duration = Duration::from_secs(30);

/// Connections at a time; the rest wait. Many more than scrapers and probes are: one that
/// says nothing is no hindrance to them.
const CONNECTIONS: usize = 256;

/// A request, and a connection with its one answer, take no longer.
const REQUEST: Duration = Duration::from_secs(2);
const CONNECTION: Duration = Duration::from_secs(30);

/// How long nobody is let in after nobody could be.
const PAUSE: Duration = Duration::from_millis(100);

/// When the daemon's event loop turned last, by a clock that does not jump.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<(u64, Instant)>);

impl Pulse {
    /// Nothing felt yet.
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new((0, now)))
    }

    /// The loop says that it turned at `alive_ms`: if that is news, it turned by `now`.
    pub(super) fn felt(&self, alive_ms: u64, now: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != alive_ms {
            *last = (alive_ms, now);
        }
    }

    /// For how long it has not turned.
    fn rests(&self, now: Instant) -> Duration {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(last.1)
    }
}

/// What answers are made from.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) handle: Handle,
    pub(super) pulse: Arc<Pulse>,
    /// Most workloads with metrics of their own.
    pub(super) workloads: usize,
}

/// Answers until the runtime ends.
pub(super) async fn serve(listener: TcpListener, served: Served) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no metrics are served for a moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let served = served.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let answer = served.answer(&request);
                async { Ok::<_, Infallible>(answer) }
            });
            // One answer each: a connection that is kept would keep another one waiting.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever asked has gone away: nothing to be told.
            let _ = tokio::time::timeout(CONNECTION, connection).await;
            drop(permit);
        });
    }
}

impl Served {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let methods = HeaderValue::from_static("GET, HEAD");
            refused.headers_mut().insert(ALLOW, methods);
            return refused;
        }
        let rests = self.pulse.rests(Instant::now());
        match request.uri().path() {
            "/metrics" => {
                let text = metrics::render(&self.handle.view(), self.workloads);
                let mut answer = Response::new(Full::from(text));
                let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            "/livez" | "/readyz" if rests > LIVE => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the event loop has not turned for {} s\n", rests.as_secs()),
            ),
            "/livez" => plain(StatusCode::OK, "alive\n"),
            "/readyz" if self.handle.view().ready => plain(StatusCode::OK, "ready\n"),
            "/readyz" => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: the event loop has not begun\n",
            ),
            _ => plain(
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez and /readyz\n",
            ),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_is_what_changes() {
        let begin = Instant::now();
        let pulse = Pulse::new(begin);
        let after = |s| begin + Duration::from_secs(s);
        pulse.felt(1_000, after(10));
        pulse.felt(1_000, after(30));
        assert_eq!(pulse.rests(after(50)), Duration::from_secs(40));
        // A clock that was put back is news too.
        pulse.felt(900, after(60));
        assert_eq!(pulse.rests(after(61)), Duration::from_secs(1));
    }
}
