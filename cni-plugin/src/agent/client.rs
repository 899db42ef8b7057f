//! The plugin's end: one request, one answer, a deadline for all of it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde::Serialize;

use super::Failure;

/// The agent's socket.
#[derive(Clone, Debug)]
pub struct Socket(PathBuf);

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens, or the connection broke.
    #[error("cannot talk to the node agent at {}: {source}; is tulle-node running on this node?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from the node agent at {} within {limit:?}", path.display())]
    TooSlow {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The agent ended before its answer did.
    #[error("the node agent went away in the middle")]
    CutOff,
    /// The answer is not what an agent says.
    #[error("the node agent's answer is not understood: {0}")]
    Malformed(&'static str),
    /// The agent said no.
    #[error("the node agent refused: {}", .0.error)]
    Refused(Failure),
}

impl CallError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TooSlow { .. } | Self::CutOff => true,
            Self::Malformed(_) => false,
            Self::Refused(failure) => failure.retry,
        }
    }
}

impl Socket {
    /// The socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Posts `body` to `path` and returns the body of the answer.
    ///
    /// After `limit` it returns whatever the agent does: connecting to a socket whose backlog is full has no time limit
    /// of its own, so the exchange happens on a thread that is left behind then.
    ///
    /// # Errors
    /// Anything but a status of 200 within `limit`.
    pub fn post(
        &self,
        path: &'static str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let unreachable = |source| CallError::Unreachable {
            path: self.0.clone(),
            source,
        };
        let body = serde_json::to_vec(body).map_err(|error| unreachable(error.into()))?;
        let (answer, answered) = mpsc::channel();
        let socket = self.0.clone();
        let exchange = move || {
            // Nobody listens any more once the limit has passed.
            let _ = answer.send(exchange(&socket, path, &body));
        };
        thread::Builder::new()
            .spawn(exchange)
            .map_err(unreachable)?;
        match answered.recv_timeout(limit) {
            Ok(answer) => parse(&answer.map_err(unreachable)?),
            Err(RecvTimeoutError::Timeout) => Err(CallError::TooSlow {
                path: self.0.clone(),
                limit,
            }),
            Err(RecvTimeoutError::Disconnected) => {
                Err(unreachable(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }
}

fn exchange(socket: &Path, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: tulle-node\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of an answer with status 200.
fn parse(answer: &[u8]) -> Result<Vec<u8>, CallError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response
        .parse(answer)
        .map_err(|_| CallError::Malformed("no HTTP response"))?;
    let httparse::Status::Complete(head) = parsed else {
        return Err(CallError::CutOff);
    };
    let body = answer.get(head..).unwrap_or_default();
    let length = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        return Err(CallError::CutOff);
    }
    match response.code {
        Some(200) => Ok(body.to_vec()),
        Some(status) => Err(CallError::Refused(failure(status, body))),
        None => Err(CallError::Malformed("no status")),
    }
}

/// An agent of the ambient contract answers with plain text, or nothing.
fn failure(status: u16, body: &[u8]) -> Failure {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        Failure {
            error: match text.is_empty() {
                true => format!("status {status}"),
                false => format!("status {status}: {text}"),
            },
            retry: status >= 500,
        }
    })
}

const MAX_ANSWER: u64 = 1 << 20;
const MAX_HEADERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let body = |text: &str| parse(text.as_bytes()).map_err(|error| error.to_string());
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok("")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", Ok("{}")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
                Err("the node agent went away in the middle"),
            ),
            (
                "HTTP/1.1 200 O",
                Err("the node agent went away in the middle"),
            ),
            (
                "SSH-2.0\r\n\r\n",
                Err("the node agent's answer is not understood: no HTTP response"),
            ),
            (
                "HTTP/1.1 500 Oops\r\n\r\n",
                Err("the node agent refused: status 500"),
            ),
            (
                "HTTP/1.1 500 Oops\r\n\r\nno ztunnel\n",
                Err("the node agent refused: status 500: no ztunnel"),
            ),
            (
                "HTTP/1.1 400 Bad\r\n\r\n{\"error\":\"ambiguous\"}",
                Err("the node agent refused: ambiguous"),
            ),
        ] {
            let expected = expected
                .map(|text| text.as_bytes().to_vec())
                .map_err(str::to_owned);
            assert_eq!(body(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn refusals_say_whether_to_try_again() {
        for (answer, retry) in [
            ("HTTP/1.1 500 x\r\n\r\n", true),
            ("HTTP/1.1 400 x\r\n\r\n", false),
            ("HTTP/1.1 500 x\r\n\r\n{\"error\":\"x\"}", false),
            (
                "HTTP/1.1 503 x\r\n\r\n{\"error\":\"x\",\"retry\":true}",
                true,
            ),
        ] {
            let error = parse(answer.as_bytes()).unwrap_err();
            assert_eq!(error.is_retryable(), retry, "{answer:?}");
        }
    }
}
