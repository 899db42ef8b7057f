//! I/O that splits everything.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that moves at most `step` bytes per call, in either direction.
#[derive(Debug)]
pub struct Trickle<T> {
    inner: T,
    step: usize,
}

impl<T> Trickle<T> {
    /// Wraps `inner`. A step of one is the worst that TCP may do.
    pub fn new(inner: T, step: usize) -> Self {
        Self { inner, step }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Trickle<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = vec![0; self.step.min(buf.remaining())];
        let mut small = ReadBuf::new(&mut piece);
        let result = Pin::new(&mut self.inner).poll_read(cx, &mut small);
        buf.put_slice(small.filled());
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Trickle<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let end = self.step.min(buf.len());
        let piece = buf.get(..end).unwrap_or(buf);
        Pin::new(&mut self.inner).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn moves_no_more_than_a_step_per_call() {
        let (near, mut far) = duplex(64);
        let mut near = Trickle::new(near, 2);
        assert_eq!(near.write(b"hello").await.unwrap(), 2);
        far.write_all(b"world").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(near.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(&buffer[..2], b"wo");
    }
}
