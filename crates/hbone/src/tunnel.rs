//! One CONNECT stream as a stream of bytes.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::{
    StreamSlot,
    relay::{Broken, Side},
    unread::Reader,
};

/// One open tunnel. Dropping it before both directions have ended resets the stream.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    received_end: bool,
    sent_end: bool,
    /// Bytes handed out that the peer may not replace yet.
    unreleased: usize,
    reader: Reader,
    _slot: Option<StreamSlot>,
}

impl Tunnel {
    pub(crate) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        reader: Reader,
        slot: Option<StreamSlot>,
    ) -> Self {
        Self {
            send,
            recv,
            received_end: false,
            sent_end: false,
            unreleased: 0,
            reader,
            _slot: slot,
        }
    }

    fn release(&mut self) {
        let length = std::mem::take(&mut self.unreleased);
        if length > 0 {
            // Fails only if more is released than was received.
            let _ = self.recv.flow_control().release_capacity(length);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.unreleased = bytes.len();
                    return Poll::Ready(Ok(bytes));
                }
                // The peer has sent all it wants and reads no more: an orderly end.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => break,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => break,
            }
        }
        self.received_end = true;
        Poll::Ready(Ok(Bytes::new()))
    }
}

impl Side for Tunnel {
    /// Bytes of one frame. They count against the peer's window until the next call, which comes when they have been
    /// passed on.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        self.release();
        let read = self.poll_data(cx);
        let more_may_lie_here = matches!(&read, Poll::Ready(Ok(bytes)) if !bytes.is_empty());
        self.reader.set_holds(more_may_lie_here);
        read
    }

    /// The last frame said so. An end in a frame of its own shows when it is read.
    fn at_end(&self) -> bool {
        self.recv.is_end_stream()
    }

    /// One byte of window is enough: what is sent beyond the window waits in the stream, at most one read of it.
    /// Asking for more would take window from other streams while this one is idle.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.send.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        self.send.reserve_capacity(1);
        loop {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(_)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(Broken::Reset)),
            }
        }
    }

    fn poll_write(
        &mut self,
        _cx: &mut Context<'_>,
        bytes: &mut Bytes,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        self.sent_end = last;
        let sent = self.send.send_data(std::mem::take(bytes), last);
        Poll::Ready(sent.map_err(broken))
    }

    fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if std::mem::replace(&mut self.sent_end, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        // While data may still come, a reset shows there, after the data.
        if !self.received_end {
            return Poll::Pending;
        }
        match ready!(self.send.poll_reset(cx)) {
            Ok(_) => Poll::Ready(Broken::Reset),
            Err(error) => Poll::Ready(broken(error)),
        }
    }

    /// RFC 9113 §8.5: a proxy tells of a broken TCP connection by CONNECT_ERROR.
    fn reset(&mut self) {
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

fn broken(error: h2::Error) -> Broken {
    if error.is_reset() {
        Broken::Reset
    } else {
        Broken::Error(io::Error::other(error))
    }
}
