//! Connections that the pod's app makes.
//!
//! ```text
//! accept -> original destination -> own workload -> route -+------------+-> tunnel (pooled) -+-> relay -> access line
//!                                                          +-> a name --+-> plain TCP -------+
//! ```

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use smallvec::SmallVec;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tulle_hbone::{Broken, ConnectError, DialFuture, Relay, RelayEnd, TcpSide, Tunnel, tls};
use tulle_model::{Service, SpiffeId, Uid};
use tulle_net::{
    connect::{ConnectOptions, connect},
    original_dst::original_dst,
};

use failed::Failed;

use super::{
    Pod,
    live::{Addresses, Closed, Guarded},
    pod::{Local, PoolKey},
};
use crate::telemetry::{
    AccessRecord, Reporter, ResponseFlag, SharedMeter, TrafficLabels, TrafficMeter, early_failure,
};
use tulle_route::{self as route, Named, Outbound, Route, connect_request};
use tulle_state::Workload;
use tulle_telemetry::{SecurityPolicy, WorkloadLabels, service_labels};

mod by_name;
mod failed;

/// Takes one captured connection to its end.
pub(super) async fn handle(pod: Rc<Pod>, app: TcpStream, source: SocketAddr) {
    let started = Instant::now();
    // The way to a connection needs much more room than the connection itself: it is freed when done.
    let prepared = Box::pin(prepare(&pod, &app, source, started)).await;
    let Some(prepared) = prepared else {
        refuse(app);
        return;
    };
    let (relay, record) = prepared.join(&pod, app);
    let ended = relay.await;
    finish(&record, started, ended);
}

/// Lets the app see an error and not an orderly end, which it could take for an empty answer.
fn refuse(app: TcpStream) {
    let _ = tulle_net::socket::reset_on_close(&app);
}

/// A connection to the next hop, and what to write about it.
struct Prepared {
    upstream: Upstream,
    addresses: Addresses,
    /// The workload at the other end of the tunnel, if there is one.
    server: Option<Uid>,
    record: Box<AccessRecord>,
}

enum Upstream {
    Tunnel(Tunnel),
    Plain(TcpStream),
}

async fn prepare(
    pod: &Rc<Pod>,
    app: &TcpStream,
    source: SocketAddr,
    started: Instant,
) -> Option<Prepared> {
    let dialled = match original_dst(app, pod.settings().outbound_port) {
        Ok(dialled) => dialled,
        Err(error) => {
            early_failure("outbound", source, None, &error);
            return None;
        }
    };
    let Some(local) = pod.wait_for_local().await else {
        let error = "the pod is not known to the control plane";
        early_failure("outbound", source, Some(dialled), &error);
        pod.shared().metrics.refuse("unknown_workload");
        return None;
    };
    match connect_upstream(pod, &local, source, dialled).await {
        Ok((upstream, hop)) => {
            let addresses = Addresses {
                source,
                original: dialled,
                actual: hop.address,
                tunnelled: hop.authority.is_some(),
            };
            let server = hop.workload.as_ref().filter(|_| addresses.tunnelled);
            let server = server.map(|workload| workload.uid.clone());
            let record = hop.record(pod, &local, source);
            record.meter.traffic().open();
            Some(Prepared {
                upstream,
                addresses,
                server,
                record: Box::new(record),
            })
        }
        Err((failed, None)) => {
            early_failure("outbound", source, Some(dialled), &failed);
            pod.shared().metrics.refuse("no_route");
            None
        }
        Err((failed, Some(hop))) => {
            let record = hop.record(pod, &local, source);
            record.meter.traffic().open();
            record.finish(started.elapsed(), failed.flag(), Some(&failed.to_string()));
            None
        }
    }
}

