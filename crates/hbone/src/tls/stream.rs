//! A TLS connection as bytes, with reads and writes in batches.
//!
//! ```text
//! socket --256 KiB read--> lent buffer --open in place--> h2          h2 --seal--> queue --one writev per poll--> socket
//! ```
//!
//! h2 flushes after every frame. Those flushes are ignored: the task that drives the connection calls
//! [`TlsStream::flush_batch`] once after each poll of h2, so that everything written in one poll shares records and
//! system calls. The buffer for reading is lent by the thread and goes back as soon as it holds nothing.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustls::crypto::cipher::OutboundChunks;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::record::{HEADER, MAX_PLAINTEXT, Opened, RecordLayer};
use crate::buffers;

/// Sealed bytes waiting for the socket at which no more are accepted.
const MAX_QUEUED: usize = 256 * 1024;
/// Bytes taken from the socket in one poll of the driver before other tasks get their turn.
const READ_BUDGET: usize = 512 * 1024;
/// Records handed to the kernel in one call.
const MAX_SLICES: usize = 32;
/// Writes up to this size are gathered into shared records; larger ones are sealed from where they lie.
const GATHER_UP_TO: usize = 4 * 1024;

/// One half of a pair of handles to a connection: h2 owns the one and its driver the other. Both live on one thread.
#[derive(Clone)]
pub struct TlsStream(Rc<RefCell<Inner>>);

struct Inner {
    tcp: TcpStream,
    records: RecordLayer,
    reading: Reading,
    /// Plaintext gathered for the next record.
    gathered: Vec<u8>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first record in the queue that the kernel has already.
    queue_sent: usize,
    queued: usize,
    closing: bool,
    budget: usize,
    /// Bytes that came from the socket: tells a live connection from a dead one.
    received: u64,
}

/// Bytes from the socket that h2 has not got yet: `buffer[plain]` is opened, `buffer[sealed]` is not.
struct Reading {
    /// The thread's buffer, while lent.
    buffer: Option<Vec<u8>>,
    plain: std::ops::Range<usize>,
    sealed: std::ops::Range<usize>,
    /// The beginning of a record, kept while no buffer is lent.
    partial: Vec<u8>,
    closed: bool,
}

impl TlsStream {
    /// `sealed` and `plain` are what the handshake read beyond its own end.
    pub(super) fn new(
        tcp: TcpStream,
        records: RecordLayer,
        sealed: Vec<u8>,
        plain: Vec<u8>,
    ) -> Self {
        let mut reading = Reading {
            buffer: None,
            plain: 0..0,
            sealed: 0..0,
            partial: sealed,
            closed: false,
        };
        if !plain.is_empty() {
            reading.preload(&plain);
        }
        Self(Rc::new(RefCell::new(Inner {
            tcp,
            records,
            reading,
            gathered: Vec::new(),
            queue: VecDeque::new(),
            queue_sent: 0,
            queued: 0,
            closing: false,
            budget: READ_BUDGET,
            received: 0,
        })))
    }

    /// Sends what was written since the last call and gives back lent buffers. To be called after each poll of the
    /// HTTP/2 connection, in the same task.
    ///
    /// # Errors
    /// When the socket or the cipher fails; the connection is of no use then.
    pub fn flush_batch(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let inner = &mut *self.0.borrow_mut();
        inner.budget = READ_BUDGET;
        inner.reading.park();
        inner.seal_gathered()?;
        // A peer that reads no answers gets no more of them; what is owed goes out before the next data in any case.
        if inner.records.key_update_owed() && inner.queued < MAX_QUEUED {
            let mut sealed = Vec::new();
            let update = inner
                .records
                .update_tx_key(&mut |record| sealed.push(record));
            update.map_err(io::Error::other)?;
            sealed.into_iter().for_each(|record| inner.enqueue(record));
        }
        match inner.poll_send(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Bytes that have come from the socket so far.
    pub fn received(&self) -> u64 {
        self.0.borrow().received
    }

    /// Bytes that are sealed and wait for the socket.
    pub fn queued(&self) -> usize {
        self.0.borrow().queued
    }
}

impl Inner {
    /// Reads from the socket into the lent buffer, behind what is there.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.budget == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = self.reading.room();
        let mut target = ReadBuf::new(room);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut target))?;
        let length = target.filled().len();
        self.reading.sealed.end += length;
        self.budget = self.budget.saturating_sub(length.max(1));
        self.received += length as u64;
        Poll::Ready(Ok(length))
    }

    fn seal_gathered(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        self.seal(&[&gathered], gathered.len())?;
        Ok(())
    }

    /// Seals the first `length` bytes of `chunks` in records as long as possible.
    fn seal(&mut self, chunks: &[&[u8]], length: usize) -> io::Result<()> {
        let mut start = 0;
        while start < length {
            let end = length.min(start + MAX_PLAINTEXT);
            let window = OutboundChunks::Multiple { chunks, start, end };
            let (queue, queued) = (&mut self.queue, &mut self.queued);
            self.records
                .seal(window, &mut |record| {
                    *queued += record.len();
                    queue.push_back(record);
                })
                .map_err(io::Error::other)?;
            start = end;
        }
        Ok(())
    }

    fn enqueue(&mut self, record: Vec<u8>) {
        self.queued += record.len();
        self.queue.push_back(record);
    }

    /// Writes the queue to the socket until it is empty or the socket is full.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let sent = ready!(self.poll_send_some(cx))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.forget_sent(sent);
        }
        if self.queue.capacity() > MAX_SLICES {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Hands as much of the queue to the kernel as one call takes.
    fn poll_send_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let tcp = Pin::new(&mut self.tcp);
        let unsent = |record: &Vec<u8>| self.queue_sent.min(record.len());
        if let (1, Some(record)) = (self.queue.len(), self.queue.front()) {
            let rest = record.get(unsent(record)..).unwrap_or_default();
            return tcp.poll_write(cx, rest);
        }
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, record) in slices.iter_mut().zip(&self.queue) {
            let skip = if count == 0 { unsent(record) } else { 0 };
            *slice = IoSlice::new(record.get(skip..).unwrap_or_default());
            count += 1;
        }
        tcp.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
    }

    fn forget_sent(&mut self, sent: usize) {
        self.queued -= sent;
        let mut sent = sent + self.queue_sent;
        while let Some(first) = self.queue.front() {
            if sent < first.len() {
                break;
            }
            sent -= first.len();
            self.queue.pop_front();
        }
        self.queue_sent = sent;
    }
}

