//! Tunnels as what HTTP is spoken over.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};
use tulle_hbone::{Broken, Side, TcpSide, Tunnel};

use super::stall::{Progress, Stall};

/// Bytes both ways, by frames that need not be copied to be read.
pub(super) struct Stream<S> {
    side: S,
    /// Received, and not read yet.
    ahead: Bytes,
    /// Of the wait for the other side's end, and how many bytes are passed over until then.
    limit: Option<Pin<Box<Sleep>>>,
    passed_over: usize,
    stall: Option<Stall>,
}

/// Whatever leads to an endpoint.
pub(super) enum ToEndpoint {
    /// A tunnel to it.
    Tunnel(Tunnel),
    /// It is not in the mesh.
    Plain(TcpSide),
}

impl ToEndpoint {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self::Plain(TcpSide::new(tcp))
    }
}

impl<S: Side> Stream<S> {
    pub(super) fn new(side: S) -> Self {
        Self {
            side,
            ahead: Bytes::new(),
            limit: None,
            passed_over: 0,
            stall: None,
        }
    }

    /// It breaks if nothing that is written is taken for that long; `progress` is told.
    pub(super) fn breaks_if_stalled(&mut self, limit: Duration, progress: Progress) {
        self.stall = Some(Stall::new(limit, progress));
    }

    /// Reads more, unless the end has come; what there is stays to be read.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let more = ready!(self.side.poll_read(cx)).map_err(into_io)?;
        if self.ahead.is_empty() {
            self.ahead = more;
        } else if !more.is_empty() {
            let mut joined = BytesMut::with_capacity(self.ahead.len() + more.len());
            joined.extend_from_slice(&self.ahead);
            joined.extend_from_slice(&more);
            self.ahead = joined.freeze();
        }
        Poll::Ready(Ok(()))
    }

    /// Takes back what was read, as if it had not been.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = bytes;
        } else if !bytes.is_empty() {
            self.ahead = [bytes, std::mem::take(&mut self.ahead)].concat().into();
        }
    }

    /// Ends it in order, as far as the other side does.
    pub(super) async fn finish(&mut self)
    where
        S: Unpin,
    {
        // Whoever has gone already need not be told.
        let _ = poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await;
    }

    /// What was read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }
}

impl<S: Side + Unpin> Read for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            self.ahead = ready!(self.side.poll_read(cx)).map_err(into_io)?;
        }
        let length = self.ahead.len().min(buf.remaining());
        if let Some(bytes) = self.ahead.get(..length) {
            buf.put_slice(bytes);
        }
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: Side + Unpin> Write for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, Bytes::copy_from_slice(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Waits for the end of the other side too: what is dropped before is reset, with what it has not read yet.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.side.poll_end(cx)).map_err(into_io)?;
        let limit = this.limit.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // One that sends on and on is not waited for.
        while this.passed_over < PASSED_OVER {
            match ready!(this.side.poll_read(cx)) {
                Ok(more) if !more.is_empty() => this.passed_over += more.len(),
                Ok(_) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Head and body leave in one frame.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx))?;
        let mut joined = BytesMut::with_capacity(bufs.iter().map(|buf| buf.len()).sum());
        bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
        this.poll_send(cx, joined.freeze())
    }
}

impl<S: Side> Stream<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>, mut bytes: Bytes) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let length = bytes.len();
        let written = self.side.poll_write(cx, &mut bytes, false);
        match written.map_err(into_io)? {
            Poll::Pending if bytes.len() == length => self.poll_stalled(cx).map(Err),
            // What was taken must not be offered again.
            Poll::Pending | Poll::Ready(()) => {
                if let Some(stall) = &mut self.stall {
                    stall.goes_on();
                }
                Poll::Ready(Ok(length - bytes.len()))
            }
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.side.poll_ready(cx) {
            Poll::Pending => self.poll_stalled(cx).map(Err),
            room => room.map_err(into_io),
        }
    }

    /// Nothing is taken now.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(stall) = &mut self.stall else {
            return Poll::Pending;
        };
        stall.poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }
}

impl Side for ToEndpoint {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        match self {
            Self::Tunnel(side) => side.poll_read(cx),
            Self::Plain(side) => side.poll_read(cx),
        }
    }

    fn at_end(&self) -> bool {
        match self {
            Self::Tunnel(side) => side.at_end(),
            Self::Plain(side) => side.at_end(),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Tunnel(side) => side.poll_ready(cx),
            Self::Plain(side) => side.poll_ready(cx),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        match self {
            Self::Tunnel(side) => side.poll_write(cx, bytes, last),
            Self::Plain(side) => side.poll_write(cx, bytes, last),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Tunnel(side) => side.poll_end(cx),
            Self::Plain(side) => side.poll_end(cx),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self {
            Self::Tunnel(side) => side.poll_broken(cx),
            Self::Plain(side) => side.poll_broken(cx),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Tunnel(side) => side.reset(),
            Self::Plain(side) => side.reset(),
        }
    }

    fn ends_when_dropped(&self) -> bool {
        match self {
            Self::Tunnel(side) => side.ends_when_dropped(),
            Self::Plain(side) => side.ends_when_dropped(),
        }
    }
}

/// What was read ahead comes first; all else is the side's.
impl<S: Side> Side for Stream<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        if self.ahead.is_empty() {
            self.side.poll_read(cx)
        } else {
            Poll::Ready(Ok(std::mem::take(&mut self.ahead)))
        }
    }

    fn at_end(&self) -> bool {
        self.ahead.is_empty() && self.side.at_end()
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.side.poll_ready(cx)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        self.side.poll_write(cx, bytes, last)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.side.poll_end(cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.side.poll_broken(cx)
    }

    fn reset(&mut self) {
        self.side.reset();
    }

    fn ends_when_dropped(&self) -> bool {
        self.side.ends_when_dropped()
    }
}

fn into_io(broken: Broken) -> io::Error {
    match broken {
        Broken::Reset => io::ErrorKind::ConnectionReset.into(),
        Broken::Error(error) => error,
    }
}

/// How long the other side may take to end after we have.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that it may still send.
const PASSED_OVER: usize = 64 << 10;
