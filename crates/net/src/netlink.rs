//! Blocking netlink conversations: short requests to the kernel, each answered before the call returns.
//!
//! The kernel answers inside the send call, so there is nothing to await, and a socket that lives for
//! one request needs no background task.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    ErrorMessage, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::SockRef;

use crate::netns::Netns;

/// One netlink socket and its numbering of requests.
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
}

impl Conversation {
    /// Opens a socket that speaks about `netns`.
    pub(crate) fn open_in(netns: &Netns, protocol: isize) -> io::Result<Self> {
        netns.enter(|| Self::open(protocol))?
    }

    /// Opens a socket that speaks about the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // A refusal then carries the kernel's own words and not the whole request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for one change and waits until the kernel made or refused it.
    pub(crate) fn request<M>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, flags | NLM_F_ACK);
        self.send(&bytes)?;
        loop {
            for answer in self.receive::<M>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = answer.payload {
                    return refusal(&error).map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for changes in their order, many at a time: the kernel makes them one after the other without waiting for us in
    /// between. One that fails with an error of `harmless` counts as made.
    ///
    /// # Errors
    /// The first other refusal. Some later changes may have been made all the same.
    pub(crate) fn request_all<M>(
        &mut self,
        messages: impl IntoIterator<Item = (M, u16)>,
        harmless: &[i32],
    ) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            // Their answers must fit the socket's buffer.
            let some = messages.by_ref().take(AT_A_TIME);
            self.request_some(some, harmless)?;
        }
        Ok(())
    }

    fn request_some<M>(
        &mut self,
        messages: impl Iterator<Item = (M, u16)>,
        harmless: &[i32],
    ) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        let mut awaited: Vec<u32> = messages
            .map(|(message, flags)| self.append(&mut bytes, message, flags | NLM_F_ACK))
            .collect();
        self.send(&bytes)?;
        let mut first = None;
        while !awaited.is_empty() {
            for answer in self.receive::<M>()? {
                let sequence = answer.header.sequence_number;
                let Some(index) = awaited.iter().position(|awaited| *awaited == sequence) else {
                    continue;
                };
                if let NetlinkPayload::Error(error) = answer.payload {
                    awaited.swap_remove(index);
                    let refused = refusal(&error);
                    let is_harmless = |error: &io::Error| {
                        errno(error).is_some_and(|errno| harmless.contains(&errno))
                    };
                    first = first.or(refused.filter(|error| !is_harmless(error)));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asks for one object.
    pub(crate) fn ask<M>(&mut self, message: M) -> io::Result<M>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, 0);
        self.send(&bytes)?;
        loop {
            for answer in self.receive::<M>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => return Ok(inner),
                    NetlinkPayload::Error(error) => {
                        return Err(refusal(&error).unwrap_or_else(|| from_errno(0)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Asks for a list of everything that `message` describes.
    pub(crate) fn dump<M>(&mut self, message: &M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.try_dump(message.clone())? {
                return Ok(list);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the listed objects keep changing",
        ))
    }

    /// `None` if something changed half way, which makes the list useless.
    fn try_dump<M>(&mut self, message: M) -> io::Result<Option<Vec<M>>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, message, NLM_F_DUMP);
        self.send(&bytes)?;
        let (mut list, mut consistent) = (Vec::new(), true);
        loop {
            for answer in self.receive::<M>()? {
                if answer.header.sequence_number != sequence {
                    continue;
                }
                consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => list.push(inner),
                    NetlinkPayload::Done(done) if done.code == 0 => {
                        return Ok(consistent.then_some(list));
                    }
                    NetlinkPayload::Done(done) => return Err(from_errno(done.code)),
                    NetlinkPayload::Error(error) => {
                        return Err(refusal(&error).unwrap_or_else(|| from_errno(0)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Appends `message` to what will be sent and returns its number.
    pub(crate) fn append<M>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16) -> u32
    where
        M: NetlinkSerializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        message.header.flags = flags | NLM_F_REQUEST;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut encoded = vec![0; message.buffer_len()];
        message.serialize(&mut encoded);
        bytes.append(&mut encoded);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.sequence
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let settings = SockRef::from(&self.socket);
        if settings.send_buffer_size()? < bytes.len().saturating_mul(2) {
            settings.set_send_buffer_size(bytes.len().saturating_mul(2))?;
        }
        let sent = self.socket.send(bytes, 0)?;
        if sent != bytes.len() {
            return Err(io::Error::other("netlink took only part of a request"));
        }
        Ok(())
    }

    /// Waits for the next answers.
    pub(crate) fn receive<M>(&self) -> io::Result<Vec<NetlinkMessage<M>>>
    where
        M: NetlinkDeserializable,
    {
        let mut buffer = Vec::with_capacity(ANSWER_SIZE);
        let read = self.socket.recv(&mut buffer, nix::libc::MSG_TRUNC)?;
        if read > buffer.len() {
            return Err(io::Error::other("netlink answer is longer than expected"));
        }
        split(&buffer).map(parse).collect()
    }
}

/// A message as bytes, for conversations that are simpler or cheaper without types.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) kind: u16,
    /// Without the header that all netlink messages have.
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn of(message: &impl NetlinkSerializable) -> Self {
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self {
            kind: message.message_type(),
            bytes,
        }
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self {
            kind: header.message_type,
            bytes: payload.to_vec(),
        })
    }
}

/// The attributes of a message or of another attribute: numbers and values. Ends where something is not well-formed.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [len_0, len_1, kind_0, kind_1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([len_0, len_1]));
        let kind = u16::from_ne_bytes([kind_0, kind_1]) & ATTRIBUTE_NUMBER;
        let value = bytes.get(NLA_HEADER_SIZE..length)?;
        let next = length.next_multiple_of(ALIGNMENT);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Sets the loopback interface of the calling thread's namespace up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    let mut loopback = LinkMessage::default();
    loopback.header.index = LOOPBACK_INDEX;
    loopback.header.flags = LinkFlags::Up;
    loopback.header.change_mask = LinkFlags::Up;
    Conversation::open(NETLINK_ROUTE)?.request(RouteNetlinkMessage::SetLink(loopback), 0)
}

/// The loopback interface has this index in every namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// The error in an answer, with the kernel's explanation if it gave one; `None` for an acknowledgement.
pub(crate) fn refusal(answer: &ErrorMessage) -> Option<io::Error> {
    let code = answer.code?;
    let error = from_errno(code.get());
    Some(match explanation(&answer.header) {
        Some(text) => io::Error::new(error.kind(), Explained { error, text }),
        None => error,
    })
}

/// The error number of an error made here, also when it carries an explanation.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    let explained = error.get_ref().and_then(|e| e.downcast_ref::<Explained>());
    explained.map_or(error.raw_os_error(), |e| e.error.raw_os_error())
}

#[derive(Debug, thiserror::Error)]
#[error("{error}: {text}")]
struct Explained {
    error: io::Error,
    text: String,
}

/// `answer` is the header of the request, then attributes.
fn explanation(answer: &[u8]) -> Option<String> {
    let mut attributes = attributes(answer.get(MESSAGE_HEADER..)?);
    let (_, text) = attributes.find(|(kind, _)| *kind == EXPLANATION)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn from_errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_abs())
}

/// Cuts what one receive call returned into messages.
fn split(mut buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = buffer.first_chunk::<4>()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let message = buffer.get(..length.max(MESSAGE_HEADER))?;
        let next = length.max(MESSAGE_HEADER).next_multiple_of(ALIGNMENT);
        buffer = buffer.get(next..).unwrap_or_default();
        Some(message)
    })
}