/// Finds a next hop and connects to it; another endpoint is tried when the first cannot be reached at all.
async fn connect_upstream(
    pod: &Rc<Pod>,
    local: &Local,
    source: SocketAddr,
    dialled: SocketAddr,
) -> Result<(Upstream, Hop), (Failed, Option<Hop>)> {
    let mut unreachable: SmallVec<[Uid; 2]> = SmallVec::new();
    let mut last: Option<(Failed, Option<Hop>)> = None;
    let mut attempts = MAX_ATTEMPTS;
    while attempts > 0 {
        let snapshot = pod.shared().snapshots.load();
        let mut rng = fastrand::Rng::new();
        let route = route::outbound(&snapshot, &local.workload, dialled, &unreachable, &mut rng);
        let route = match (route, last.take()) {
            (Ok(route), _) => route,
            // No other endpoint: what the first one said is worth more.
            (Err(_), Some(failed)) => return Err(failed),
            (Err(error), None) => return Err((error.into(), None)),
        };
        let connected = match route {
            Route::To(outbound) => {
                attempts -= 1;
                connect_hop(pod, local, source, outbound).await
            }
            Route::ByName(named) => {
                let exclude = &unreachable;
                let connecting =
                    by_name::connect(pod, local, source, dialled, named, exclude, &mut attempts);
                // The rare way, and a long one.
                Box::pin(connecting).await
            }
        };
        let (failed, hop) = match connected {
            Ok(connected) => return Ok(connected),
            Err(failed) => failed,
        };
        let uid = hop.workload.as_ref().map(|workload| workload.uid.clone());
        let again = failed.is_retryable() && hop.service.is_some();
        last = Some((failed, Some(hop)));
        match uid {
            Some(uid) if again => unreachable.push(uid),
            _ => break,
        }
    }
    // At least one round was made, and only failures fall through.
    Err(last.unwrap_or((Failed::Connect(io::ErrorKind::NotFound.into()), None)))
}

async fn connect_hop(
    pod: &Rc<Pod>,
    local: &Local,
    source: SocketAddr,
    route: Outbound,
) -> Result<(Upstream, Hop), (Failed, Hop)> {
    let hop = Hop::of(&route);
    match connect_to(pod, local, source, route, &hop).await {
        Ok(upstream) => Ok((upstream, hop)),
        Err(failed) => Err((failed, hop)),
    }
}

async fn connect_to(
    pod: &Rc<Pod>,
    local: &Local,
    source: SocketAddr,
    route: Outbound,
    hop: &Hop,
) -> Result<Upstream, Failed> {
    let authority = hop.authority.as_deref().unwrap_or_default();
    match route {
        Outbound::Passthrough { addr } | Outbound::Plain { addr, .. } => {
            let options = ConnectOptions {
                mark: Some(pod.settings().mark),
                keepalive: pod.settings().keepalive,
                ..ConnectOptions::default()
            };
            let dial = connect(&pod.spec.netns, addr, &options);
            let dialled = timeout(pod.settings().connect_timeout, dial).await;
            let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            dialled.map(Upstream::Plain).map_err(Failed::Connect)
        }
        Outbound::Hbone {
            next_hop,
            workload,
            expected,
            service,
            ..
        } => {
            let key = PoolKey {
                source: local.workload.identity.clone(),
                destination: workload.uid.clone(),
                next_hop,
                expected: expected.into_iter().collect(),
            };
            let request = || connect_request(authority, &local.baggage, source, service.as_deref());
            let opened = pod.pool.open(&key, request, || dial(pod, &key)).await;
            opened
                .map(|(tunnel, _)| Upstream::Tunnel(tunnel))
                .map_err(Failed::Tunnel)
        }
    }
}

/// TCP from inside the pod, then TLS as the pod.
fn dial(pod: &Rc<Pod>, key: &PoolKey) -> DialFuture {
    let (pod, key) = (pod.clone(), key.clone());
    Box::pin(async move {
        let settings = pod.settings();
        let svid = pod.shared().svids.get(&key.source).await;
        let svid = svid.map_err(|error| ConnectError::Certificate(error.to_string()))?;
        let peer = key.next_hop;
        let options = ConnectOptions {
            mark: Some(settings.mark),
            keepalive: settings.keepalive,
            ..ConnectOptions::default()
        };
        let tcp = timeout(
            settings.connect_timeout,
            connect(&pod.spec.netns, peer, &options),
        )
        .await
        .map_err(|_| ConnectError::TcpTimeout { peer })?
        .map_err(|source| ConnectError::Tcp { peer, source })?;
        let config = svid.client_config().clone();
        let (io, _) = timeout(
            settings.handshake_timeout,
            tls::connect(tcp, config, &key.expected),
        )
        .await
        .map_err(|_| ConnectError::HandshakeTimeout)??;
        Ok((io, Pod::usable_until(svid.not_after())))
    })
}

/// Where a connection goes, for the record.
struct Hop {
    address: SocketAddr,
    workload: Option<Arc<Workload>>,
    service: Option<Arc<Service>>,
    authority: Option<String>,
}

impl Hop {
    fn of(route: &Outbound) -> Self {
        match route {
            Outbound::Passthrough { addr } => Self {
                address: *addr,
                workload: None,
                service: None,
                authority: None,
            },
            Outbound::Plain {
                addr,
                workload,
                service,
            } => Self {
                address: *addr,
                workload: Some(workload.clone()),
                service: service.clone(),
                authority: None,
            },
            Outbound::Hbone {
                next_hop,
                workload,
                authority,
                service,
                ..
            } => Self {
                address: *next_hop,
                workload: Some(workload.clone()),
                service: service.clone(),
                authority: Some(authority.to_text()),
            },
        }
    }

