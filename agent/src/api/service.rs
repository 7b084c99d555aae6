//! The calls, answered from the daemon's handle.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::proto::v1::{self, agent_server::Agent};
use super::search::Search;
use super::{convert, metrics};
use crate::daemon::{Handle, Listener, OrderError, WorkloadView};
use crate::model::escape;

/// Touches that wait for a stream to be written; behind them the listener's own queue
/// fills, and then counts what it loses.
const TOUCHES: usize = 256;

/// Most workloads that are told at a time.
const PAGE: usize = 1000;

/// How often a stream without touches looks whether anybody still reads it.
const LOOK: Duration = Duration::from_millis(200);

/// Answers calls.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) handle: Handle,
    /// Most workloads with metrics of their own.
    pub(super) metrics_workloads: usize,
    /// Why metrics are not served, where they are to be.
    pub(super) metrics: Option<NotServed>,
}

/// Why something is not served; `None`: it is.
pub(super) type NotServed = Arc<Mutex<Option<String>>>;

#[tonic::async_trait]
impl Agent for Service {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let mut status = convert::status(&self.handle.view());
        if let Some(not_served) = &self.metrics {
            let why = not_served.lock().unwrap_or_else(PoisonError::into_inner);
            status.features.push(v1::Feature {
                name: "metrics".to_owned(),
                live: why.is_none(),
                reason: why.clone().unwrap_or_default(),
            });
        }
        Ok(Response::new(status))
    }

    async fn list_workloads(
        &self,
        request: Request<v1::ListWorkloadsRequest>,
    ) -> Result<Response<v1::ListWorkloadsResponse>, Status> {
        let asked = request.into_inner();
        let (workloads, next_page_token) = self
            .page(asked.page_size, asked.page_token, asked.seen_only)
            .await?;
        let workloads = workloads.iter();
        Ok(Response::new(v1::ListWorkloadsResponse {
            workloads: workloads.map(|w| convert::workload(w, false)).collect(),
            next_page_token,
        }))
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let asked = request.into_inner();
        let (workloads, next_page_token) =
            self.page(asked.page_size, asked.page_token, false).await?;
        Ok(Response::new(v1::ListProfilesResponse {
            profiles: workloads
                .iter()
                .filter_map(|w| convert::profile(w))
                .collect(),
            next_page_token,
        }))
    }

    async fn notify(
        &self,
        request: Request<v1::NotifyRequest>,
    ) -> Result<Response<v1::NotifyResponse>, Status> {
        let key = self.key_of(request.into_inner().workload).await?;
        let handle = self.handle.clone();
        // Waits for the daemon.
        let notified = tokio::task::spawn_blocking(move || handle.notify(&key));
        let notified = notified
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| refused(&error))?;
        Ok(Response::new(v1::NotifyResponse {
            key: notified.key,
            planned: notified.planned,
            queued: notified.queued,
        }))
    }

    type WarmStream = Pin<Box<dyn Stream<Item = Result<v1::WarmResponse, Status>> + Send>>;

    async fn warm(
        &self,
        request: Request<v1::WarmRequest>,
    ) -> Result<Response<Self::WarmStream>, Status> {
        let key = self.key_of(request.into_inner().workload).await?;
        let begun = self.handle.warm(&key);
        let (replied, finished) = begun.map_err(|error| refused(&error))?;
        let (told, received) = channel(2);
        tokio::spawn(async move {
            // Whoever asked may have gone, which ends this alone.
            let notified = match wait_for(replied, &told).await {
                Ok(notified) => notified,
                Err(error) => {
                    let _ = told.send(Err(error)).await;
                    return;
                }
            };
            if told.send(Ok(convert::planned(&notified))).await.is_ok() {
                let finished = wait_for(finished, &told).await;
                let finished = finished.map(|report| convert::warmed(notified.key, &report));
                let _ = told.send(finished).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let asked = request.into_inner().workload;
        let workload = self.found(&asked).await?.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ExplainResponse {
            workload: Some(convert::workload(&workload, true)),
        }))
    }

    async fn metrics(
        &self,
        _: Request<v1::MetricsRequest>,
    ) -> Result<Response<v1::MetricsResponse>, Status> {
        let text = metrics::render(&self.handle.view(), self.metrics_workloads);
        Ok(Response::new(v1::MetricsResponse { text }))
    }

    type WatchTouchesStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTouchesResponse, Status>> + Send>>;

    async fn watch_touches(
        &self,
        request: Request<v1::WatchTouchesRequest>,
    ) -> Result<Response<Self::WatchTouchesStream>, Status> {
        let wanted = request.into_inner().workload;
        let Some(listener) = self.handle.listen() else {
            return Err(Status::resource_exhausted(
                "too many are watching touches: end one of them",
            ));
        };
        let (touches, received) = channel(TOUCHES);
        tokio::task::spawn_blocking(move || pass_on(&listener, &wanted, &touches));
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }
}