fn parse<M: NetlinkDeserializable>(message: &[u8]) -> io::Result<NetlinkMessage<M>> {
    NetlinkMessage::deserialize(message)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// `NLMSGERR_ATTR_MSG`.
const EXPLANATION: u16 = 1;
const MESSAGE_HEADER: usize = 16;
/// `NLA_TYPE_MASK`; the other bits say that there are attributes inside, and the order of bytes.
const ATTRIBUTE_NUMBER: u16 = 0x3fff;
const ALIGNMENT: usize = NLA_HEADER_SIZE;
/// Changes in one message.
const AT_A_TIME: usize = 64;
const DUMP_ATTEMPTS: usize = 8;
/// The kernel fills at most 32 KiB per receive, and answers carry no request.
const ANSWER_SIZE: usize = 64 * 1024;
/// The kernel has answered before a send returns; this only bounds a lost answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_are_malformed() {
        let attribute = |length: u16, kind: u16, value: &[u8]| {
            [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
        };
        // A nested one, one with padding, an empty one.
        let right = [
            attribute(8, 0x8001, &[1, 2, 3, 4]),
            attribute(5, 2, &[5, 0, 0, 0]),
            attribute(4, 3, &[]),
        ]
        .concat();
        let expected: [(u16, &[u8]); 3] = [(1, &[1, 2, 3, 4]), (2, &[5]), (3, &[])];
        assert_eq!(attributes(&right).collect::<Vec<_>>(), expected);
        for wrong in [
            vec![],
            vec![4, 0, 1],
            attribute(0, 4, &[0; 8]),
            attribute(3, 4, &[0; 8]),
            attribute(13, 4, &[0; 8]),
            attribute(u16::MAX, 4, &[0; 8]),
        ] {
            let all = [right.clone(), wrong].concat();
            assert_eq!(attributes(&all).collect::<Vec<_>>(), expected);
        }
    }
}
