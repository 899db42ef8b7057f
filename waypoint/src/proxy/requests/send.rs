//! Sends a request to an endpoint that was reached.

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, upgrade::on};

use super::{
    super::{
        connections::Lease,
        upgraded::{Ends, Substream},
        upload::Upload,
        upstream::{Asker, Sender},
    },
    forward::{Answered, Failure},
    prepare::{for_http1, for_http2},
    upgrade::{self, Asked},
};

/// Sends one that is nothing but a request.
pub(super) async fn send(
    sender: Sender,
    mut request: Request<Upload>,
) -> Result<Answered, Failure> {
    match sender {
        Sender::Http1(mut own) => {
            for_http1(&mut request);
            match own.sender.try_send_request(request).await {
                // Nobody has asked for that.
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    Err(Failure::Switched)
                }
                Ok(response) => Ok((response, Some(Lease::Http1(own)))),
                Err(mut failed) => Err(match failed.take_message() {
                    Some(_) => Failure::Unsent {
                        reused: own.served > 0,
                        error: failed.into_error(),
                    },
                    None => Failure::Lost {
                        reused: own.served > 0,
                        refused: false,
                        error: failed.into_error(),
                    },
                }),
            }
        }
        Sender::Http2(mut shared) => {
            for_http2(&mut request);
            match shared.sender.try_send_request(request).await {
                Ok(response) => Ok((response, Some(Lease::Http2(shared)))),
                Err(mut failed) => Err(match failed.take_message() {
                    Some(_) => Failure::Unsent {
                        reused: true,
                        error: failed.into_error(),
                    },
                    None => lost(failed.into_error()),
                }),
            }
        }
        // There is nothing to be asked for.
        Sender::Asker(_) => Err(Failure::Switched),
    }
}

/// Sends one that asks for an upgrade, and takes what it becomes if the endpoint agrees.
pub(super) async fn ask(
    asker: Asker,
    asked: &Asked,
    mut request: Request<Upload>,
) -> Result<Answered, Failure> {
    match asker {
        Asker::Http1 { mut sender, rest } => {
            for_http1(&mut request);
            let made = upgrade::for_http1(asked, &mut request).map_err(|_| Failure::Switched)?;
            let sent = sender.try_send_request(request).await;
            let response = sent.map_err(|failed| lost(failed.into_error()))?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Ok((response, None));
            }
            if !upgrade::agrees(response.headers(), made.as_ref()) {
                return Err(Failure::Switched);
            }
            let rest = rest.await.map_err(|_| Failure::Switched)?;
            Ok((response, Some(Lease::Switched(Ends::Http1(rest)))))
        }
        Asker::Http2 { mut sender, writer } => {
            for_http2(&mut request);
            upgrade::for_http2(&mut request);
            let sent = sender.try_send_request(request).await;
            let response = sent.map_err(|failed| lost(failed.into_error()))?;
            by_http2(response, |io| Substream::new(io, writer)).await
        }
    }
}

async fn by_http2(
    mut response: Response<Incoming>,
    substream: impl FnOnce(hyper::upgrade::Upgraded) -> Substream,
) -> Result<Answered, Failure> {
    match response.status() {
        StatusCode::OK => {
            let io = on(&mut response).await.map_err(|_| Failure::Switched)?;
            Ok((response, Some(Lease::Switched(Ends::Http2(substream(io))))))
        }
        // It means the same (RFC 9110 §9.3.6), but nothing that is said here could be followed by bytes.
        status if status.is_success() => Err(Failure::Switched),
        _ => Ok((response, None)),
    }
}

fn lost(error: hyper::Error) -> Failure {
    Failure::Lost {
        reused: false,
        refused: is_refused(&error),
        error,
    }
}

/// Whether an endpoint said of a stream that it has not looked at it (RFC 9113 §8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            // Of what comes after the last one that was looked at, a goodbye says the same (§6.8).
            return error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.is_remote());
        }
        source = error.source();
    }
    false
}
