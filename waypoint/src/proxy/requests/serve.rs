//! Clients' connections in which HTTP is spoken.

use std::{cell::Cell, convert::Infallible, future::Future, rc::Rc, time::Duration};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
    upgrade,
};
use hyper_util::rt::TokioTimer;
use tokio::task::spawn_local;
use tulle_hbone::Tunnel;
use tulle_telemetry::describe;

use super::{
    super::{
        io::Stream,
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

async fn serve_http1(context: Rc<Context>, stream: Stream<Tunnel>) -> hyper::Result<()> {
    let drain = context.peer.front.drain.clone();
    // What follows the last answer.
    let switched = Rc::new(Cell::new(None));
    let (asked, leaves) = (Rc::clone(&context), Rc::clone(&switched));
    let service = service_fn(move |request| {
        let (context, leaves) = (Rc::clone(&asked), Rc::clone(&leaves));
        async move {
            let mut response = respond(context, request).await;
            leaves.set(response.body_mut().switched());
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

async fn serve_http2(context: Rc<Context>, stream: Stream<Tunnel>) -> hyper::Result<()> {
    let drain = context.peer.front.drain.clone();
    let service = service_fn(move |mut request| {
        let context = Rc::clone(&context);
        async move {
            let bytes = upgrade::on(&mut request);
            let mut response = respond(Rc::clone(&context), request).await;
            if let Some(switched) = response.body_mut().switched() {
                let writer = Streams::writer();
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
    let mut connection = http2::Builder::new(Streams)
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol()
        .serve_connection(stream, service);
    tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = drain.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            connection.await
        }
    }
}

/// Runs what the streams of a connection need done: each its request and response, and what is begun by that alone is what writes to a
/// stream that has become bytes.
#[derive(Clone, Copy)]
struct Streams;

tokio::task_local! {
    static STREAM: Writer;
}

impl Streams {
    /// Of the stream whose request is being answered.
    fn writer() -> Writer {
        STREAM.try_with(Writer::clone).unwrap_or_default()
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        match STREAM.try_with(Writer::clone) {
            Ok(writer) => writer.run(future),
            Err(_) => {
                spawn_local(STREAM.scope(Writer::default(), future));
            }
        }
    }
}

/// From the end of a request to that of the next one's head: clients keep connections, and must not find them closed when they need them.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// Requests at one time on one HTTP/2 connection.
const STREAMS: u32 = 256;
