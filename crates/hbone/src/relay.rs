//! Moves bytes between two byte streams, in both directions, in one task.
//!
//! ```text
//!            read           write                Each direction: Open -> Ending -> Ended
//!     left  ------>  chunk ------>  right        An end is passed on as an end,
//!     left  <------  chunk <------  right        anything broken breaks the other side.
//!            write          read
//! ```

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use rustix::net::{SendFlags, send};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use crate::buffers::poll_read_bytes;

/// One end of a relay.
pub trait Side {
    /// Next bytes; empty at the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>>;
    /// Whether nothing follows what was read last, as far as that is known without waiting. If so, the next read ends.
    fn at_end(&self) -> bool;
    /// Whether bytes would be taken: asked before any are read for this side, so that none have to be held.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Takes all of `bytes`, or as many as it can. `last` announces that the end follows at once, so that both may
    /// leave together.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Broken>>;
    /// Says that nothing more will be written.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Ready when the side broke, for as far as reading would not show it.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;
    /// Ends both directions so that the far end sees an error and not an end of stream.
    fn reset(&mut self);
    /// Whether dropping a side that has been read to its end says by itself that nothing more will be written.
    fn ends_when_dropped(&self) -> bool {
        false
    }
}

/// How a side failed.
#[derive(Debug)]
pub enum Broken {
    /// The far end reset it.
    Reset,
    /// Something else.
    Error(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Error(error),
        }
    }
}

/// Told of bytes as they pass.
pub trait Meter {
    /// Bytes went from left to right.
    fn forward(&self, bytes: u64);
    /// Bytes went from right to left.
    fn backward(&self, bytes: u64);
}

/// How a relay ended.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both directions ended in order.
    Complete,
    /// The left side broke; the right one was reset.
    LeftBroken(Broken),
    /// The right side broke; the left one was reset.
    RightBroken(Broken),
}

/// A relay between two sides; a future that ends when both directions have.
pub struct Relay<L, R, M> {
    left: L,
    right: R,
    forward: Direction,
    backward: Direction,
    meter: M,
}

/// Where one direction is.
enum Direction {
    /// Copying; holds what the writer has not taken yet.
    Open(Bytes),
    /// The reader's end is being passed on.
    Ending,
    Ended,
}

/// Which side of a direction failed.
enum Failed {
    Reader(Broken),
    Writer(Broken),
}

impl<L: Side, R: Side, M: Meter> Relay<L, R, M> {
    /// Joins two sides.
    pub fn new(left: L, right: R, meter: M) -> Self {
        Self {
            left,
            right,
            forward: Direction::Open(Bytes::new()),
            backward: Direction::Open(Bytes::new()),
            meter,
        }
    }

