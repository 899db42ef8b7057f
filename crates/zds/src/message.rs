//! The messages, to and from protobuf.

use std::os::fd::OwnedFd;

use prost::Message;
use tulle_proto::zds::{
    Ack, AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, Version, WorkloadInfo,
    WorkloadRequest, WorkloadResponse, ZdsHello, workload_request, workload_response,
};

use crate::client::Request;
use crate::socket::{MAX_PACKET, Packet};

/// Which pod a network namespace belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodInfo {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account, the last part of its identity.
    pub service_account: String,
}

/// A packet that is not a message of this protocol.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// Not the protobuf message that is due.
    #[error("malformed message")]
    Malformed(#[from] prost::DecodeError),
    /// No payload, or one that this version does not know.
    #[error("message without a known payload")]
    NoPayload,
    /// An empty pod UID.
    #[error("message without a pod UID")]
    NoUid,
    /// An added pod without its name.
    #[error("added pod has no workload info")]
    NoInfo,
    /// A number of descriptors that the message must not have.
    #[error("message has {actual} descriptors, must have {expected}")]
    Descriptors {
        /// How many the message must have.
        expected: usize,
        /// How many it came with.
        actual: usize,
    },
    /// A version of the protocol that is not spoken here.
    #[error("protocol version {0} is not supported")]
    Version(i32),
}

pub(crate) fn hello() -> Vec<u8> {
    let hello = ZdsHello {
        version: Version::V1.into(),
    };
    hello.encode_to_vec()
}

pub(crate) fn decode_hello(packet: Packet) -> Result<(), InvalidMessage> {
    no_descriptor(packet.descriptors)?;
    match ZdsHello::decode(packet.bytes.as_slice())?.version {
        version if version == i32::from(Version::V1) => Ok(()),
        version => Err(InvalidMessage::Version(version)),
    }
}

pub(crate) fn add(uid: &str, info: &PodInfo) -> Vec<u8> {
    request(workload_request::Payload::Add(AddWorkload {
        uid: uid.to_owned(),
        workload_info: Some(WorkloadInfo {
            name: info.name.clone(),
            namespace: info.namespace.clone(),
            service_account: info.service_account.clone(),
        }),
    }))
}

pub(crate) fn keep(uid: &str) -> Vec<u8> {
    let uid = uid.to_owned();
    request(workload_request::Payload::Keep(KeepWorkload { uid }))
}

pub(crate) fn del(uid: &str) -> Vec<u8> {
    let uid = uid.to_owned();
    request(workload_request::Payload::Del(DelWorkload { uid }))
}

pub(crate) fn snapshot_sent() -> Vec<u8> {
    request(workload_request::Payload::SnapshotSent(SnapshotSent {}))
}

fn request(payload: workload_request::Payload) -> Vec<u8> {
    let payload = Some(payload);
    WorkloadRequest { payload }.encode_to_vec()
}

pub(crate) fn decode_request(packet: Packet) -> Result<Request, InvalidMessage> {
    use workload_request::Payload;

    let Packet { bytes, descriptors } = packet;
    let message = WorkloadRequest::decode(bytes.as_slice())?;
    let request = match message.payload.ok_or(InvalidMessage::NoPayload)? {
        Payload::Add(add) => {
            return Ok(Request::Add {
                netns: one_descriptor(descriptors)?,
                uid: uid(add.uid)?,
                info: pod_info(add.workload_info.ok_or(InvalidMessage::NoInfo)?),
            });
        }
        Payload::Keep(keep) => Request::Keep {
            uid: uid(keep.uid)?,
        },
        Payload::Del(del) => Request::Del { uid: uid(del.uid)? },
        Payload::SnapshotSent(_) => Request::SnapshotSent,
    };
    no_descriptor(descriptors)?;
    Ok(request)
}

/// An answer; an error's text is cut to fit a packet.
pub(crate) fn ack(result: Result<(), String>) -> Vec<u8> {
    let mut error = result.err().unwrap_or_default();
    error.truncate(error.floor_char_boundary(MAX_PACKET - ACK_FRAMING));
    WorkloadResponse {
        payload: Some(workload_response::Payload::Ack(Ack { error })),
    }
    .encode_to_vec()
}

pub(crate) fn decode_ack(packet: Packet) -> Result<Result<(), String>, InvalidMessage> {
    no_descriptor(packet.descriptors)?;
    let response = WorkloadResponse::decode(packet.bytes.as_slice())?;
    let workload_response::Payload::Ack(ack) = response.payload.ok_or(InvalidMessage::NoPayload)?;
    Ok(if ack.error.is_empty() {
        Ok(())
    } else {
        Err(ack.error)
    })
}

fn uid(uid: String) -> Result<String, InvalidMessage> {
    if uid.is_empty() {
        return Err(InvalidMessage::NoUid);
    }
    Ok(uid)
}

fn pod_info(info: WorkloadInfo) -> PodInfo {
    PodInfo {
        name: info.name,
        namespace: info.namespace,
        service_account: info.service_account,
    }
}

fn one_descriptor(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, InvalidMessage> {
    let [descriptor] =
        <[OwnedFd; 1]>::try_from(descriptors).map_err(|other| InvalidMessage::Descriptors {
            expected: 1,
            actual: other.len(),
        })?;
    Ok(descriptor)
}

fn no_descriptor(descriptors: Vec<OwnedFd>) -> Result<(), InvalidMessage> {
    match descriptors.len() {
        0 => Ok(()),
        actual => Err(InvalidMessage::Descriptors {
            expected: 0,
            actual,
        }),
    }
}

/// Tag and length of the answer and of the text in it, at most.
const ACK_FRAMING: usize = 2 * (1 + 2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand from the field table of the contract, so that a wrong number would show.
    #[test]
    fn messages_have_the_bytes_of_the_contract() {
        let info = PodInfo {
            name: "n".into(),
            namespace: "ns".into(),
            service_account: "s".into(),
        };
        for (actual, expected) in [
            (hello(), &b"\x08\x01"[..]),
            (
                add("u", &info),
                b"\x0a\x0f\x0a\x01u\x12\x0a\x0a\x01n\x12\x02ns\x1a\x01s",
            ),
            (del("u"), b"\x12\x03\x12\x01u"),
            (snapshot_sent(), b"\x1a\x00"),
            (keep("u"), b"\x2a\x03\x0a\x01u"),
            (ack(Ok(())), b"\x0a\x00"),
            (ack(Err("e".into())), b"\x0a\x03\x0a\x01e"),
        ] {
            assert_eq!(actual, expected);
        }
    }
}
