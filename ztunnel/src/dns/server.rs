//! Answers the queries of one pod.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    rc::Rc,
    time::Duration,
};

use fastrand::Rng;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream, UdpSocket},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tulle_net::{
    Netns,
    listen::{ListenOptions, Transparent, listen},
    udp,
};

use super::{
    DnsSettings,
    answer::Client,
    message::{Query, Transport},
    names::Realm,
    servers::{Place, framed},
};
use crate::{
    proxy::{Opening, Pod, ProxySettings},
    telemetry::DnsLabels,
};

/// The sockets that a pod's queries arrive at.
#[derive(Debug, Default)]
pub struct DnsSockets {
    udp: Vec<StdUdpSocket>,
    tcp: Vec<StdTcpListener>,
}

impl DnsSockets {
    /// Opens them in a pod. An address that the pod does not have, as that of a family which it does without, is left out.
    ///
    /// # Errors
    /// If there is none to listen on, or one is taken.
    pub fn open(netns: &Netns, dns: &DnsSettings, settings: &ProxySettings) -> io::Result<Self> {
        let mut sockets = Self::default();
        let mut missing = None;
        for ip in &dns.addresses {
            let addr = SocketAddr::new(*ip, dns.port);
            match sockets.open_at(netns, addr, settings) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    missing = Some(error);
                }
                Err(error) => {
                    let text = format!("listen for DNS on {addr}: {error}");
                    return Err(io::Error::new(error.kind(), text));
                }
                Ok(()) => {}
            }
        }
        match missing {
            Some(error) if sockets.udp.is_empty() => Err(error),
            _ => Ok(sockets),
        }
    }

    fn open_at(
        &mut self,
        netns: &Netns,
        addr: SocketAddr,
        settings: &ProxySettings,
    ) -> io::Result<()> {
        let udp = udp::bind(netns, addr, settings.reuse_port)?;
        let options = ListenOptions {
            mark: Some(settings.mark),
            // What is captured keeps the address that the app dialled.
            transparent: Transparent::Required,
            reuse_port: settings.reuse_port,
            local: true,
            ..ListenOptions::new(addr)
        };
        self.tcp.push(listen(netns, &options)?.socket);
        self.udp.push(udp);
        Ok(())
    }
}

/// Answers until the pod is let go or the process drains; what was asked by then is answered.
///
/// # Errors
/// When a socket cannot be handed to the runtime.
pub fn serve(pod: &Rc<Pod>, sockets: DnsSockets) -> io::Result<()> {
    let open = Rc::new(Cell::new(0));
    for socket in sockets.udp {
        let socket = Rc::new(UdpSocket::from_std(socket)?);
        spawn_local(serve_udp(pod.clone(), socket, open.clone()));
    }
    for listener in sockets.tcp {
        let listener = TcpListener::from_std(listener)?;
        spawn_local(serve_tcp(pod.clone(), listener, open.clone()));
    }
    Ok(())
}

async fn serve_udp(pod: Rc<Pod>, socket: Rc<UdpSocket>, open: Rc<Cell<usize>>) {
    let take = |query, from| {
        let Some(open) = Open::one_more(&pod, &open) else {
            return;
        };
        let (pod, socket) = (pod.clone(), socket.clone());
        spawn_local(async move {
            if let Some(reply) = respond(&pod, query, Transport::Udp).await {
                // Whoever does not take the answer asks again.
                let _ = socket.send_to(&reply, from).await;
            }
            drop(open);
        });
    };
    while let Some(received) = pod.drain.run_until_cancelled(udp::receive(&socket)).await {
        match received {
            Ok((query, from)) => take(query, from),
            // The kernel reports here that an earlier answer was not taken.
            Err(error) => {
                tracing::debug!(%error, pod = %pod.spec.info.name, "DNS socket");
                sleep(PAUSE).await;
            }
        }
    }
    while let Ok((query, from)) = udp::receive_now(&socket) {
        take(query, from);
    }
}

