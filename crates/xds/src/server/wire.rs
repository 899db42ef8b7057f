//! Responses made of resources that are encoded already.

use bytes::Bytes;

/// Looks like a `DeltaDiscoveryResponse` on the wire, where an embedded message and a byte string are the same.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncodedResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    /// Encoded `Resource` messages.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(string, repeated, tag = "6")]
    pub(super) removed_resources: Vec<String>,
}
