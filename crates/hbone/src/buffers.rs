//! Buffers lent per thread: a connection holds one only while bytes pass through it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Size of the buffer that socket reads of a tunnel go into.
pub(crate) const TUNNEL_READ: usize = 256 * 1024;
/// Spare buffers a thread keeps for the next reader.
const SPARE: usize = 2;
/// Most bytes read from an application in one go.
const APPLICATION_READ: usize = 256 * 1024;
/// When less room than this is left in the shared block, a new block is begun.
const APPLICATION_READ_MIN: usize = 64 * 1024;
/// From this size on, bytes read are passed on as they lie; smaller ones are copied out, so that a few bytes waiting
/// in a stalled stream do not keep a whole block alive.
const SHARE_FROM: usize = 8 * 1024;

thread_local! {
    static TUNNEL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static APPLICATION: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Takes a buffer of [`TUNNEL_READ`] bytes with arbitrary contents.
pub(crate) fn take() -> Vec<u8> {
    TUNNEL
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; TUNNEL_READ])
}

/// Gives a buffer back.
pub(crate) fn give(buffer: Vec<u8>) {
    debug_assert_eq!(buffer.len(), TUNNEL_READ);
    TUNNEL.with_borrow_mut(|spare| {
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    });
}

/// What was read at once.
pub(crate) struct Read {
    /// Empty at the end of the stream.
    pub(crate) bytes: Bytes,
    /// What follows them, if it was there already: the end, or an error.
    pub(crate) ahead: Option<io::Result<()>>,
}

/// Reads what `source` has through the thread's block, at most a block at once.
pub(crate) fn poll_read_bytes<S: AsyncRead + Unpin>(
    source: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Read>> {
    APPLICATION.with_borrow_mut(|block| {
        if block.capacity() < APPLICATION_READ_MIN {
            block.reserve(APPLICATION_READ);
        }
        let mut read = || poll_read_buf(Pin::new(&mut *source), cx, block);
        let mut length = ready!(read())?;
        let mut ahead = None;
        // A socket that gave less than it could have is asked again, which costs a call only if it is at its end.
        while ahead.is_none() && length > 0 && length < APPLICATION_READ_MIN {
            match read() {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => ahead = Some(Ok(())),
                Poll::Ready(Ok(more)) => length += more,
                Poll::Ready(Err(error)) => ahead = Some(Err(error)),
            }
        }
        let bytes = if length >= SHARE_FROM {
            block.split_to(length).freeze()
        } else {
            let bytes = Bytes::copy_from_slice(block);
            block.clear();
            bytes
        };
        Poll::Ready(Ok(Read { bytes, ahead }))
    })
}