impl Service {
    /// What the daemon is to be asked for.
    async fn key_of(&self, asked: String) -> Result<String, Status> {
        match self.found(&asked).await? {
            Ok(workload) => Ok(workload.key.clone()),
            // The daemon knows profiles by their other names, too.
            Err(OrderError::Unknown(asked)) => Ok(asked),
            Err(error) => Err(refused(&error)),
        }
    }

    /// The workload that is called so: by its key, its name, or either as it is shown; of
    /// those that were seen, or else of those that only the store knows.
    async fn found(&self, text: &str) -> Result<Result<Arc<WorkloadView>, OrderError>, Status> {
        let mut seen = Search::new(text);
        self.handle
            .view()
            .workloads
            .values()
            .for_each(|w| seen.look(w));
        if let Some(workload) = seen.by_key() {
            return Ok(Ok(workload));
        }
        // A key goes before names, and one look tells.
        let exact = self.stored(text.to_owned(), 1).await;
        let exact = exact.map(|found| found.into_iter().find(|w| w.key == text));
        if let Ok(Some(workload)) = exact {
            return Ok(Ok(Arc::new(workload)));
        }
        // Whether or not the store answers.
        if let Some(found) = seen.found() {
            return Ok(found);
        }
        exact?;
        let mut stored = Search::new(text);
        let mut token = String::new();
        loop {
            let page = self.page(PAGE as u32, token, false).await?;
            page.0.iter().for_each(|workload| stored.look(workload));
            token = page.1;
            if token.is_empty() {
                let unknown = || Err(OrderError::Unknown(text.to_owned()));
                return Ok(stored.found().unwrap_or_else(unknown));
            }
        }
    }

    /// Workloads that the store knows, seen or not, from a key on.
    async fn stored(&self, from: String, most: usize) -> Result<Vec<WorkloadView>, Status> {
        let handle = self.handle.clone();
        // Waits for the disk.
        let stored = tokio::task::spawn_blocking(move || handle.stored(&from, most));
        let stored = stored
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| refused(&error))?;
        Ok(stored.iter().map(WorkloadView::stored).collect())
    }

    /// Workloads by key, those that only the store knows too unless `seen_only`; and what
    /// asks for the rest, empty where there is none.
    async fn page(
        &self,
        size: u32,
        token: String,
        seen_only: bool,
    ) -> Result<(Vec<Arc<WorkloadView>>, String), Status> {
        let size = match size as usize {
            0 => PAGE,
            size => size.min(PAGE),
        };
        // The key after it.
        let from = match token.as_str() {
            "" => token,
            _ => token + "\0",
        };
        // One more than wanted says that there is a rest.
        let stored = match seen_only {
            true => Vec::new(),
            false => self.stored(from.clone(), size + 1).await?,
        };
        let view = self.handle.view();
        let seen = view.workloads.range(from..).take(size + 1);
        let mut all: BTreeMap<String, Arc<WorkloadView>> = stored
            .into_iter()
            .map(|workload| (workload.key.clone(), Arc::new(workload)))
            .collect();
        all.extend(seen.map(|(key, workload)| (key.clone(), workload.clone())));
        let is_last = all.len() <= size;
        let page: Vec<Arc<WorkloadView>> = all.into_values().take(size).collect();
        let last = page.last().filter(|_| !is_last);
        let next = last.map(|workload| workload.key.clone());
        Ok((page, next.unwrap_or_default()))
    }
}

/// What the daemon tells. It may take minutes: no thread waits for it.
async fn wait_for<T>(
    finished: Receiver<Result<T, OrderError>>,
    told: &Sender<Result<v1::WarmResponse, Status>>,
) -> Result<T, Status> {
    loop {
        match finished.try_recv() {
            Ok(answer) => return answer.map_err(|error| refused(&error)),
            Err(TryRecvError::Empty) if told.is_closed() => {
                return Err(Status::cancelled("nobody waits for it"));
            }
            Err(TryRecvError::Empty) => tokio::time::sleep(LOOK).await,
            Err(TryRecvError::Disconnected) => {
                return Err(refused(&OrderError::Busy("it was given up")));
            }
        }
    }
}

/// From the daemon's thread to the stream, until either ends.
fn pass_on(
    listener: &Listener,
    wanted: &str,
    touches: &Sender<Result<v1::WatchTouchesResponse, Status>>,
) {
    while !touches.is_closed() {
        let touched = match listener.touches.recv_timeout(LOOK) {
            Ok(touched) => touched,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if !wanted.is_empty() && touched.workload != wanted {
            continue;
        }
        let lost = listener.lost.load(Ordering::Relaxed);
        if touches
            .blocking_send(Ok(convert::touch(&touched, lost)))
            .is_err()
        {
            return;
        }
    }
}

fn refused(error: &OrderError) -> Status {
    // The text has a name from outside in it.
    let text = escape(error.to_string().as_bytes());
    match error {
        OrderError::Unknown(_) => Status::not_found(text),
        OrderError::Ambiguous { .. } | OrderError::NotWarmed { .. } => {
            Status::failed_precondition(text)
        }
        OrderError::Busy(_) => Status::unavailable(text),
        OrderError::Store(_) => Status::internal(text),
    }
}
