//! What follows an upgrade: bytes both ways, to one endpoint, until both sides have ended.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::{
    rt::{Read, ReadBuf, Write},
    upgrade::Upgraded,
};
use tokio::{
    task::{JoinHandle, spawn_local},
    time::{Instant, sleep_until},
};
use tulle_hbone::{Broken, Meter, Relay, RelayEnd, Side};

use super::{
    exchange::Exchange,
    io::{Stream, ToEndpoint},
    requests::Standing,
    stream::Context,
    upload::Received,
};

/// A request that has become something else than HTTP.
pub(super) struct Switched {
    pub(super) exchange: Exchange,
    pub(super) endpoint: Ends,
    pub(super) standing: Standing,
}

/// What leads to the endpoint from then on.
pub(super) enum Ends {
    /// All of a connection that HTTP/1.1 was spoken in.
    Http1(Stream<ToEndpoint>),
    /// A stream of HTTP/2.
    Http2(Substream),
}

/// Moves bytes until both sides have ended, nothing moves for long, or policy does not permit it any more.
pub(super) async fn relay<L: Side + Unpin>(context: &Context, client: L, switched: Switched) {
    let Switched {
        mut exchange,
        endpoint,
        standing,
    } = switched;
    let passed = Passed {
        received: exchange.received(),
        sent: Cell::new(0),
        last: Cell::new(Instant::now()),
    };
    let ended = match endpoint {
        Ends::Http1(endpoint) => moved(context, client, endpoint, &passed, &standing).await,
        Ends::Http2(endpoint) => moved(context, client, endpoint, &passed, &standing).await,
    };
    exchange.bytes_ended(passed.sent.get(), matches!(ended, Ended::Complete));
    match ended {
        Ended::Complete | Ended::ClientBroke => {}
        Ended::EndpointBroke => {
            exchange.failed("UC", "upstream_reset_after_response_started", None);
        }
        Ended::Idle => exchange.failed("SI", "stream_idle_timeout", None),
        Ended::Refused => {
            let why = "closed due to policy change".to_owned();
            exchange.failed("-", "rbac_access_denied", Some(why));
        }
    }
}

enum Ended {
    Complete,
    ClientBroke,
    EndpointBroke,
    Idle,
    Refused,
}

async fn moved<L: Side + Unpin, R: Side + Unpin>(
    context: &Context,
    client: L,
    endpoint: R,
    passed: &Passed,
    standing: &Standing,
) -> Ended {
    // Before it is asked for the first time: policy may have changed while the endpoint was.
    let mut epochs = context.peer.front.epochs();
    let mut relay = Relay::new(client, endpoint, passed);
    let mut is_permitted = standing.is_permitted(context);
    let ended = loop {
        if !is_permitted {
            break Ended::Refused;
        }
        let idle_at = passed.last.get() + IDLE_LIMIT;
        tokio::select! {
            ended = &mut relay => return match ended {
                RelayEnd::Complete => Ended::Complete,
                RelayEnd::LeftBroken(_) => Ended::ClientBroke,
                RelayEnd::RightBroken(_) => Ended::EndpointBroke,
            },
            // The sender is in the front, which outlives its connections.
            _ = epochs.changed() => is_permitted = standing.is_permitted(context),
            () = sleep_until(idle_at) => {
                if passed.last.get() + IDLE_LIMIT <= Instant::now() {
                    break Ended::Idle;
                }
            }
        }
    };
    relay.reset();
    ended
}

/// Counts bytes as they pass.
struct Passed {
    received: Rc<Received>,
    sent: Cell<u64>,
    last: Cell<Instant>,
}

impl Meter for &Passed {
    fn forward(&self, bytes: u64) {
        self.received.add_bytes(bytes);
        self.last.set(Instant::now());
    }

    fn backward(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
        self.last.set(Instant::now());
    }
}

/// The task that sends what is written to a stream of HTTP/2. There is one from when the stream has become bytes, until the stream sends
/// nothing more: since it was ended, or is broken.
#[derive(Clone, Default)]
pub(super) struct Writer(Rc<RefCell<Option<JoinHandle<()>>>>);

impl Writer {
    /// Runs it.
    pub(super) fn run(&self, writing: impl Future<Output = ()> + 'static) {
        *self.0.borrow_mut() = Some(spawn_local(writing));
    }

    /// Ready when it is over.
    fn poll_over(&self, cx: &mut Task<'_>) -> Poll<()> {
        let mut task = self.0.borrow_mut();
        if let Some(writing) = task.as_mut() {
            // What it returns is nothing; what counts is that it has.
            let _ = ready!(Pin::new(writing).poll(cx));
            *task = None;
        }
        Poll::Ready(())
    }

    /// Whatever the stream was to say, it is not said any more: without an end, it is reset.
    fn abort(&self) {
        if let Some(writing) = self.0.borrow().as_ref() {
            writing.abort();
        }
    }
}

/// A stream of HTTP/2 that has become bytes.
pub(super) struct Substream {
    io: Upgraded,
    writer: Writer,
    /// Nothing more is to be written.
    has_ended: bool,
    reading: Reading,
}

enum Reading {
    Open,
    /// Nothing more comes: in order, or since the other end has reset it.
    Over,
    Ended,
}

impl Substream {
    pub(super) fn new(io: Upgraded, writer: Writer) -> Self {
        Self {
            io,
            writer,
            has_ended: false,
            reading: Reading::Open,
        }
    }

    /// Whether nothing can be written, though the end was not.
    fn poll_cut(&self, cx: &mut Task<'_>) -> Poll<()> {
        match self.has_ended {
            true => Poll::Pending,
            false => self.writer.poll_over(cx),
        }
    }
}

impl Side for Substream {
    fn poll_read(&mut self, cx: &mut Task<'_>) -> Poll<Result<Bytes, Broken>> {
        if let Reading::Open = self.reading {
            let mut room = [const { MaybeUninit::uninit() }; FRAME];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
            if !read.filled().is_empty() {
                return Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())));
            }
            // A reset is read as an end. It ends the writer too, which has its turn before this is asked again.
            self.reading = Reading::Over;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Reading::Over = self.reading
            && self.poll_cut(cx).is_ready()
        {
            return Poll::Ready(Err(Broken::Reset));
        }
        self.reading = Reading::Ended;
        Poll::Ready(Ok(Bytes::new()))
    }

    fn at_end(&self) -> bool {
        false
    }

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Broken>> {
        Pin::new(&mut self.io)
            .poll_flush(cx)
            .map_err(|_| Broken::Reset)
    }

    fn poll_write(
        &mut self,
        cx: &mut Task<'_>,
        bytes: &mut Bytes,
        _: bool,
    ) -> Poll<Result<(), Broken>> {
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
            bytes.advance(written.map_err(|_| Broken::Reset)?);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Broken>> {
        self.has_ended = true;
        Pin::new(&mut self.io)
            .poll_shutdown(cx)
            .map_err(|_| Broken::Reset)
    }

    fn poll_broken(&mut self, cx: &mut Task<'_>) -> Poll<Broken> {
        // While data may still come, a reset shows there, after the data.
        match self.reading {
            Reading::Open | Reading::Over => Poll::Pending,
            Reading::Ended => self.poll_cut(cx).map(|()| Broken::Reset),
        }
    }

    fn reset(&mut self) {
        self.writer.abort();
    }
}

/// Nothing either way for so long, and it is over.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// What most senders put into one frame (RFC 9113 §6.5.2).
const FRAME: usize = 16 << 10;
