//! The protobuf messages of a profile file. `proto/headstart/profile/v1/
//! profile.proto` says what they mean; a test reads what these write by it.
//!
//! A packed column and a bytes field look the same on the wire. Columns are
//! bytes here, so that a column of any length costs no memory before its values
//! were checked.

use prost::bytes::Bytes;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Profile {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) runs: Vec<Run>,
    #[prost(message, repeated, tag = "3")]
    pub(super) volumes: Vec<Volume>,
    #[prost(message, optional, tag = "4")]
    pub(super) files: Option<Files>,
    #[prost(message, optional, tag = "5")]
    pub(super) names: Option<Names>,
    #[prost(message, optional, tag = "6")]
    pub(super) blocks: Option<Blocks>,
    #[prost(uint64, tag = "7")]
    pub(super) time_step_ns: u64,
    #[prost(message, optional, tag = "8")]
    pub(super) histories: Option<Histories>,
}

/// Tag of [`Profile::runs`].
pub(super) const RUNS_TAG: u32 = 2;
/// Tag of [`Profile::volumes`].
pub(super) const VOLUMES_TAG: u32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Run {
    #[prost(fixed64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) started_ms: u64,
    #[prost(uint64, tag = "3")]
    pub(super) duration_ns: u64,
    #[prost(bool, tag = "4")]
    pub(super) exact: bool,
    #[prost(uint64, tag = "5")]
    pub(super) blind_ns: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Volume {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) fs_type: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) mount_point: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Histories {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) certain: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) seen: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Files {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) volume: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) path: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) size: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) mtime_delta_ns: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) extents: Bytes,
    #[prost(message, optional, tag = "6")]
    pub(super) extent: Option<ExtentColumns>,
    #[prost(bytes = "bytes", tag = "7")]
    pub(super) changed: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExtentColumns {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) gap: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) pages: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) first_use_delta: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) history: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Names {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) volume: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) path: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) kind: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) listed: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) first_use_delta: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) history: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Blocks {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) volume: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(super) extent: Option<ExtentColumns>,
}
