//! The commands' end of the socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::proto::v1::{self, agent_client::AgentClient};
use crate::model::{escape, with_causes};

/// A call takes no longer.
const LONGEST_CALL: Duration = Duration::from_secs(30);

/// Largest answer: 10,000 workloads.
const LARGEST_ANSWER: usize = 64 << 20;

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody listens.
    #[error(
        "no agent runs (nobody listens at {}): start one with `systemctl start headstart` or `headstart agent`",
        shown(.0)
    )]
    NotRunning(PathBuf),
    /// The socket is for root and for the agent's user.
    #[error("{} is not for this user: ask as root, or as the user that the agent runs as", shown(.0))]
    Denied(PathBuf),
    /// The socket can't be used.
    #[error("connecting to {}: {source}", shown(.path))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The agent went away, or took too long.
    #[error("the agent did not answer: {0}")]
    Lost(String),
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// A connection to the agent of this node. Calls wait for their answers.
#[derive(Debug)]
pub struct Client {
    runtime: tokio::runtime::Runtime,
    agent: AgentClient<Channel>,
}

impl Client {
    /// Connects to the agent that listens at `socket`.
    ///
    /// # Errors
    /// No agent listens there, or it is not for this user.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connect = |source| ClientError::Connect {
            path: socket.to_owned(),
            source,
        };
        // Apart from the channel, whose errors don't tell one reason from another.
        UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(socket.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
            _ => connect(error),
        })?;
        let path = socket
            .to_str()
            .ok_or_else(|| connect(io::Error::other("the path is not UTF-8")))?;
        let lost = |error: tonic::transport::Error| ClientError::Lost(with_causes(&error));
        let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(lost)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(connect)?;
        let endpoint = endpoint.timeout(LONGEST_CALL);
        let channel = runtime.block_on(endpoint.connect()).map_err(hung_up)?;
        let agent = AgentClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
        Ok(Self { runtime, agent })
    }

    /// How the agent is.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&mut self) -> Result<v1::StatusResponse, ClientError> {
        let answer = self
            .runtime
            .block_on(self.agent.status(v1::StatusRequest {}));
        Ok(answer.map_err(refused)?.into_inner())
    }

    /// Workloads by key; those that it has not seen but the store knows too, unless
    /// `seen_only`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn workloads(&mut self, seen_only: bool) -> Result<Vec<v1::Workload>, ClientError> {
        let mut workloads = Vec::new();
        let mut page_token = String::new();
        loop {
            let asked = self.agent.list_workloads(v1::ListWorkloadsRequest {
                page_token,
                seen_only,
                ..v1::ListWorkloadsRequest::default()
            });
            let answer = self.runtime.block_on(asked).map_err(refused)?.into_inner();
            workloads.extend(answer.workloads);
            if answer.next_page_token.is_empty() {
                return Ok(workloads);
            }
            page_token = answer.next_page_token;
        }
    }

    /// A workload with the files of its last start.
    ///
    /// # Errors
    /// Nobody, or more than one, is called so.
    pub fn explain(&mut self, workload: &str) -> Result<v1::Workload, ClientError> {
        let workload = workload.to_owned();
        let asked = self.agent.explain(v1::ExplainRequest { workload });
        let answer = self.runtime.block_on(asked).map_err(refused)?;
        Ok(answer.into_inner().workload.unwrap_or_default())
    }

    /// Says that a workload will start soon.
    ///
    /// # Errors
    /// Nobody is called so, or it is not warmed.
    pub fn notify(&mut self, workload: &str) -> Result<v1::NotifyResponse, ClientError> {
        let workload = workload.to_owned();
        let asked = self.agent.notify(v1::NotifyRequest { workload });
        let answer = self.runtime.block_on(asked).map_err(refused)?;
        Ok(answer.into_inner())
    }

    /// Has what a workload will read warmed, and waits until it is; `planned` is called with
    /// what is told first.
    ///
    /// # Errors
    /// As [`Client::notify`], or it is being warmed for already.
    pub fn warm(
        &mut self,
        workload: &str,
        planned: impl FnOnce(&v1::WarmResponse),
    ) -> Result<v1::WarmResponse, ClientError> {
        let workload = workload.to_owned();
        let agent = &mut self.agent;
        self.runtime.block_on(async {
            let asked = agent.warm(v1::WarmRequest { workload });
            let mut told = asked.await.map_err(refused)?.into_inner();
            let mut planned = Some(planned);
            while let Some(response) = told.message().await.map_err(refused)? {
                if response.done {
                    return Ok(response);
                }
                if let Some(planned) = planned.take() {
                    planned(&response);
                }
            }
            Err(ClientError::Lost(
                "it ended before that was done".to_owned(),
            ))
        })
    }

    /// The metrics, as `/metrics` gives them.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(&mut self) -> Result<String, ClientError> {
        let asked = self.agent.metrics(v1::MetricsRequest {});
        let answer = self.runtime.block_on(asked).map_err(refused)?;
        Ok(answer.into_inner().text)
    }

    /// Calls `each` with every first touch, of one workload or (empty) of all, until it
    /// says `false` or the agent ends.
    ///
    /// # Errors
    /// Too many are watching, or the agent goes away.
    pub fn watch_touches(
        &mut self,
        workload: &str,
        mut each: impl FnMut(v1::WatchTouchesResponse) -> bool,
    ) -> Result<(), ClientError> {
        let workload = workload.to_owned();
        let agent = &mut self.agent;
        self.runtime.block_on(async {
            let asked = agent.watch_touches(v1::WatchTouchesRequest { workload });
            let mut touches = asked.await.map_err(refused)?.into_inner();
            while let Some(touch) = touches.message().await.map_err(refused)? {
                if !each(touch) {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// The connection ended.
fn hung_up(error: impl std::error::Error) -> ClientError {
    ClientError::Lost(format!(
        "{}; it ended, or hung up on a user who is neither root nor whom it runs as",
        with_causes(&error)
    ))
}

fn refused(status: tonic::Status) -> ClientError {
    use tonic::Code;
    // Only what did not come from the agent has a cause.
    if std::error::Error::source(&status).is_some() {
        return hung_up(status);
    }
    // The agent has escaped names; whatever else sends control characters is shown safely.
    let text = status.message();
    let text = if text.chars().any(char::is_control) {
        escape(text.as_bytes())
    } else {
        text.to_owned()
    };
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => ClientError::Lost(text),
        _ => ClientError::Refused(text),
    }
}
