//! A watch as it comes: one JSON object a line, whatever the pieces that it arrives in.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::timeout;

use crate::call::{CallError, unreachable};

/// The lines of an answer.
pub(crate) struct Lines {
    body: Body,
    rest: BytesMut,
    /// How much of the rest is known to be without an end of line.
    searched: usize,
}

impl Lines {
    pub(crate) fn of(body: Body) -> Self {
        Self {
            body,
            rest: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; `None` if the answer is over, or if nothing comes for as long as `silence`. What
    /// follows the last end of line is half a line and is dropped.
    ///
    /// # Errors
    /// [`CallError::Unreachable`] if the connection broke, [`CallError::TooLong`].
    pub(crate) async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(line) = self.line() {
                return Ok(Some(line));
            }
            if self.rest.len() > MAX_LINE {
                return Err(CallError::TooLong);
            }
            let Ok(frame) = timeout(silence, self.body.frame()).await else {
                return Ok(None);
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreachable(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let unsearched = self.rest.get(self.searched..)?;
        let Some(end) = unsearched.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.rest.len();
            return None;
        };
        let line = self.rest.split_to(self.searched + end);
        self.rest.advance(1);
        self.searched = 0;
        if self.rest.is_empty() {
            // A watch lasts for minutes and is mostly silent: what it needed for its longest line is given back.
            self.rest = BytesMut::new();
        }
        Some(line.freeze())
    }
}

/// More than an object can have, with room for how it is written.
const MAX_LINE: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_become_lines_and_half_a_line_nothing() {
        let mut lines = Lines::of(Body::from(Vec::new()));
        for (piece, expected) in [
            ("{\"a\"", None),
            (":1}", None),
            ("\n{\"b\":2}\n", Some("{\"a\":1}")),
            ("", Some("{\"b\":2}")),
            ("{\"c\":", None),
        ] {
            lines.rest.extend_from_slice(piece.as_bytes());
            assert_eq!(lines.line().as_deref(), expected.map(str::as_bytes));
        }
        let rest = lines.next(Duration::from_secs(1)).await.unwrap();
        assert_eq!(rest, None);
    }

    #[tokio::test]
    async fn line_without_end_is_given_up() {
        let mut lines = Lines::of(Body::from(vec![b'a'; MAX_LINE + 1]));
        let next = lines.next(Duration::from_secs(1)).await;
        assert!(matches!(next, Err(CallError::TooLong)), "{next:?}");
    }
}
