//! What the daemon tells and is told: gRPC on a Unix socket, metrics over HTTP.
//!
//! Invariant: no logic. What is told is a [`crate::daemon::View`].