impl Reading {
    fn preload(&mut self, plain: &[u8]) {
        let mut buffer = buffers::take();
        // The handshake reads a few KiB at most, so this always fits.
        let length = plain.len().min(buffer.len());
        if let (Some(target), Some(source)) = (buffer.get_mut(..length), plain.get(..length)) {
            target.copy_from_slice(source);
        }
        self.plain = 0..length;
        let partial = std::mem::take(&mut self.partial);
        let end = (length + partial.len()).min(buffer.len());
        if let Some(target) = buffer.get_mut(length..end) {
            target.copy_from_slice(partial.get(..end - length).unwrap_or_default());
        }
        self.sealed = length..end;
        self.buffer = Some(buffer);
    }

    /// Borrows a buffer if none is there, and returns the room behind what it holds.
    fn room(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| {
            let mut buffer = buffers::take();
            let length = self.partial.len();
            if let Some(start) = buffer.get_mut(..length) {
                start.copy_from_slice(&self.partial);
            }
            self.partial = Vec::new();
            self.plain = 0..0;
            self.sealed = 0..length;
            buffer
        });
        if self.plain.is_empty() && self.sealed.start > 0 {
            buffer.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
        }
        buffer.get_mut(self.sealed.end..).unwrap_or_default()
    }

    /// Gives the buffer back unless plaintext waits in it.
    fn park(&mut self) {
        if !self.plain.is_empty() {
            return;
        }
        if let Some(buffer) = self.buffer.take() {
            if let Some(rest) = buffer.get(self.sealed.clone()) {
                self.partial = rest.to_vec();
            }
            self.sealed = 0..0;
            buffers::give(buffer);
        }
    }

    /// Moves plaintext to `target`; returns whether any was there.
    fn deliver(&mut self, target: &mut ReadBuf<'_>) -> bool {
        let length = self.plain.len().min(target.remaining());
        let Some(buffer) = &self.buffer else {
            return false;
        };
        let Some(bytes) = buffer.get(self.plain.start..self.plain.start + length) else {
            return false;
        };
        target.put_slice(bytes);
        self.plain.start += length;
        length > 0
    }

    /// Opens the next record if all of it is there.
    fn open_next(&mut self, records: &mut RecordLayer) -> io::Result<bool> {
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            None if self.partial.is_empty() => return Ok(false),
            None => {
                self.room();
                return self.open_next(records);
            }
        };
        let sealed = buffer.get_mut(self.sealed.clone()).unwrap_or_default();
        let length = match RecordLayer::record_length(sealed).map_err(io::Error::other)? {
            Some(length) if length <= sealed.len() => length,
            _ => return Ok(false),
        };
        let record = sealed.get_mut(..length).unwrap_or_default();
        match records.open(record).map_err(io::Error::other)? {
            Opened::Data(plain) => {
                let start = self.sealed.start + HEADER;
                self.plain = start..start + plain;
            }
            Opened::Control => {}
            Opened::Closed => self.closed = true,
        }
        self.sealed.start += length;
        Ok(true)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        let before = target.filled().len();
        loop {
            while target.remaining() > 0 && inner.reading.deliver(target) {}
            if target.remaining() == 0 || inner.reading.closed {
                return Poll::Ready(Ok(()));
            }
            if inner.reading.open_next(&mut inner.records)? {
                continue;
            }
            if target.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if ready!(inner.poll_receive(cx))? == 0 {
                // The end of the socket without a close_notify is a cut, not an end.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.queued >= MAX_QUEUED {
            ready!(inner.poll_send(cx))?;
        }
        let written = slices.iter().map(|slice| slice.len()).sum();
        if written <= GATHER_UP_TO && inner.gathered.len() + written <= MAX_PLAINTEXT {
            if inner.gathered.capacity() == 0 {
                inner.gathered.reserve(GATHER_UP_TO.max(written));
            }
            for slice in slices {
                inner.gathered.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(written));
        }
        let gathered = std::mem::take(&mut inner.gathered);
        let mut chunks = [&[][..]; MAX_CHUNKS];
        let [first, rest @ ..] = &mut chunks;
        *first = &gathered;
        let taken: usize = rest
            .iter_mut()
            .zip(slices)
            .map(|(chunk, slice)| {
                *chunk = slice;
                slice.len()
            })
            .sum();
        inner.seal(&chunks, gathered.len() + taken)?;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: see [`TlsStream::flush_batch`].
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if !inner.closing {
            inner.closing = true;
            inner.seal_gathered()?;
            let alert = inner.records.close_notify().map_err(io::Error::other)?;
            inner.enqueue(alert);
        }
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.tcp).poll_shutdown(cx)
    }
}

/// What was gathered, and the slices of one write: h2 passes two.
const MAX_CHUNKS: usize = 5;