    /// One that was not found: told by what the app dialled.
    fn nowhere(named: Named, dialled: SocketAddr) -> Self {
        Self {
            address: dialled,
            workload: Some(named.workload),
            service: Some(named.record.service.clone()),
            authority: None,
        }
    }

    fn record(self, pod: &Pod, local: &Local, source: SocketAddr) -> AccessRecord {
        let tunnelled = self.authority.is_some();
        let identity_of = |workload: &Arc<Workload>| -> SpiffeId { workload.identity.clone() };
        let labels = TrafficLabels {
            reporter: Reporter::Source,
            source: WorkloadLabels::of(&local.workload),
            source_principal: tunnelled.then(|| local.workload.identity.clone()),
            destination: self
                .workload
                .as_deref()
                .map(WorkloadLabels::of)
                .unwrap_or_default(),
            destination_principal: self
                .workload
                .as_ref()
                .filter(|_| tunnelled)
                .map(identity_of),
            service: self.service.as_deref().map(service_labels),
            security: if tunnelled {
                SecurityPolicy::MutualTls
            } else {
                SecurityPolicy::Unknown
            },
            flag: ResponseFlag::None,
        };
        let traffic = pod.thread.traffic.resolve(&pod.shared().metrics, labels);
        AccessRecord {
            source,
            destination: self.address,
            hbone_authority: self.authority,
            meter: TrafficMeter::new(traffic),
        }
    }
}

/// The relay of one connection.
#[expect(
    clippy::large_enum_variant,
    reason = "plain TCP is the exception, so only tunnels lie in the task itself"
)]
enum Joined {
    Tunnel(Guarded<TcpSide, Tunnel, SharedMeter>),
    Plain(Box<Guarded<TcpSide, TcpSide, SharedMeter>>),
}

impl Future for Joined {
    type Output = Result<RelayEnd, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Tunnel(relay) => Pin::new(relay).poll(cx),
            Self::Plain(relay) => Pin::new(relay).poll(cx),
        }
    }
}

impl Prepared {
    /// Joins the app and the next hop. Not async, so that the task keeps no copies of what is moved.
    fn join(self, pod: &Rc<Pod>, app: TcpStream) -> (Joined, Box<AccessRecord>) {
        let registered = pod.live.register_outbound(self.addresses, self.server);
        let meter = SharedMeter(self.record.meter.clone());
        let app = TcpSide::new(app);
        let joined = match self.upstream {
            Upstream::Tunnel(tunnel) => {
                Joined::Tunnel(Guarded::new(Relay::new(app, tunnel, meter), registered))
            }
            Upstream::Plain(tcp) => {
                let relay = Relay::new(app, TcpSide::new(tcp), meter);
                Joined::Plain(Box::new(Guarded::new(relay, registered)))
            }
        };
        (joined, self.record)
    }
}

/// Writes what became of a relayed connection.
pub(super) fn finish(record: &AccessRecord, started: Instant, ended: Result<RelayEnd, Closed>) {
    let lasted = started.elapsed();
    match ended {
        Ok(RelayEnd::Complete) => record.finish(lasted, ResponseFlag::None, None),
        Ok(RelayEnd::LeftBroken(Broken::Reset)) => {
            record.finish(lasted, ResponseFlag::Connect, Some("reset by the client"));
        }
        Ok(RelayEnd::RightBroken(Broken::Reset)) => {
            record.finish(lasted, ResponseFlag::Connect, Some("reset by the server"));
        }
        Ok(RelayEnd::LeftBroken(Broken::Error(error))) => {
            let reason = format!("client side failed: {error}");
            record.finish(lasted, ResponseFlag::Connect, Some(&reason));
        }
        Ok(RelayEnd::RightBroken(Broken::Error(error))) => {
            let reason = format!("server side failed: {error}");
            record.finish(lasted, ResponseFlag::Connect, Some(&reason));
        }
        Err(Closed::Policy(denied)) => {
            let reason = format!("closed due to policy change: {denied}");
            record.finish(lasted, ResponseFlag::Deny, Some(&reason));
        }
        Err(Closed::PodGone) => {
            record.finish(lasted, ResponseFlag::Connect, Some("the pod is gone"));
        }
        Err(Closed::ServerGone) => {
            let reason = "the server's pod is gone";
            record.finish(lasted, ResponseFlag::Connect, Some(reason));
        }
    }
}

/// Endpoints of a service, and addresses of their names, that one connection tries.
const MAX_ATTEMPTS: usize = 3;
