//! Tunnels from other pods: who is it, may it, then to the app.
//!
//! ```text
//! accept -> certificate -> TLS -> HTTP/2 -+-> CONNECT -> target -> policy -> app -> 200 -> relay -> access line
//!                                         +-> CONNECT ...
//! ```

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    task::Poll,
};

use http::{HeaderMap, HeaderName, Method, StatusCode, header::FORWARDED};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::spawn_local,
    time::{Instant, timeout},
};
use tulle_hbone::{Established, Incoming, Place, Relay, Server, TcpSide, Tunnel, tls};
use tulle_model::SpiffeId;
use tulle_policy::Connection;
use tulle_route::{
    self as route, Inbound, address_text,
    baggage::{self, Baggage},
    forwarded,
};
use tulle_telemetry::{SecurityPolicy, WorkloadLabels, describe, service_labels};

use super::{
    Pod,
    announce::proxy_header,
    live::{Addresses, Guarded, Registered},
    outbound::finish,
    passthrough::connect_app,
    pod::Local,
};
use crate::telemetry::{
    AccessRecord, Reporter, ResponseFlag, SharedMeter, TrafficLabels, TrafficMeter, early_failure,
};

/// One client's connection, with what its handshake proved.
struct Peer {
    pod: Rc<Pod>,
    address: SocketAddr,
    identity: SpiffeId,
    /// The pod's own address that the client dialled.
    local: IpAddr,
    /// Requests that the client gave up before they were answered, and those that were answered.
    abandoned: Cell<u32>,
    answered: Cell<u32>,
}

/// Takes one client connection, with every tunnel on it, to its end.
pub(super) async fn handle(pod: Rc<Pod>, tcp: TcpStream, address: SocketAddr) {
    let Some(place) = pod.handshakes.take(address.ip()) else {
        pod.shared().metrics.refuse("too_many_handshakes");
        return;
    };
    let gone = pod.gone.clone();
    gone.run_until_cancelled_owned(async move {
        let shaken = Box::pin(handshake(pod, tcp, address, place)).await;
        if let Some((server, peer, _established)) = shaken {
            serve(server, Rc::new(peer)).await;
        }
    })
    .await;
}

async fn handshake(
    pod: Rc<Pod>,
    tcp: TcpStream,
    address: SocketAddr,
    place: Place,
) -> Option<(Box<Server>, Peer, Established)> {
    let limit = pod.settings().handshake_timeout;
    let started = timeout(limit, start(&pod, tcp)).await;
    let (reason, error) = match started {
        Ok(Ok((server, identity, local))) => {
            let peer = Peer {
                pod,
                address,
                identity,
                local,
                abandoned: Cell::new(0),
                answered: Cell::new(0),
            };
            return Some((server, peer, place.establish()));
        }
        Ok(Err(failed)) => failed,
        Err(_) => ("timeout", "handshake timed out".to_owned()),
    };
    pod.shared().metrics.handshake_failed(reason);
    early_failure("inbound", address, None, &error);
    None
}

type HandshakeFailed = (&'static str, String);

async fn start(
    pod: &Rc<Pod>,
    tcp: TcpStream,
) -> Result<(Box<Server>, SpiffeId, IpAddr), HandshakeFailed> {
    let local_address = tcp.local_addr();
    let local_address = local_address.map_err(|error| ("socket", error.to_string()))?;
    let Some(local) = pod.wait_for_local().await else {
        let error = "the pod is not known to the control plane";
        return Err(("unknown_workload", error.to_owned()));
    };
    let svid = pod.shared().svids.get(&local.workload.identity).await;
    let svid = svid.map_err(|error| ("no_certificate", error.to_string()))?;
    let accepted = tls::accept(tcp, svid.server_config().clone()).await;
    let (io, identity) = accepted.map_err(|error| ("tls", describe(&error)))?;
    let server = Server::start(io, &pod.settings().http2).await;
    let server = server.map_err(|error| ("http2", describe(&error)))?;
    Ok((
        Box::new(server),
        identity,
        local_address.ip().to_canonical(),
    ))
}

async fn serve(mut server: Box<Server>, peer: Rc<Peer>) {
    let drain = peer.pod.drain.clone();
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled(), if !draining => {
                server.drain();
                draining = true;
                continue;
            }
            accepted = server.accept() => accepted,
        };
        match accepted {
            Ok(Some(_)) if peer.is_abusive() => {
                peer.pod.shared().metrics.refuse("rapid_reset");
                server.abort(h2::Reason::ENHANCE_YOUR_CALM);
            }
            Ok(Some(incoming)) => {
                spawn_local(terminate(peer.clone(), incoming));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(peer = %peer.address, error = describe(&error), "tunnel connection ended");
                return;
            }
        }
    }
}