async fn serve_tcp(pod: Rc<Pod>, listener: TcpListener, open: Rc<Cell<usize>>) {
    while let Some(accepted) = pod.drain.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let Some(open) = Open::one_more(&pod, &open) else {
                    continue;
                };
                let pod = pod.clone();
                spawn_local(async move {
                    if let Err(error) = converse(&pod, stream).await {
                        tracing::debug!(%error, pod = %pod.spec.info.name, "DNS over TCP");
                    }
                    drop(open);
                });
            }
            Err(error) => {
                tracing::warn!(%error, kind = "dns", pod = %pod.spec.info.name, "accept failed");
                pod.shared().metrics.refuse("accept_error");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Queries and connections of a pod that are being answered. Beyond some, those that come are dropped.
struct Open {
    count: Rc<Cell<usize>>,
    _opening: Opening,
}

impl Open {
    fn one_more(pod: &Pod, count: &Rc<Cell<usize>>) -> Option<Self> {
        if count.get() >= MOST_OPEN {
            pod.shared().metrics.refuse("too_many_dns_queries");
            return None;
        }
        count.set(count.get() + 1);
        Some(Self {
            count: count.clone(),
            _opening: pod.live.opening(),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

/// Answers what comes by one connection, each query when its answer is there.
async fn converse(pod: &Rc<Pod>, stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(2)
        .new_codec();
    let mut queries = FramedRead::with_capacity(reader, codec, SMALL);
    let mut answers = FuturesUnordered::new();
    let mut reading = true;
    while reading || !answers.is_empty() {
        tokio::select! {
            () = pod.gone.cancelled() => return Ok(()),
            Some(answer) = answers.next() => {
                let Some(answer) = answer else { return Ok(()) };
                let answer: Vec<u8> = answer;
                timeout(REQUEST, writer.write_all(&framed(&answer)?)).await??;
            }
            query = timeout(REQUEST, queries.next()), if reading && answers.len() < MOST_ANSWERS => match query {
                Ok(Some(query)) => answers.push(respond(pod, query?.into(), Transport::Tcp)),
                Ok(None) => reading = false,
                Err(_) if answers.is_empty() => return Ok(()),
                Err(_) => {}
            },
        }
    }
    Ok(())
}

/// The answer to one message. `None` if there is nothing to be said.
async fn respond(pod: &Rc<Pod>, message: Vec<u8>, transport: Transport) -> Option<Vec<u8>> {
    let Some(dns) = &pod.settings().dns else {
        return None;
    };
    let metrics = &pod.shared().metrics;
    let Some(query) = Query::read(message) else {
        metrics.refuse("not_a_dns_query");
        return None;
    };
    let Some(local) = pod.wait_for_local().await else {
        metrics.refuse("unknown_workload");
        return query.fail();
    };
    let labels = DnsLabels::new(query.kind(), transport.as_str(), &local.workload);
    metrics.dns.requests.get_or_create(&labels).inc();
    let name = query.name();
    let log = |result: &str, endpoints: usize| {
        tracing::debug!(
            target: "dns",
            query = query.kind(),
            src.workload = %local.workload.name,
            src.namespace = %local.workload.namespace,
            domain = name.as_deref().unwrap_or_default(),
            result,
            endpoints,
            "query"
        );
    };
    if let (Some(family), Some(name)) = (query.family(), &name) {
        let client = Client {
            realm: Realm {
                namespace: &local.workload.namespace,
                domain: &dns.domain,
            },
            workload: &local.workload,
            preferred: dns.preferred.as_deref(),
            ipv6: dns.ipv6,
        };
        let snapshot = pod.shared().snapshots.load();
        let known = client.look_up(&snapshot, name, family, &mut Rng::new());
        if let Some(known) = known
            && let Some(answer) = query.answer(&known, transport)
        {
            log("mesh", known.addresses.len());
            return Some(answer);
        }
    }
    metrics.dns.upstream_requests.get_or_create(&labels).inc();
    let started = Instant::now();
    let place = Place {
        pod: &pod.spec.netns,
        mark: pod.settings().mark,
    };
    let asked = pod.shared().name_servers.ask(place, &query, transport);
    let answered = pod.gone.run_until_cancelled(asked).await?;
    let lasted = metrics.dns.upstream_duration.get_or_create(&labels);
    lasted.observe(started.elapsed().as_secs_f64());
    match answered {
        Ok(reply) => {
            log("forwarded", 0);
            Some(reply)
        }
        Err(error) => {
            log(&error.to_string(), 0);
            metrics.dns.upstream_failures.get_or_create(&labels).inc();
            query.fail()
        }
    }
}

/// Of one pod, at a time.
const MOST_OPEN: usize = 512;
/// Of one connection, at a time.
const MOST_ANSWERS: usize = 32;
/// How long a connection waits for the next query, and an answer to be taken.
const REQUEST: Duration = Duration::from_secs(5);
/// Pause after an error of a socket.
const PAUSE: Duration = Duration::from_millis(50);
/// Most queries are shorter.
const SMALL: usize = 512;
