//! What the daemon tells and is told: gRPC on a Unix socket, metrics over HTTP.
//!
//! Invariant: no logic. What is told is a [`crate::daemon::View`].

mod client;
mod convert;
mod http;
pub mod metrics;
pub mod proto;
mod search;
mod server;
mod service;
mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use client::{Client, ClientError};
pub use proto::v1;
pub use server::{Server, serve};
pub use socket::{SocketError, remove_left};

/// Where the agent's socket is, unless something else is said.
pub const DEFAULT_SOCKET: &str = "/run/headstart/agent.sock";

/// Where metrics are served, unless something else is said.
pub const DEFAULT_METRICS_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9469);

/// Most workloads with metrics of their own, unless something else is said.
pub const DEFAULT_METRICS_WORKLOADS: usize = 200;

/// What is served where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiOptions {
    /// The Unix socket for gRPC.
    pub socket: PathBuf,
    /// Where `/metrics`, `/livez` and `/readyz` are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Most workloads with metrics of their own; the rest are added up.
    pub metrics_workloads: usize,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            metrics_listen: Some(DEFAULT_METRICS_LISTEN),
            metrics_workloads: DEFAULT_METRICS_WORKLOADS,
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The socket can't be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The threads that serve can't be started.
    #[error("starting the threads of the API: {0}")]
    Runtime(std::io::Error),
}
