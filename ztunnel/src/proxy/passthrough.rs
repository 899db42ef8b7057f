//! Plaintext on its way to the pod's app: policy decides whether it may go on.

use std::{io, net::SocketAddr, rc::Rc};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tulle_hbone::{Relay, TcpSide};
use tulle_net::{
    connect::{ConnectOptions, connect},
    original_dst::original_dst,
};
use tulle_policy::Connection;

use super::{
    Pod,
    inbound::record,
    live::{Addresses, Guarded},
    outbound::finish,
};
use crate::{
    route,
    telemetry::{ResponseFlag, SharedMeter, early_failure},
};

/// Takes one captured connection to its end.
pub(super) async fn handle(pod: Rc<Pod>, client: TcpStream, source: SocketAddr) {
    if Box::pin(serve(&pod, client, source)).await.is_none() {
        pod.shared().metrics.refuse("inbound_plaintext");
    }
}

async fn serve(pod: &Rc<Pod>, client: TcpStream, source: SocketAddr) -> Option<()> {
    let started = Instant::now();
    let dialled = original_dst(&client)
        .inspect_err(|error| early_failure("inbound", source, None, error))
        .ok()?;
    let early = |error: &dyn std::fmt::Display| {
        early_failure("inbound", source, Some(dialled), error);
        let _ = tulle_net::socket::reset_on_close(&client);
    };
    let Some(local) = pod.wait_for_local().await else {
        early(&"the pod is not known to the control plane");
        return None;
    };
    let target = match route::passthrough_inbound(dialled) {
        Ok(target) => target,
        Err(error) => {
            early(&error);
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
    let connection = Connection {
        identity: None,
        source_ip: source.ip(),
        destination_ip: target.ip(),
        destination_port: target.port(),
    };
    record.meter.traffic().open();
    if let Err(denied) = local.policies.check(&connection) {
        record.finish(started.elapsed(), ResponseFlag::Deny, Some(&denied.to_string()));
        let _ = tulle_net::socket::reset_on_close(&client);
        return Some(());
    }
    let app = registered
        .unless_closed(connect_app(pod, source, target))
        .await;
    let app = match app {
        Ok(Ok(app)) => app,
        Ok(Err(error)) => {
            let reason = format!("connect to the app failed: {error}");
            record.finish(started.elapsed(), ResponseFlag::Connect, Some(&reason));
            let _ = tulle_net::socket::reset_on_close(&client);
            return Some(());
        }
        Err(closed) => {
            let _ = tulle_net::socket::reset_on_close(&client);
            finish(&record, started, Err(closed));
            return Some(());
        }
    };
    let meter = SharedMeter(record.meter.clone());
    let relay = Relay::new(TcpSide::new(client), TcpSide::new(app), meter);
    finish(&record, started, Guarded::new(relay, registered).await);
    Some(())
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
        mark: Some(pod.settings().mark),
        source: spoof.then(|| client.ip()),
        ..ConnectOptions::default()
    };
    let dial = connect(&pod.spec.netns, target, &options);
    timeout(pod.settings().connect_timeout, dial)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
