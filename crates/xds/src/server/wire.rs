//! gRPC messages that are never in memory as a whole.
//!
//! A state of many thousands of resources is sent from the encoded resources that all streams share, a chunk at a time, and a
//! client's list of what it holds is compared with the store while it arrives. So a stream costs next to nothing beside its
//! connection, however large the mesh is.
//!
//! Spec: gRPC over HTTP/2 (length-prefixed messages), Protocol Buffers encoding.

mod request;
mod requests;
mod responses;

pub(super) use request::{Parser, Request};
pub(super) use requests::Requests;
pub(super) use responses::ResponseBody;

/// Before each message: whether it is compressed, and its length in 4 bytes.
const PREFIX: usize = 5;
const CONTENT_TYPE: &str = "application/grpc";

/// Looks like a `DeltaDiscoveryResponse` on the wire, where an embedded message and a byte string are the same.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodedResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    /// Encoded `Resource` messages.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<bytes::Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
}

/// Whether this is the content type of gRPC with protobuf.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(CONTENT_TYPE.as_bytes());
    matches!(rest, Some([] | [b';', ..])) || rest == Some(b"+proto")
}
