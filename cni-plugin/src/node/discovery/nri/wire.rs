//! How messages travel: ttrpc frames, and around them those of the multiplexer that makes two connections of one. All
//! numbers are big endian.
//!
//! ```text
//! multiplexer   connection: 4 bytes   length: 4 bytes   any part of that connection's bytes
//! ttrpc         length: 4 bytes   stream: 4 bytes   kind: 1 byte   flags: 1 byte   message
//! ```
//!
//! Connection 1 is for calls of the runtime, connection 2 for ours. A frame of ttrpc may be spread over several of the
//! multiplexer, which a runtime does with large ones.
//!
//! Spec: `PROTOCOL.md` of ttrpc; the multiplexer has none, these are the facts of NRI's own.

use std::path::Path;

use bytes::{Buf, BytesMut};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::NriError;

/// The socket, and what has arrived of each connection in it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    plugin: BytesMut,
    runtime: BytesMut,
}

/// A connection in the connection, named after whoever answers calls there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Plugin,
    Runtime,
}

/// A frame of ttrpc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) stream: u32,
    pub(super) kind: Kind,
    pub(super) data: Vec<u8>,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
    /// Part of a stream, or what later versions may add.
    Other(u8),
}

impl Connection {
    pub(super) async fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self::over(UnixStream::connect(path).await?))
    }

    pub(super) fn over(socket: UnixStream) -> Self {
        Self {
            socket,
            plugin: BytesMut::new(),
            runtime: BytesMut::new(),
        }
    }

    /// Sends a frame. All of ours are far below the 4096 bytes that runtimes read of the multiplexer at once.
    pub(super) async fn send(&mut self, service: Service, frame: &Frame) -> Result<(), NriError> {
        let frame = frame.encode()?;
        let mut bytes = Vec::with_capacity(MULTIPLEXER_HEADER + frame.len());
        bytes.extend(service.number().to_be_bytes());
        bytes.extend(length(&frame)?.to_be_bytes());
        bytes.extend(frame);
        Ok(self.socket.write_all(&bytes).await?)
    }

    /// The next frame of either connection.
    ///
    /// Holds no more than two frames of the largest kind. Not to be used again if it did not finish.
    pub(super) async fn next(&mut self) -> Result<(Service, Frame), NriError> {
        loop {
            for service in [Service::Plugin, Service::Runtime] {
                if let Some(frame) = Frame::take(self.arrived(service))? {
                    return Ok((service, frame));
                }
            }
            self.read().await?;
        }
    }

    /// Reads one frame of the multiplexer.
    async fn read(&mut self) -> Result<(), NriError> {
        let number = self.socket.read_u32().await?;
        let length = self.socket.read_u32().await?;
        if length > LONGEST + FRAME_HEADER {
            return Err(NriError::TooLong { length });
        }
        // Bounded above, and a runtime is root: it could not take more of us than it has.
        let mut part = vec![0; length as usize];
        self.socket.read_exact(&mut part).await?;
        if let Some(service) = Service::numbered(number) {
            self.arrived(service).extend_from_slice(&part);
        }
        Ok(())
    }

    fn arrived(&mut self, service: Service) -> &mut BytesMut {
        match service {
            Service::Plugin => &mut self.plugin,
            Service::Runtime => &mut self.runtime,
        }
    }
}

impl Service {
    fn number(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }

    fn numbered(number: u32) -> Option<Self> {
        [Self::Plugin, Self::Runtime]
            .into_iter()
            .find(|service| service.number() == number)
    }
}

impl Frame {
    pub(super) fn new(stream: u32, kind: Kind, message: &impl Message) -> Self {
        Self {
            stream,
            kind,
            data: message.encode_to_vec(),
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, NriError> {
        let mut bytes = Vec::with_capacity(self.data.len() + FRAME_HEADER as usize);
        bytes.extend(length(&self.data)?.to_be_bytes());
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend([self.kind.number(), NO_FLAGS]);
        bytes.extend(&self.data);
        Ok(bytes)
    }

    /// Takes the first frame out, if all of it has arrived.
    pub(super) fn take(arrived: &mut BytesMut) -> Result<Option<Self>, NriError> {
        let mut header = arrived.as_ref();
        let (Ok(length), Ok(stream), Ok(kind), Ok(_flags)) = (
            header.try_get_u32(),
            header.try_get_u32(),
            header.try_get_u8(),
            header.try_get_u8(),
        ) else {
            return Ok(None);
        };
        if length > LONGEST {
            return Err(NriError::TooLong { length });
        }
        if header.remaining() < length as usize {
            return Ok(None);
        }
        arrived.advance(FRAME_HEADER as usize);
        Ok(Some(Self {
            stream,
            kind: Kind::numbered(kind),
            data: arrived.split_to(length as usize).to_vec(),
        }))
    }
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(number) => number,
        }
    }

    pub(super) fn numbered(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            other => Self::Other(other),
        }
    }
}

/// As the header of a frame has it.
fn length(bytes: &[u8]) -> Result<u32, NriError> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    match length > LONGEST + FRAME_HEADER {
        true => Err(NriError::TooLong { length }),
        false => Ok(length),
    }
}

const MULTIPLEXER_HEADER: usize = 8;
const FRAME_HEADER: u32 = 10;
/// In bytes, of a message.
const LONGEST: u32 = 4 << 20;
/// Flags are for streams.
const NO_FLAGS: u8 = 0;
