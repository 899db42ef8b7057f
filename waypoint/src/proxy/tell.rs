//! Tells collectors of spans: by gRPC, or by HTTP as the OpenTelemetry protocol has it.
//!
//! Spec: OTLP 1.x, "OTLP/gRPC" and "OTLP/HTTP".

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use hashbrown::HashMap;
use http::{HeaderMap, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioTimer;
use tokio::task::spawn_local;
use tulle_model::telemetry::{Collector, CollectorProtocol};
use tulle_telemetry::describe;

use super::{
    reach::Reach,
    upstream::{HEADERS, Local, MAX_HEADERS},
};
use crate::telemetry::Untold;

/// Tells everybody, each by a connection that is kept.
pub(crate) struct Messenger {
    reach: Rc<Reach>,
    /// By name. What leads to another of that name is of no use.
    open: RefCell<HashMap<Arc<str>, (Collector, Open)>>,
}

/// A connection to a collector.
enum Open {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Open {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

impl Messenger {
    pub(crate) fn new(reach: Rc<Reach>) -> Self {
        Self {
            reach,
            open: RefCell::default(),
        }
    }

    /// Tells one of spans. `message` is an `ExportTraceServiceRequest`.
    pub(crate) async fn tell(&self, collector: &Collector, message: Bytes) -> Result<(), Untold> {
        let kept = self.open.borrow_mut().remove(&collector.name);
        let mut open = match kept {
            Some((of, open)) if of == *collector && !open.is_closed() => open,
            Some(_) | None => self.connect(collector).await?,
        };
        let request = request(collector, message)?;
        let response = open.send(request).await.map_err(|error| later(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|error| later(&*error))?;
        let trailers = body.trailers();
        let told = match collector.protocol {
            CollectorProtocol::Grpc => by_grpc(head.status, &head.headers, trailers),
            CollectorProtocol::Http { .. } => by_http(head.status),
        };
        // What was read to its end can be used again.
        let kept = (collector.clone(), open);
        let name = Arc::clone(&collector.name);
        self.open.borrow_mut().insert(name, kept);
        told
    }

    async fn connect(&self, collector: &Collector) -> Result<Open, Untold> {
        let stream = self.reach.service(&collector.service).await;
        let stream = stream.map_err(|error| later(&error))?;
        match collector.protocol {
            CollectorProtocol::Grpc => {
                let started = http2::Builder::new(Local)
                    .timer(TokioTimer::new())
                    .max_header_list_size(HEADERS)
                    .handshake(stream)
                    .await;
                let (sender, connection) = started.map_err(|error| later(&error))?;
                spawn_local(ended(connection));
                Ok(Open::Http2(sender))
            }
            CollectorProtocol::Http { .. } => {
                let started = http1::Builder::new()
                    .max_buf_size(HEADERS as usize)
                    .max_headers(MAX_HEADERS)
                    .handshake(stream)
                    .await;
                let (sender, connection) = started.map_err(|error| later(&error))?;
                spawn_local(ended(connection));
                Ok(Open::Http1(sender))
            }
        }
    }
}

/// It is told to whoever sends by it.
async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(
            error = describe(&error),
            "a connection to a collector ended"
        );
    }
}

fn request(collector: &Collector, message: Bytes) -> Result<Request<Full<Bytes>>, Untold> {
    let port = collector.service.port.unwrap_or_default();
    let authority = format!("{}:{port}", collector.service.key.hostname);
    let request = match &collector.protocol {
        CollectorProtocol::Grpc => Request::post(format!("http://{authority}{EXPORT}"))
            .version(Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, AGENT)
            .body(Full::new(framed(&message))),
        CollectorProtocol::Http { path, headers } => {
            let request = Request::post(path.as_str())
                .header(header::HOST, authority)
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .header(header::USER_AGENT, AGENT);
            let said = headers.iter();
            said.fold(request, |request, (name, value)| {
                request.header(name, value)
            })
            .body(Full::new(message))
        }
    };
    request.map_err(|error| Untold {
        why: error.to_string(),
        may_be_told: false,
    })
}

/// A message of gRPC that is not compressed.
fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// OTLP says of which statuses another attempt may be made. `RESOURCE_EXHAUSTED` is not one of them without a word of when.
fn by_grpc(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
) -> Result<(), Untold> {
    if status != StatusCode::OK {
        return by_http(status);
    }
    let said = trailers.and_then(|trailers| trailers.get("grpc-status"));
    let said = said.or_else(|| headers.get("grpc-status"));
    let said = said
        .and_then(|status| status.to_str().ok())
        .unwrap_or("none");
    match said {
        "0" => Ok(()),
        status => Err(Untold {
            why: format!("gRPC status {status}"),
            may_be_told: AGAIN.contains(&status),
        }),
    }
}

fn by_http(status: StatusCode) -> Result<(), Untold> {
    if status.is_success() {
        return Ok(());
    }
    Err(Untold {
        why: format!("status {status}"),
        may_be_told: matches!(status.as_u16(), 429 | 502 | 503 | 504),
    })
}

fn later(error: &(dyn std::error::Error + 'static)) -> Untold {
    Untold {
        why: describe(error),
        may_be_told: true,
    }
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const AGENT: &str = "tulle-waypoint";
/// Bytes of an answer.
const LONGEST: usize = 64 << 10;
/// Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
const AGAIN: [&str; 6] = ["1", "4", "10", "11", "14", "15"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_collectors_answer_decides_whether_they_are_told_again() {
        let grpc = |status: &str, in_trailers: bool| {
            let mut said = HeaderMap::new();
            said.insert("grpc-status", status.parse().unwrap());
            let none = HeaderMap::new();
            let told = match in_trailers {
                true => by_grpc(StatusCode::OK, &none, Some(&said)),
                false => by_grpc(StatusCode::OK, &said, None),
            };
            told.map_err(|untold| untold.may_be_told)
        };
        for in_trailers in [true, false] {
            assert_eq!(grpc("0", in_trailers), Ok(()));
            assert_eq!(grpc("14", in_trailers), Err(true));
            assert_eq!(grpc("8", in_trailers), Err(false));
            assert_eq!(grpc("x", in_trailers), Err(false));
        }
        let none = by_grpc(StatusCode::OK, &HeaderMap::new(), None);
        assert!(!none.unwrap_err().may_be_told);
        for (status, again) in [
            (400, false),
            (404, false),
            (429, true),
            (500, false),
            (503, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(by_http(status).unwrap_err().may_be_told, again);
        }
        assert!(by_http(StatusCode::ACCEPTED).is_ok());
    }

    #[test]
    fn messages_of_grpc_say_how_long_they_are() {
        assert_eq!(framed(&Bytes::from_static(b"abc")), &b"\0\0\0\0\x03abc"[..]);
    }
}
