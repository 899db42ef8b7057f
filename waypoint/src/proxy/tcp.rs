//! Connections in which no HTTP is spoken: their bytes, to one endpoint.

use std::rc::Rc;

use tulle_hbone::{Meter, Relay, RelayEnd, Side, Tunnel};

use super::{
    front::describe,
    io::{Stream, ToEndpoint},
    stream::Context,
};
use crate::telemetry::Connection;

/// A connection to an endpoint.
pub(super) struct Connected {
    pub(super) stream: Stream<ToEndpoint>,
    record: Connection,
}

/// Connects a client to an endpoint, and takes both to their end.
pub(super) async fn connect(context: Rc<Context>, mut stream: Stream<Tunnel>) {
    match open(&context).await {
        Some(connected) => relay(stream, connected).await,
        // The client sees an error and not an orderly end, which it could take for an empty answer.
        None => stream.reset(),
    }
}

/// Connects to an endpoint.
pub(super) async fn open(context: &Context) -> Option<Connected> {
    if let Err(denied) = context.check() {
        let record = Connection::open(context, None);
        record.finish(Some(&denied.to_string()));
        return None;
    }
    let upstreams = &context.peer.front.upstreams;
    match upstreams.connect(context, &mut Vec::new()).await {
        Ok((io, hop)) => Some(Connected {
            stream: Stream::new(io),
            record: Connection::open(context, Some(&hop)),
        }),
        Err(error) => {
            let record = Connection::open(context, None);
            record.finish(Some(&describe(&error)));
            None
        }
    }
}

/// Moves bytes until both have ended.
pub(super) async fn relay(stream: Stream<Tunnel>, connected: Connected) {
    let Connected {
        stream: endpoint,
        record,
    } = connected;
    let failure = match Relay::new(stream, endpoint, &record).await {
        RelayEnd::Complete => None,
        RelayEnd::LeftBroken(_) => Some("the client's side broke"),
        RelayEnd::RightBroken(_) => Some("the endpoint's side broke"),
    };
    record.finish(failure);
}

impl Meter for &Connection {
    fn forward(&self, bytes: u64) {
        self.received(bytes);
    }

    fn backward(&self, bytes: u64) {
        self.sent(bytes);
    }
}
