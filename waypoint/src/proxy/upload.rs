//! What endpoints are sent of a request's body: as it comes from the client, and again from its beginning if another try is made.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context as Task, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

pub(super) use received::{Messages, Received};

mod received;

/// The body of a client's request.
pub(super) struct Source(Rc<RefCell<Reading>>);

struct Reading {
    body: Incoming,
    /// It has been read to its end, which HTTP/1 does not tell before.
    has_ended: bool,
    /// What has been read, as long as it may be needed again.
    kept: Vec<Piece>,
    room: usize,
    /// All that has been read is kept.
    is_whole: bool,
    /// The try that may read. The others are over.
    current: u32,
    waiting: Option<Waker>,
    received: Rc<Received>,
    copies: Vec<mpsc::Sender<Copied>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What one that gets a copy is told.
#[derive(Debug)]
pub(super) enum Copied {
    Frame(Frame<Bytes>),
    End,
}

impl Piece {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Some(Self::Data(data.clone())),
            (None, Some(trailers)) => Some(Self::Trailers(trailers.clone())),
            (None, None) => None,
        }
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl Source {
    /// Counts what comes of `body` in `received`. Nothing is kept.
    pub(super) fn new(body: Incoming, received: Rc<Received>) -> Self {
        Self(Rc::new(RefCell::new(Reading {
            body,
            has_ended: false,
            kept: Vec::new(),
            room: 0,
            is_whole: true,
            current: 0,
            waiting: None,
            received,
            copies: Vec::new(),
        })))
    }

    /// Keeps what is read, up to so many bytes: it may be needed again.
    pub(super) fn keep(&self, room: usize) {
        self.0.borrow_mut().room = room;
    }

    /// The beginning of the body, as soon as there are so many bytes of it, or all; and whether it is all. It is still to be sent.
    ///
    /// # Errors
    /// The client has gone.
    pub(super) async fn begin(&self, most: usize) -> Result<(Bytes, bool), BodyError> {
        let mut start = BytesMut::new();
        let mut trailers = None;
        // Somebody may have been shown some of it before.
        for piece in std::mem::take(&mut self.0.borrow_mut().kept) {
            match piece {
                Piece::Data(data) => start.extend_from_slice(&data),
                Piece::Trailers(all) => trailers = Some(all),
            }
        }
        loop {
            let polled = poll_fn(|cx| {
                let mut reading = self.0.borrow_mut();
                if start.len() >= most || reading.has_ended() {
                    return Poll::Ready(None);
                }
                reading.poll(cx)
            });
            let Some(frame) = polled.await.transpose()? else {
                break;
            };
            match frame.into_data() {
                Ok(data) => start.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let mut reading = self.0.borrow_mut();
        let start = start.freeze();
        // One piece, of however many it came in.
        reading.kept = Vec::new();
        if !start.is_empty() {
            reading.kept.push(Piece::Data(start.clone()));
        }
        reading.kept.extend(trailers.map(Piece::Trailers));
        reading.is_whole = true;
        let is_all = reading.has_ended() && start.len() <= most;
        Ok((start, is_all))
    }

    /// Whether the client has sent all of it.
    pub(super) fn has_ended(&self) -> bool {
        self.0.borrow().has_ended()
    }

    /// Whether it can be sent from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.0.borrow().is_whole
    }

    /// The body, from its beginning as far as that was kept. Those from before read no further.
    pub(super) fn upload(&self) -> Upload {
        let mut reading = self.0.borrow_mut();
        reading.current += 1;
        if let Some(waiting) = reading.waiting.take() {
            waiting.wake();
        }
        Upload(Kind::Client {
            reading: Rc::clone(&self.0),
            next: 0,
            number: reading.current,
        })
    }

    /// It will not be needed again from its beginning. What is kept is still to be sent, if it has not been.
    pub(super) fn forget(&self) {
        let mut reading = self.0.borrow_mut();
        reading.room = 0;
        reading.is_whole = false;
    }

    /// A copy of what is kept, and of what is read from now on. It ends early if whoever gets it is too slow.
    pub(super) fn copy(&self) -> Upload {
        let mut reading = self.0.borrow_mut();
        let (sender, receiver) = mpsc::channel(COPIED);
        let has_ended = reading.has_ended();
        let is_empty = has_ended && reading.kept.is_empty();
        let mut kept = reading.kept.iter();
        let has_room = kept.all(|piece| sender.try_send(Copied::Frame(piece.frame())).is_ok());
        if has_ended {
            let _ = sender.try_send(Copied::End);
        } else if has_room {
            reading.copies.push(sender);
        }
        Upload(Kind::Copy {
            pieces: receiver,
            has_ended: is_empty,
        })
    }
}

impl Reading {
    fn has_ended(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }

    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let frame = ready!(polled);
        match &frame {
            Some(Ok(frame)) => self.read(frame),
            Some(Err(_)) => {
                self.copies.clear();
                self.is_whole = false;
            }
            None => {
                self.has_ended = true;
                self.tell_end();
            }
        }
        if self.body.is_end_stream() {
            self.tell_end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
    }

    fn read(&mut self, frame: &Frame<Bytes>) {
        let Some(piece) = Piece::of(frame) else {
            return;
        };
        let len = piece.len();
        if let Piece::Data(data) = &piece {
            self.received.add(data);
        }
        self.copies
            .retain(|copy| copy.try_send(Copied::Frame(piece.frame())).is_ok());
        // Many small ones take more room than what is in them.
        match self.room.checked_sub(len + PIECE) {
            Some(room) if self.is_whole && self.room > 0 => {
                self.room = room;
                self.kept.push(piece);
            }
            _ => {
                self.kept = Vec::new();
                self.is_whole = false;
            }
        }
    }

    fn tell_end(&mut self) {
        for copy in self.copies.drain(..) {
            // One that has no room for it is too slow.
            let _ = copy.try_send(Copied::End);
        }
    }
}

/// What an endpoint is sent.
pub(super) struct Upload(Kind);

enum Kind {
    Client {
        reading: Rc<RefCell<Reading>>,
        /// How much of what is kept has been sent.
        next: usize,
        number: u32,
    },
    Copy {
        pieces: mpsc::Receiver<Copied>,
        has_ended: bool,
    },
    /// What the waypoint itself says.
    Own(Option<Bytes>),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Client(hyper::Error),
    #[error("another try is made")]
    Replaced,
    #[error("too slow for a copy")]
    TooSlow,
}

impl Upload {
    /// What the waypoint itself says.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self(Kind::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Client {
                reading,
                next,
                number,
            } => {
                let mut reading = reading.borrow_mut();
                if reading.current != *number {
                    return Poll::Ready(Some(Err(BodyError::Replaced)));
                }
                if let Some(piece) = reading.kept.get(*next) {
                    *next += 1;
                    return Poll::Ready(Some(Ok(piece.frame())));
                }
                let frame = ready!(reading.poll(cx));
                // What has just been kept has just been sent.
                *next = reading.kept.len();
                Poll::Ready(frame)
            }
            Kind::Copy { pieces, has_ended } => {
                if *has_ended {
                    return Poll::Ready(None);
                }
                Poll::Ready(match ready!(pieces.poll_recv(cx)) {
                    Some(Copied::Frame(frame)) => Some(Ok(frame)),
                    Some(Copied::End) => {
                        *has_ended = true;
                        None
                    }
                    None => Some(Err(BodyError::TooSlow)),
                })
            }
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Client { reading, next, .. } => {
                let reading = reading.borrow();
                *next >= reading.kept.len() && reading.has_ended()
            }
            Kind::Copy { has_ended, .. } => *has_ended,
            Kind::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Client { reading, next, .. } => {
                let reading = reading.borrow();
                let kept = reading.kept.get(*next..).unwrap_or_default();
                let kept = kept.iter().map(|piece| piece.len() as u64).sum::<u64>();
                let left = reading.body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(left.lower() + kept);
                if let Some(upper) = left.upper() {
                    hint.set_upper(upper + kept);
                }
                hint
            }
            Kind::Copy {
                has_ended: true, ..
            } => SizeHint::with_exact(0),
            Kind::Copy { .. } => SizeHint::default(),
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// What a piece takes besides what is in it.
const PIECE: usize = 128;
/// Pieces that may wait for one that gets a copy.
const COPIED: usize = 64;
