//! Clients' connections in which HTTP is spoken.

use std::{cell::Cell, convert::Infallible, future::Future, pin::Pin, rc::Rc, time::Duration};

use http::{HeaderValue, StatusCode, header};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
    upgrade,
};
use hyper_util::rt::TokioTimer;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};
use tulle_hbone::Tunnel;
use tulle_telemetry::describe;

use super::{
    super::{
        io::Stream,
        stall::{Progress, watched},
        stream::Context,
        upgraded::{Substream, Writer, relay},
        upstream::{CONNECTION_WINDOW, HEADERS, MAX_HEADERS, STREAM_WINDOW},
    },
    respond,
};

/// Takes a connection in which HTTP is spoken to its end.
pub(in super::super) async fn serve(context: Rc<Context>, stream: Stream<Tunnel>, http2: bool) {
    let address = context.peer.address;
    let ended = match http2 {
        true => serve_http2(context, stream).await,
        false => serve_http1(context, stream).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error = describe(&error), "a client's connection ended");
    }
}

async fn serve_http1(context: Rc<Context>, mut stream: Stream<Tunnel>) -> hyper::Result<()> {
    let drain = context.peer.front.drain.clone();
    let settings = &context.peer.front.shared.settings;
    let progress = Progress::default();
    stream.breaks_if_stalled(settings.stall_timeout, progress.clone());
    let until = Instant::now() + spread(settings.max_connection_age);
    // What follows the last answer.
    let switched = Rc::new(Cell::new(None));
    let (asked, leaves) = (Rc::clone(&context), Rc::clone(&switched));
    let service = service_fn(move |request| {
        let (context, leaves) = (Rc::clone(&asked), Rc::clone(&leaves));
        let progress = progress.clone();
        async move {
            let mut response = respond(context, request).await;
            response.body_mut().is_watched(progress);
            leaves.set(response.body_mut().switched());
            // With an answer, and not between two: the client may be about to ask.
            if Instant::now() >= until && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .keep_alive(!drain.is_cancelled())
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_LIMIT)
        .max_buf_size(HEADERS as usize)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, service);
    tokio::select! {
        // What has been said already is answered.
        biased;
        ended = &mut connection => ended?,
        () = drain.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await?;
        }
    }
    let parts = connection.into_parts();
    let mut stream = parts.io;
    match switched.take() {
        Some(switched) => {
            // What the client has sent since its request is not looked at before the endpoint has agreed.
            stream.unread(parts.read_buf);
            Box::pin(relay(&context, stream, *switched)).await;
        }
        // If an upgrade was ever asked for, nobody has ended it yet.
        None => stream.finish().await,
    }
    Ok(())
}

async fn serve_http2(context: Rc<Context>, mut stream: Stream<Tunnel>) -> hyper::Result<()> {
    let drain = context.peer.front.drain.clone();
    let settings = &context.peer.front.shared.settings;
    let limit = settings.stall_timeout;
    let progress = Progress::default();
    stream.breaks_if_stalled(limit, progress.clone());
    let aged = sleep(spread(settings.max_connection_age));
    let service = service_fn(move |mut request| {
        let context = Rc::clone(&context);
        async move {
            let bytes = upgrade::on(&mut request);
            let mut response = respond(Rc::clone(&context), request).await;
            let own = OfStream::now();
            response.body_mut().is_watched(own.progress);
            if let Some(switched) = response.body_mut().switched() {
                let writer = own.writer;
                // It ends with its stream, for which the connection waits.
                spawn_local(async move {
                    // If the answer could not be sent, there is nothing to do but to tell that.
                    if let Ok(io) = bytes.await {
                        relay(&context, Substream::new(io, writer), *switched).await;
                    }
                });
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http2::Builder::new(Streams { limit, progress })
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol()
        .serve_connection(stream, service);
    tokio::select! {
        biased;
        ended = &mut connection => return ended,
        () = drain.cancelled() => {}
        () = aged => {}
    }
    // What has begun goes on to its end; what comes next, on another connection, may get to another instance of the waypoint.
    Pin::new(&mut connection).graceful_shutdown();
    connection.await
}

/// A time around this one: what began together does not end together.
fn spread(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Runs what the streams of a connection need done: each its request and response, and what is begun by that alone is what writes to a
/// stream that has become bytes.
#[derive(Clone)]
struct Streams {
    /// How long a client may take nothing of a response.
    limit: Duration,
    /// Of the connection.
    progress: Progress,
}

/// What belongs to one stream.
#[derive(Clone, Default)]
struct OfStream {
    writer: Writer,
    progress: Progress,
}

tokio::task_local! {
    static STREAM: OfStream;
}

impl OfStream {
    /// Of the stream whose request is being answered.
    fn now() -> Self {
        STREAM.try_with(Self::clone).unwrap_or_default()
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        match STREAM.try_with(|own| own.writer.clone()) {
            Ok(writer) => writer.run(future),
            Err(_) => {
                let own = OfStream {
                    writer: Writer::default(),
                    progress: Progress::on(&self.progress),
                };
                let watched = watched(future, own.progress.clone(), self.limit);
                spawn_local(STREAM.scope(own, watched));
            }
        }
    }
}

/// From the end of a request to that of the next one's head: clients keep connections, and must not find them closed when they need them.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// Requests at one time on one HTTP/2 connection.
const STREAMS: u32 = 256;
