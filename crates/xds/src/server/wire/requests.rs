//! The requests of a stream, out of the frames of its body.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};

use super::{PREFIX, Parser, Request};
use crate::store::Store;

/// Requests as they arrive.
#[derive(Debug)]
pub(in crate::server) struct Requests {
    body: Body,
    store: Store,
    /// Longest request, in bytes.
    limit: usize,
    arrived: BytesMut,
    /// The request in whose middle we are, and how many bytes of it have not been taken yet.
    current: Option<(Parser, usize)>,
}

impl Requests {
    /// What the client holds is compared with `store`.
    pub(in crate::server) fn new(body: Body, store: Store, limit: usize) -> Self {
        Self {
            body,
            store,
            limit,
            arrived: BytesMut::new(),
            current: None,
        }
    }

    /// The next request; `None` when the client ends the stream. Nothing is lost if this is dropped half-way.
    pub(in crate::server) async fn message(&mut self) -> Result<Option<Request>, Status> {
        loop {
            if let Some(request) = self.take()? {
                return Ok(Some(request));
            }
            let Some(frame) = self.body.frame().await else {
                return match (&self.current, self.arrived.is_empty()) {
                    (None, true) => Ok(None),
                    _ => Err(Status::internal("the stream ends within a request")),
                };
            };
            // A client that is gone is no news.
            let Ok(frame) = frame else {
                return Ok(None);
            };
            if let Ok(data) = frame.into_data() {
                self.append(data);
            }
        }
    }

    fn append(&mut self, data: Bytes) {
        if self.arrived.is_empty() {
            // What a large request needed is not kept. Most often the frame itself can be used.
            self.arrived = BytesMut::from(data);
        } else {
            self.arrived.extend_from_slice(&data);
        }
    }

    /// The request that is complete, if one is.
    fn take(&mut self) -> Result<Option<Request>, Status> {
        if self.current.is_none() && self.arrived.len() >= PREFIX {
            let compressed = self.arrived.get_u8();
            let length = self.arrived.get_u32();
            if compressed != 0 {
                return Err(Status::unimplemented("compression is not supported"));
            }
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > self.limit {
                return Err(Status::resource_exhausted("the request is too large"));
            }
            self.current = Some((Parser::default(), length));
        }
        let Some((parser, left)) = &mut self.current else {
            return Ok(None);
        };
        *left -= parser.take(&mut self.arrived, *left, &self.store.read())?;
        if *left > 0 {
            return Ok(None);
        }
        let (parser, _) = self.current.take().unwrap_or_default();
        parser.finish().map(Some)
    }
}

#[cfg(test)]
mod tests;
