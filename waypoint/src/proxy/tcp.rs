//! Connections in which no HTTP is spoken: their bytes, to one endpoint.

use std::rc::Rc;

use tulle_hbone::{Meter, Relay, RelayEnd, Side, Tunnel};

use tulle_telemetry::describe;

use super::{
    io::{Stream, ToEndpoint},
    stream::Context,
    upstream::Reached,
};
use crate::telemetry::Connection;

/// A connection to an endpoint.
pub(super) struct Connected {
    pub(super) stream: Stream<ToEndpoint>,
    reached: Reached,
}

/// Connects a client to an endpoint, and takes both to their end.
pub(super) async fn connect(context: Rc<Context>, mut stream: Stream<Tunnel>) {
    match open(&context).await {
        Some(connected) => relay(&context, stream, connected).await,
        // The client sees an error and not an orderly end, which it could take for an empty answer.
        None => stream.reset(),
    }
}

/// Connects to an endpoint.
pub(super) async fn open(context: &Context) -> Option<Connected> {
    let failed = match context.now() {
        None => "not served any more".to_owned(),
        Some(now) => {
            let upstreams = &context.peer.front.upstreams;
            let shared = &context.peer.front.shared;
            shared.metrics.would_be(&context.dry_run(&now));
            match context.check(&now) {
                Err(denied) => denied.to_string(),
                Ok(()) => match upstreams.connect(context, &mut Vec::new()).await {
                    Ok((io, reached)) => {
                        let stream = Stream::new(io);
                        return Some(Connected { stream, reached });
                    }
                    Err(error) => describe(&error),
                },
            }
        }
    };
    Connection::open(context, None).finish(Some(&failed));
    None
}

/// Moves bytes until both have ended, or policy does not permit it any more.
pub(super) async fn relay(context: &Context, stream: Stream<Tunnel>, connected: Connected) {
    let Connected {
        stream: endpoint,
        reached,
    } = connected;
    // What there is counts until the end.
    let Reached { hop, held: _held } = reached;
    let record = Connection::open(context, Some(&hop));
    let mut epochs = context.peer.front.epochs();
    let mut relay = Relay::new(stream, endpoint, &record);
    let ended = loop {
        tokio::select! {
            ended = &mut relay => break ended,
            // The sender is in the front, which outlives its connections.
            _ = epochs.changed() => {
                let permitted = context.now().is_some_and(|now| context.check(&now).is_ok());
                if !permitted {
                    relay.reset();
                    drop(relay);
                    return record.finish(Some("closed due to policy change"));
                }
            }
        }
    };
    let failure = match ended {
        RelayEnd::Complete => None,
        RelayEnd::LeftBroken(_) => Some("the client's side broke"),
        RelayEnd::RightBroken(_) => Some("the endpoint's side broke"),
    };
    drop(relay);
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
