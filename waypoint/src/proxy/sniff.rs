//! Which protocol is spoken where nobody has said so.
//!
//! Most protocols begin with the client; HTTP always does. One in which the server speaks first must not wait for a client that
//! waits as well: a client that says nothing for a moment is connected to an endpoint, and whoever speaks first decides.

use std::{future::poll_fn, io, rc::Rc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tulle_hbone::Tunnel;

use super::{
    io::Stream,
    requests,
    stream::Context,
    tcp::{self, Connected},
};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2, without TLS.
    Http2,
    /// Anything else.
    Other,
}

/// Which HTTP a client speaks, of whom it is known that it speaks HTTP.
pub(super) async fn http(stream: &mut Stream<Tunnel>) -> io::Result<Spoken> {
    let mut known = 0;
    loop {
        let bytes = more(stream).await?;
        if bytes.starts_with(PREFACE) {
            return Ok(Spoken::Http2);
        }
        // The end counts as well.
        if !PREFACE.starts_with(bytes) || bytes.len() == known {
            return Ok(Spoken::Http1);
        }
        known = bytes.len();
    }
}

/// Takes a tunnel of which nothing is known to its end.
pub(super) async fn first(context: Rc<Context>, mut stream: Stream<Tunnel>) {
    let drain = context.peer.front.drain.clone();
    let spoken = tokio::select! {
        biased;
        spoken = speaks(&mut stream) => Some(spoken),
        () = sleep(MOMENT) => None,
    };
    let spoken = match spoken {
        Some(spoken) => spoken,
        None => {
            let opened = tokio::select! {
                biased;
                spoken = speaks(&mut stream) => Err(spoken),
                opened = tcp::open(&context) => Ok(opened),
            };
            match opened {
                Err(spoken) => spoken,
                Ok(Some(mut connected)) => {
                    match either(&mut stream, &mut connected, &drain).await {
                        // Requests find their endpoints themselves.
                        Ok(spoken @ (Spoken::Http1 | Spoken::Http2)) => Ok(spoken),
                        Ok(Spoken::Other) => return tcp::relay(&context, stream, connected).await,
                        Err(error) => Err(error),
                    }
                }
                // A request is told why.
                Ok(None) => speaks(&mut stream).await,
            }
        }
    };
    match spoken {
        Ok(Spoken::Http1) => requests::serve(context, stream, false).await,
        Ok(Spoken::Http2) => requests::serve(context, stream, true).await,
        Ok(Spoken::Other) => tcp::connect(context, stream).await,
        Err(error) => tracing::debug!(%error, "a tunnel ended before anything was said"),
    }
}

/// What the client speaks, or that the server speaks first.
async fn either(
    stream: &mut Stream<Tunnel>,
    connected: &mut Connected,
    drain: &CancellationToken,
) -> io::Result<Spoken> {
    tokio::select! {
        biased;
        spoken = speaks(stream) => spoken,
        () = drain.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        spoken = poll_fn(|cx| connected.stream.poll_more(cx).map_ok(|()| Spoken::Other)) => spoken,
    }
}

/// What the client speaks, once it has said enough to know. Cancel safe: what was read stays to be read.
async fn speaks(stream: &mut Stream<Tunnel>) -> io::Result<Spoken> {
    let mut known = 0;
    loop {
        let bytes = more(stream).await?;
        match recognise(bytes) {
            Some(spoken) => return Ok(spoken),
            // The end has come.
            None if bytes.len() == known => return Ok(Spoken::Other),
            None => known = bytes.len(),
        }
    }
}

async fn more(stream: &mut Stream<Tunnel>) -> io::Result<&[u8]> {
    poll_fn(|cx| stream.poll_more(cx)).await?;
    Ok(stream.ahead())
}

/// `None` if it takes more to know. RFC 9112 §2.2 and §3: a request may be preceded by empty lines, and begins with a method, which is a
/// token, a space, and its target. What is longer than any method is none.
fn recognise(bytes: &[u8]) -> Option<Spoken> {
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let mut line = bytes;
    while let Some(rest) = line.strip_prefix(b"\r\n") {
        line = rest;
    }
    if line == b"\r" {
        return None;
    }
    let end = line
        .iter()
        .position(|byte| !(byte.is_ascii_uppercase() || *byte == b'-'));
    let Some(end) = end else {
        return (line.len() > LONGEST_METHOD).then_some(Spoken::Other);
    };
    match line.get(end..) {
        _ if end == 0 || end > LONGEST_METHOD => Some(Spoken::Other),
        Some([b' ', target @ ..]) => {
            let begins = |form: &[u8]| target.starts_with(form);
            if TARGETS.iter().any(|form| begins(form)) {
                return Some(Spoken::Http1);
            }
            let may = TARGETS.iter().any(|form| form.starts_with(target));
            (!may).then_some(Spoken::Other)
        }
        _ => Some(Spoken::Other),
    }
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a request, but CONNECT, which nobody may ask for here (RFC 9112 §3.2).
const TARGETS: [&[u8]; 4] = [b"/", b"*", b"http://", b"https://"];
const LONGEST_METHOD: usize = 16;
/// Clients that speak first have done so by then, and nobody notices a server that waits for it.
const MOMENT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_by_its_first_bytes() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Spoken::Http1)),
            (b"OPTIONS *", Some(Spoken::Http1)),
            (b"POST http://a/ HTTP/1.1", Some(Spoken::Http1)),
            (b"PROPFIND / HTTP/1.1", Some(Spoken::Http1)),
            (b"VERSION-CONTROL /", Some(Spoken::Http1)),
            (b"\r\n\r\nGET / HTTP/1.1", Some(Spoken::Http1)),
            (b"\r\n", None),
            (b"\r", None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/1.1", Some(Spoken::Http1)),
            (b"get /", Some(Spoken::Other)),
            (b"QUIT\r\n", Some(Spoken::Other)),
            (b"SET key value\r\n", Some(Spoken::Other)),
            (b"GET ht", None),
            (b"GET\t/", Some(Spoken::Other)),
            (b"\x16\x03\x01", Some(Spoken::Other)),
            (b"\0", Some(Spoken::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Other)),
            // A word that only looks like a method, of a protocol of lines.
            (b"HEAD\r\n", Some(Spoken::Other)),
        ] {
            assert_eq!(recognise(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
