//! The body of an answer: responses, a chunk at a time.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::Status;

use super::{CONTENT_TYPE, EncodedResponse, PREFIX};
use crate::server::Responses;

/// The responses of one stream. The next is asked for when the transport has taken the one before.
pub(in crate::server) struct ResponseBody {
    responses: Responses,
    /// Of the response that is being sent.
    resources: vec::IntoIter<Bytes>,
    /// Prefix and fields before the resources, or a resource that did not fit any more.
    pending: Bytes,
    ended: bool,
}

impl ResponseBody {
    /// An answer that consists of these.
    pub(in crate::server) fn answer(responses: Responses) -> http::Response<tonic::body::Body> {
        let body = Self {
            responses,
            resources: Vec::new().into_iter(),
            pending: Bytes::new(),
            ended: false,
        };
        let mut answer = http::Response::new(tonic::body::Body::new(body));
        let kind = HeaderValue::from_static(CONTENT_TYPE);
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    fn begin(&mut self, mut response: EncodedResponse) {
        let length = response.encoded_len();
        self.resources = mem::take(&mut response.resources).into_iter();
        let mut head = BytesMut::with_capacity(PREFIX + response.encoded_len());
        head.put_u8(0);
        // A page is far from 4 GiB; see `ServerConfig::page`.
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        response.encode_raw(&mut head);
        self.pending = head.freeze();
    }

    /// The next piece of the response that is being sent.
    fn chunk(&mut self) -> Option<Bytes> {
        if self.pending.is_empty() && self.resources.as_slice().is_empty() {
            self.resources = Vec::new().into_iter();
            return None;
        }
        let left = self.resources.as_slice().iter();
        let mut size = self.pending.len();
        let fitting = left
            .map(field_len)
            .take_while(|length| {
                size += length;
                size <= CHUNK
            })
            .count();
        // One that is larger than a chunk goes alone.
        let count = fitting.max(usize::from(self.pending.is_empty()));
        let taken = self.resources.as_slice().iter().take(count);
        let length = self.pending.len() + taken.map(field_len).sum::<usize>();
        let mut chunk = BytesMut::with_capacity(length);
        chunk.put(mem::take(&mut self.pending));
        for resource in self.resources.by_ref().take(count) {
            encode_key(RESOURCES, WireType::LengthDelimited, &mut chunk);
            encode_varint(resource.len() as u64, &mut chunk);
            chunk.put(resource);
        }
        Some(chunk.freeze())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(chunk) = self.chunk() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let status = match ready!(self.responses.as_mut().poll_next(context)) {
                Some(Ok(response)) => {
                    self.begin(response);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Length of a resource as a field of the response.
fn field_len(resource: &Bytes) -> usize {
    key_len(RESOURCES) + encoded_len_varint(resource.len() as u64) + resource.len()
}

/// Number of the field that has the resources.
const RESOURCES: u32 = 2;
/// Two full HTTP/2 frames.
const CHUNK: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use tulle_proto::discovery::{DeltaDiscoveryResponse, Resource};

    use super::*;

    fn resource(name: &str, length: usize) -> Bytes {
        let resource = Resource {
            name: name.to_owned(),
            version: "v".repeat(length),
            ..Resource::default()
        };
        resource.encode_to_vec().into()
    }

    fn response(resources: Vec<Bytes>) -> EncodedResponse {
        EncodedResponse {
            system_version_info: "7".to_owned(),
            resources,
            type_url: "type".to_owned(),
            nonce: "n".to_owned(),
            removed_resources: vec!["gone".to_owned()],
        }
    }

    #[tokio::test]
    async fn messages_arrive_whole_in_small_chunks_and_end_with_a_status() {
        let sizes: Vec<usize> = (0..300).chain([CHUNK, CHUNK - 20, 3 * CHUNK]).collect();
        let large = sizes.iter().map(|size| resource("r", *size)).collect();
        let sent = [response(large), response(Vec::new())];
        let error = Status::resource_exhausted("too much");
        let answers = sent.clone().map(Ok).into_iter().chain([Err(error)]);
        let answer = ResponseBody::answer(stream::iter(answers).boxed());
        assert_eq!(answer.headers()[header::CONTENT_TYPE], CONTENT_TYPE);

        let mut body = answer.into_body();
        let (mut bytes, mut trailers) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap();
            match frame.into_data() {
                Ok(chunk) => {
                    assert!(
                        (1..=3 * CHUNK + 30).contains(&chunk.len()),
                        "{}",
                        chunk.len()
                    );
                    bytes.extend_from_slice(&chunk);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        for expected in sent {
            let length = u32::from_be_bytes(bytes[1..PREFIX].try_into().unwrap()) as usize;
            let rest = bytes.split_off(PREFIX + length);
            assert_eq!(bytes[0], 0);
            let whole = EncodedResponse::decode(&bytes[PREFIX..]).unwrap();
            assert_eq!(whole, expected);
            let read = DeltaDiscoveryResponse::decode(&bytes[PREFIX..]).unwrap();
            assert_eq!(read.resources.len(), expected.resources.len());
            bytes = rest;
        }
        assert!(bytes.is_empty());
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "8");
        assert_eq!(trailers["grpc-message"], "too%20much");
    }
}
