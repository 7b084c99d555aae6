//! What the agent tells, from outside: its socket, its commands, its metrics, and what is
//! made for those who deploy it. The daemon is a view that the tests fill.

mod commands;
mod deploy;
mod grpc;
mod http;
mod prometheus;
mod scene;