    /// Cuts both sides, visibly.
    pub fn reset(&mut self) {
        self.left.reset();
        self.right.reset();
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let meter = &self.meter;
        let last = matches!(self.backward, Direction::Ended);
        let forward = self
            .forward
            .poll(cx, &mut self.left, &mut self.right, last, |n| {
                meter.forward(n)
            });
        match forward {
            Poll::Ready(Err(Failed::Reader(broken))) => {
                return Poll::Ready(RelayEnd::LeftBroken(broken));
            }
            Poll::Ready(Err(Failed::Writer(broken))) => {
                return Poll::Ready(RelayEnd::RightBroken(broken));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let last = matches!(self.forward, Direction::Ended);
        let backward = self
            .backward
            .poll(cx, &mut self.right, &mut self.left, last, |n| {
                meter.backward(n)
            });
        match backward {
            Poll::Ready(Err(Failed::Reader(broken))) => {
                return Poll::Ready(RelayEnd::RightBroken(broken));
            }
            Poll::Ready(Err(Failed::Writer(broken))) => {
                return Poll::Ready(RelayEnd::LeftBroken(broken));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if forward.is_ready() && backward.is_ready() {
            return Poll::Ready(RelayEnd::Complete);
        }
        if let Poll::Ready(broken) = self.right.poll_broken(cx) {
            return Poll::Ready(RelayEnd::RightBroken(broken));
        }
        if let Poll::Ready(broken) = self.left.poll_broken(cx) {
            return Poll::Ready(RelayEnd::LeftBroken(broken));
        }
        Poll::Pending
    }
}

impl<L: Side + Unpin, R: Side + Unpin, M: Meter + Unpin> Future for Relay<L, R, M> {
    type Output = RelayEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let this = self.get_mut();
        let end = ready!(this.poll_relay(cx));
        match end {
            RelayEnd::Complete => {}
            RelayEnd::LeftBroken(_) => this.right.reset(),
            RelayEnd::RightBroken(_) => this.left.reset(),
        }
        Poll::Ready(end)
    }
}

impl Direction {
    fn poll<A: Side, B: Side>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut A,
        writer: &mut B,
        last: bool,
        moved: impl Fn(u64),
    ) -> Poll<Result<(), Failed>> {
        let mut budget = POLL_BUDGET;
        loop {
            match self {
                Self::Open(chunk) => {
                    if chunk.is_empty() {
                        if budget == 0 {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        ready!(writer.poll_ready(cx)).map_err(Failed::Writer)?;
                        *chunk = ready!(reader.poll_read(cx)).map_err(Failed::Reader)?;
                        if chunk.is_empty() {
                            *self = Self::Ending;
                            continue;
                        }
                    }
                    let before = chunk.len();
                    let end = reader.at_end();
                    let written = writer.poll_write(cx, chunk, end);
                    let length = before - chunk.len();
                    moved(length as u64);
                    budget = budget.saturating_sub(length);
                    ready!(written).map_err(Failed::Writer)?;
                    if end {
                        // Not asked whether the writer is ready: it has been told of the end already.
                        let rest = reader.poll_read(cx);
                        debug_assert!(matches!(rest, Poll::Ready(Ok(rest)) if rest.is_empty()));
                        *self = Self::Ending;
                    }
                }
                Self::Ending => {
                    // The end of both directions is one system call, and not two.
                    if !(last && writer.ends_when_dropped()) {
                        ready!(writer.poll_end(cx)).map_err(Failed::Writer)?;
                    }
                    *self = Self::Ended;
                }
                Self::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// A TCP socket as one end of a relay.
pub struct TcpSide {
    stream: TcpStream,
    /// What is known to follow the bytes that were read last.
    ahead: Option<io::Result<()>>,
}

impl TcpSide {
    /// Wraps the socket.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: None,
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        if !last {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            // The kernel keeps them for the FIN, which follows: one packet and one wake-up of the reader, and not two.
            let send = || {
                Ok(send(
                    &self.stream,
                    bytes,
                    SendFlags::MORE | SendFlags::NOSIGNAL,
                )?)
            };
            match self.stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl Side for TcpSide {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        match self.ahead.take() {
            None => {}
            Some(Ok(())) => return Poll::Ready(Ok(Bytes::new())),
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
        }
        let read = ready!(poll_read_bytes(&mut self.stream, cx))?;
        self.ahead = read.ahead;
        Poll::Ready(Ok(read.bytes))
    }

    fn at_end(&self) -> bool {
        matches!(self.ahead, Some(Ok(())))
    }

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        while !bytes.is_empty() {
            let written = ready!(self.poll_send(cx, bytes, last))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            bytes.advance(written);
        }
        // Lets go of the block that the bytes lay in.
        *bytes = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Pin::new(&mut self.stream)
            .poll_shutdown(cx)
            .map_err(Broken::from)
    }

    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    /// The socket is reset when it is dropped.
    fn reset(&mut self) {
        // Fails only for a socket that is gone already.
        let _ = self.stream.set_zero_linger();
    }

    /// Closing sends the FIN, once nothing is left to be read.
    fn ends_when_dropped(&self) -> bool {
        true
    }
}

/// Bytes that one direction moves before other tasks get their turn.
const POLL_BUDGET: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A connected pair.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    /// Waits until the far end's FIN or reset is there, with everything before it.
    async fn until_closed(stream: &TcpStream) {
        while !stream
            .ready(Interest::READABLE)
            .await
            .unwrap()
            .is_read_closed()
        {
            tokio::task::yield_now().await;
        }
    }

    async fn read(side: &mut TcpSide) -> Result<Bytes, Broken> {
        poll_fn(|cx| side.poll_read(cx)).await
    }

    #[tokio::test]
    async fn an_end_that_is_there_is_known_with_the_last_bytes() {
        let (mut far, near) = pair().await;
        far.write_all(b"last").await.unwrap();
        far.shutdown().await.unwrap();
        until_closed(&near).await;
        let mut side = TcpSide::new(near);
        assert_eq!(read(&mut side).await.unwrap(), "last");
        assert!(side.at_end());
        assert_eq!(read(&mut side).await.unwrap(), "");
    }

    #[tokio::test]
    async fn bytes_without_an_end_are_not_the_last() {
        let (mut far, near) = pair().await;
        far.write_all(b"more").await.unwrap();
        let mut side = TcpSide::new(near);
        assert_eq!(read(&mut side).await.unwrap(), "more");
        assert!(!side.at_end());
        far.shutdown().await.unwrap();
        assert_eq!(read(&mut side).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_reset_behind_bytes_is_no_end() {
        let (mut far, near) = pair().await;
        far.write_all(b"cut").await.unwrap();
        near.readable().await.unwrap();
        far.set_zero_linger().unwrap();
        drop(far);
        until_closed(&near).await;
        let mut side = TcpSide::new(near);
        assert_eq!(read(&mut side).await.unwrap(), "cut");
        assert!(!side.at_end());
        assert!(matches!(read(&mut side).await, Err(Broken::Reset)));
    }

    /// A side that has taken its last bytes, and its far end.
    async fn wrote_last() -> (TcpStream, TcpSide) {
        let (far, near) = pair().await;
        let mut side = TcpSide::new(near);
        let mut bytes = Bytes::from_static(b"last");
        poll_fn(|cx| side.poll_write(cx, &mut bytes, true))
            .await
            .unwrap();
        assert!(bytes.is_empty());
        (far, side)
    }

    #[tokio::test]
    async fn last_bytes_leave_without_waiting_for_more() {
        let (mut far, mut side) = wrote_last().await;
        poll_fn(|cx| side.poll_end(cx)).await.unwrap();
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last");
    }

    #[tokio::test]
    async fn last_bytes_leave_when_the_side_is_dropped() {
        let (mut far, side) = wrote_last().await;
        drop(side);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last");
    }

    struct Uncounted;

    impl Meter for Uncounted {
        fn forward(&self, _: u64) {}
        fn backward(&self, _: u64) {}
    }

    #[tokio::test]
    async fn ends_and_bytes_pass_together_in_both_directions() {
        let (mut left, near_left) = pair().await;
        let (mut right, near_right) = pair().await;
        left.write_all(b"question").await.unwrap();
        left.shutdown().await.unwrap();
        until_closed(&near_left).await;
        let (near_left, near_right) = (TcpSide::new(near_left), TcpSide::new(near_right));
        let relay = Relay::new(near_left, near_right, Uncounted);
        let answer = async {
            let mut question = Vec::new();
            right.read_to_end(&mut question).await.unwrap();
            right.write_all(b"answer").await.unwrap();
            drop(right);
            question
        };
        let (end, question) = tokio::join!(relay, answer);
        assert!(matches!(end, RelayEnd::Complete), "{end:?}");
        assert_eq!(question, b"question");
        let mut answer = Vec::new();
        left.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    }
}
