//! Plaintext on its way to the pod's app: policy decides whether it may go on.

use std::{io, net::SocketAddr, rc::Rc};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tulle_hbone::{Relay, TcpSide};
use tulle_net::{connect::ConnectOptions, original_dst::original_dst};
use tulle_policy::Connection;
use tulle_route as route;

use super::{
    Pod,
    inbound::record,
    live::{Addresses, Guarded, Registered},
    outbound::finish,
    pod::Local,
};
use crate::telemetry::{AccessRecord, ResponseFlag, SharedMeter, early_failure};

/// Takes one captured connection to its end.
pub(super) async fn handle(pod: Rc<Pod>, client: TcpStream, source: SocketAddr) {
    let started = Instant::now();
    let Some(opened) = Box::pin(open(&pod, &client, source, started)).await else {
        // The client must see an error and not an orderly end.
        let _ = tulle_net::socket::reset_on_close(&client);
        return;
    };
    let (relay, record) = opened.join(client);
    let ended = relay.await;
    finish(&record, started, ended);
}

/// A connection whose app is connected.
struct Opened {
    app: TcpStream,
    registered: Registered,
    record: Box<AccessRecord>,
}

impl Opened {
    /// Not async, so that the task keeps no copies of what is moved.
    fn join(
        self,
        client: TcpStream,
    ) -> (Guarded<TcpSide, TcpSide, SharedMeter>, Box<AccessRecord>) {
        let meter = SharedMeter(self.record.meter.clone());
        let relay = Relay::new(TcpSide::new(client), TcpSide::new(self.app), meter);
        (Guarded::new(relay, self.registered), self.record)
    }
}

async fn open(
    pod: &Rc<Pod>,
    client: &TcpStream,
    source: SocketAddr,
    started: Instant,
) -> Option<Opened> {
    let (local, dialled, target) = match resolve(pod, client).await {
        Ok(resolved) => resolved,
        Err((dialled, error)) => {
            early_failure("inbound", source, dialled, &error);
            pod.shared().metrics.refuse("inbound_plaintext");
            return None;
        }
    };
    let addresses = Addresses {
        source,
        original: dialled,
        actual: target,
        tunnelled: false,
    };
    let registered = pod.live.register_inbound(addresses, None);
    let record = record(pod, &local, source, target, None);
    record.meter.traffic().open();
    let connection = Connection {
        identity: None,
        source_ip: source.ip(),
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    if let Err(denied) = local.policies.check(&connection) {
        record.finish(
            started.elapsed(),
            ResponseFlag::Deny,
            Some(&denied.to_string()),
        );
        return None;
    }
    let dial = connect_app(pod, source, target);
    match registered.unless_closed(dial).await {
        Ok(Ok(app)) => Some(Opened {
            app,
            registered,
            record: Box::new(record),
        }),
        Ok(Err(error)) => {
            let reason = format!("connect to the app failed: {error}");
            record.finish(started.elapsed(), ResponseFlag::Connect, Some(&reason));
            None
        }
        Err(closed) => {
            finish(&record, started, Err(closed));
            None
        }
    }
}

/// The pod, what the client dialled, and where that leads.
async fn resolve(
    pod: &Pod,
    client: &TcpStream,
) -> Result<(Local, SocketAddr, SocketAddr), (Option<SocketAddr>, String)> {
    let dialled = original_dst(client, pod.settings().inbound_port);
    let dialled = dialled.map_err(|error| (None, error.to_string()))?;
    let local = pod.wait_for_local().await.ok_or_else(|| {
        let error = "the pod is not known to the control plane";
        (Some(dialled), error.to_owned())
    })?;
    let target = route::passthrough_inbound(dialled);
    let target = target.map_err(|error| (Some(dialled), error.to_string()))?;
    Ok((local, dialled, target))
}

/// Connects to the app, from the client's address if the app can be shown it.
pub(super) async fn connect_app(
    pod: &Pod,
    client: SocketAddr,
    target: SocketAddr,
) -> io::Result<TcpStream> {
    let same_family = client.is_ipv4() == target.is_ipv4();
    let spoof = pod.transparent && same_family && client.ip() != target.ip();
    let options = ConnectOptions {
        mark: Some(pod.settings().mark | DELIVERY),
        source: spoof.then(|| client.ip()),
        local: true,
        ..ConnectOptions::default()
    };
    let dial = pod.dialer.connect(target, &options);
    timeout(pod.settings().connect_timeout, dial)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Set in the mark of connections to the app, above the bits by which any redirection knows ztunnel's packets: ours routes
/// the answers, which take the mark over, back to loopback.
const DELIVERY: u32 = 0x1000;
