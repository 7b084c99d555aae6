//! Of containerd's messages the fields that are read here, written out by hand: their
//! numbers are fixed for good (`containerd/api/services/*/v1/*.proto`, `api/events`).

use std::collections::HashMap;

/// `GetContainerRequest` and `GetImageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Get {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GotContainer {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Container {
    #[prost(map = "string, string", tag = "2")]
    pub(super) labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    pub(super) image: String,
    #[prost(message, optional, tag = "5")]
    pub(super) spec: Option<Any>,
    #[prost(string, tag = "6")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "7")]
    pub(super) snapshot_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GotImage {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<Image>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(message, optional, tag = "3")]
    pub(super) target: Option<Target>,
}

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Target {
    #[prost(string, tag = "2")]
    pub(super) digest: String,
}

/// `StatSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stat {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
}

/// `StatSnapshotResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stated {
    #[prost(message, optional, tag = "1")]
    pub(super) info: Option<Info>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Info {
    #[prost(string, tag = "2")]
    pub(super) parent: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `MountsResponse`, to what is asked as in [`Stat`].
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Mounts {
    #[prost(message, repeated, tag = "1")]
    pub(super) mounts: Vec<Mount>,
}

/// `containerd.types.Mount`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Mount {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) options: Vec<String>,
}

/// `google.protobuf.Empty`, and answers of which nothing is read.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Nothing {}

/// `SubscribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subscribe {
    #[prost(string, repeated, tag = "1")]
    pub(super) filters: Vec<String>,
}

/// `Envelope`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) topic: String,
    #[prost(message, optional, tag = "4")]
    pub(super) event: Option<Any>,
}

/// `ContainerCreate` and `ContainerDelete`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OfContainer {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}