/// One tunnel: from the request to the end of the connection.
async fn terminate(peer: Rc<Peer>, incoming: Incoming) {
    let started = Instant::now();
    let Some(opened) = Box::pin(open(&peer, incoming, started)).await else {
        return;
    };
    let (relay, record) = opened.join();
    let ended = relay.await;
    finish(&record, started, ended);
}

/// A tunnel whose app is connected.
struct Opened {
    tunnel: Tunnel,
    app: TcpStream,
    registered: Registered,
    record: Box<AccessRecord>,
}

impl Opened {
    /// Not async, so that the task keeps no copies of what is moved.
    fn join(self) -> (Guarded<Tunnel, TcpSide, SharedMeter>, Box<AccessRecord>) {
        let meter = SharedMeter(self.record.meter.clone());
        let relay = Relay::new(self.tunnel, TcpSide::new(self.app), meter);
        (Guarded::new(relay, self.registered), self.record)
    }
}

async fn open(peer: &Rc<Peer>, mut incoming: Incoming, started: Instant) -> Option<Opened> {
    let pod = &peer.pod;
    let (local, target) = match resolve(peer, &incoming) {
        Ok(resolved) => resolved,
        Err((status, error)) => {
            early_failure("inbound", peer.address, None, &error);
            pod.shared().metrics.refuse("bad_request");
            peer.answer(incoming, status);
            return None;
        }
    };
    let addresses = Addresses {
        source: peer.address,
        original: target.target,
        actual: target.target,
        tunnelled: true,
    };
    let registered = pod
        .live
        .register_inbound(addresses, Some(peer.identity.clone()));
    let tunnel = (&peer.identity, incoming.headers());
    let record = record(pod, &local, peer.address, target.target, Some(tunnel));
    record.meter.traffic().open();
    let connection = Connection {
        identity: Some(&peer.identity),
        source_ip: peer.address.ip(),
        destination_ip: target.target.ip(),
        destination_port: target.target.port(),
    };
    if let Err(denied) = local.policies.check(&connection) {
        record.finish(
            started.elapsed(),
            ResponseFlag::Deny,
            Some(&denied.to_string()),
        );
        peer.answer(incoming, StatusCode::UNAUTHORIZED);
        return None;
    }
    let app = registered
        .unless_closed(unless_abandoned(&mut incoming, reach_app(peer, &target)))
        .await;
    match app {
        Ok(Some(Ok(app))) => {
            let mut headers = HeaderMap::new();
            headers.insert(BAGGAGE, local.baggage.clone());
            peer.answered.set(peer.answered.get() + 1);
            match incoming.accept(headers) {
                Ok(tunnel) => {
                    return Some(Opened {
                        tunnel,
                        app,
                        registered,
                        record: Box::new(record),
                    });
                }
                Err(error) => {
                    let reason = describe(&error);
                    record.finish(started.elapsed(), ResponseFlag::Connect, Some(&reason));
                }
            }
        }
        Ok(Some(Err(error))) => {
            let reason = format!("connect to the app failed: {error}");
            record.finish(started.elapsed(), ResponseFlag::Connect, Some(&reason));
            peer.answer(incoming, StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(None) => {
            peer.abandoned.set(peer.abandoned.get() + 1);
            let reason = "the client gave up";
            record.finish(started.elapsed(), ResponseFlag::Connect, Some(reason));
        }
        Err(closed) => {
            peer.answer(incoming, StatusCode::UNAUTHORIZED);
            finish(&record, started, Err(closed));
        }
    }
    None
}

/// What a request asks for, and where that is.
fn resolve(peer: &Peer, incoming: &Incoming) -> Result<(Local, Inbound), (StatusCode, String)> {
    if incoming.method() != Method::CONNECT {
        return Err((StatusCode::BAD_REQUEST, "not a CONNECT request".to_owned()));
    }
    let Some(local) = peer.pod.local() else {
        let error = "the pod is not known to the control plane";
        return Err((StatusCode::SERVICE_UNAVAILABLE, error.to_owned()));
    };
    let snapshot = peer.pod.shared().snapshots.load();
    let authority = incoming.authority();
    match route::inbound(&snapshot, &local.workload, peer.local, authority) {
        Ok(target) => Ok((local, target)),
        Err(error) => Err((error.status(), error.to_string())),
    }
}

/// Connects to the app, and tells it who is calling if it wants to be told.
async fn reach_app(peer: &Peer, target: &Inbound) -> io::Result<TcpStream> {
    let Some(announce) = &target.proxy_header else {
        return connect_app(&peer.pod, peer.address, target.target).await;
    };
    // The app learns the client's address from the header, so it may listen on loopback alone.
    let mut address = target.target;
    address.set_ip(match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    });
    let mut app = connect_app(&peer.pod, address, address).await?;
    let header = proxy_header(peer.address, announce.destination, &peer.identity);
    app.write_all(&header).await?;
    Ok(app)
}

/// Runs `work` unless the client gives up first.
async fn unless_abandoned<T>(
    incoming: &mut Incoming,
    work: impl Future<Output = io::Result<T>>,
) -> Option<io::Result<T>> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if incoming.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

impl Peer {
    fn answer(&self, incoming: Incoming, status: StatusCode) {
        self.answered.set(self.answered.get() + 1);
        incoming.refuse(status);
    }

    /// A client that keeps opening tunnels only to reset them costs work that no limit on open streams counts.
    fn is_abusive(&self) -> bool {
        let abandoned = self.abandoned.get();
        abandoned > MAX_ABANDONED && abandoned > self.answered.get()
    }
}

/// Counters and access line of an inbound connection to `target`. `tunnel` is who opened it and with which headers,
/// unless it came in the clear.
pub(super) fn record(
    pod: &Pod,
    local: &Local,
    source: SocketAddr,
    target: SocketAddr,
    tunnel: Option<(&SpiffeId, &HeaderMap)>,
) -> AccessRecord {
    let snapshot = pod.shared().snapshots.load();
    let client = snapshot.workload_by_address(&pod.shared().network, source.ip());
    let headers = tunnel.map(|(_, headers)| headers);
    let source_labels = match (client, headers) {
        (Some(client), _) => WorkloadLabels::of(client),
        (None, Some(headers)) => claimed(headers),
        (None, None) => WorkloadLabels::default(),
    };
    let forwarded = headers.and_then(|headers| headers.get(FORWARDED));
    let hint = forwarded.and_then(|value| forwarded::host(value.as_bytes()));
    let service = route::inbound_service(&snapshot, &local.workload, hint, target.port());
    let labels = TrafficLabels {
        reporter: Reporter::Destination,
        source: source_labels,
        source_principal: tunnel.map(|(identity, _)| identity.clone()),
        destination: WorkloadLabels::of(&local.workload),
        destination_principal: tunnel.map(|_| local.workload.identity.clone()),
        service: service.as_deref().map(service_labels),
        security: match tunnel {
            Some(_) => SecurityPolicy::MutualTls,
            None => SecurityPolicy::Unknown,
        },
        flag: ResponseFlag::None,
    };
    let traffic = pod.thread.traffic.resolve(&pod.shared().metrics, labels);
    AccessRecord {
        source,
        destination: target,
        hbone_authority: tunnel.map(|_| address_text(target)),
        meter: TrafficMeter::new(traffic),
    }
}

/// What a client says of itself: for labels, when nothing better is known, and for nothing else.
fn claimed(headers: &HeaderMap) -> WorkloadLabels {
    let lines = headers.get_all(baggage::HEADER).iter();
    let claims = Baggage::parse(lines.map(http::HeaderValue::as_bytes));
    let text = |claim: Option<Box<str>>| claim.map(Into::into).unwrap_or_default();
    WorkloadLabels {
        workload: text(claims.workload_name),
        canonical_service: text(claims.canonical_name),
        canonical_revision: text(claims.canonical_revision),
        namespace: text(claims.namespace),
        cluster: text(claims.cluster_id),
        region: text(claims.region),
        zone: text(claims.zone),
    }
}

const BAGGAGE: HeaderName = HeaderName::from_static(baggage::HEADER);
/// Requests that a client may give up on one connection before it must also have taken some answers.
const MAX_ABANDONED: u32 = 100;

/// Size of the task of one tunnel.
#[cfg(test)]
pub(super) fn tunnel_size() -> usize {
    fn size<F>(_: fn(Rc<Peer>, Incoming) -> F) -> usize {
        size_of::<F>()
    }
    size(terminate)
}
