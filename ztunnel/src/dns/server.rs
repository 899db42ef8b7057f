//! Answers the queries of one pod.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use fastrand::Rng;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tulle_net::udp;

use super::{
    answer::Client,
    message::{LONGEST, Query, Transport},
    names::Realm,
    servers::{Place, framed},
};
use crate::{
    proxy::{Local, Pod},
    telemetry::DnsLabels,
};

/// Answers what comes by one socket, until the pod is let go or the process drains. What has come by then is answered.
pub async fn serve(pod: Rc<Pod>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    // Until the rest is taken, more may come.
    let _opening = pod.live.opening();
    while let Some(received) = pod.drain.run_until_cancelled(udp::receive(&socket)).await {
        match received {
            Ok((message, from)) => take(&pod, &socket, message, from),
            // Out of memory, most likely: waiting is better than spinning.
            Err(error) => {
                tracing::debug!(%error, pod = %pod.spec.info.name, "DNS socket");
                sleep(PAUSE).await;
            }
        }
    }
    // Answers may take their time, and the next ztunnel is there already.
    if let Err(error) = udp::stop_receiving(&socket) {
        tracing::debug!(%error, pod = %pod.spec.info.name, "DNS socket keeps receiving");
        return;
    }
    while let Ok((message, from)) = udp::receive_now(&socket) {
        take(&pod, &socket, message, from);
    }
}

/// Answers one message by UDP: at once if the mesh knows, else as soon as somebody does.
fn take(pod: &Rc<Pod>, socket: &Rc<UdpSocket>, message: Vec<u8>, from: SocketAddr) {
    let Some(query) = read(pod, message, LONGEST) else {
        return;
    };
    let local = pod.local();
    if let Some(answer) = local.and_then(|local| by_mesh(pod, &local, &query, Transport::Udp)) {
        // Whoever does not get the answer asks again.
        let _ = socket.try_send_to(&answer, from);
        return;
    }
    let (pod, socket) = (pod.clone(), socket.clone());
    spawn_local(async move {
        let _opening = pod.live.opening();
        if let Some(answer) = by_name_server(&pod, &query, Transport::Udp).await {
            let _ = socket.send_to(&answer, from).await;
        }
    });
}

/// Answers what comes by one connection, each query when its answer is there.
pub async fn converse(pod: Rc<Pod>, stream: TcpStream, _: SocketAddr) {
    let Some(_room) = pod.dns.conversation() else {
        pod.shared().metrics.refuse("too_many_dns_queries");
        return;
    };
    if let Err(error) = answer_all(&pod, stream).await {
        tracing::debug!(%error, pod = %pod.spec.info.name, "DNS over TCP");
    }
}

async fn answer_all(pod: &Rc<Pod>, stream: TcpStream) -> io::Result<()> {
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
            () = pod.drain.cancelled(), if reading => reading = false,
            Some(answer) = answers.next() => {
                let answer: Option<Vec<u8>> = answer;
                let Some(answer) = answer else { return Ok(()) };
                timeout(PATIENCE, writer.write_all(&framed(&answer)?)).await??;
            }
            query = timeout(PATIENCE, queries.next()), if reading && answers.len() < MOST_ANSWERS => match query {
                Ok(Some(query)) => answers.push(respond(pod, query?.into())),
                Ok(None) => reading = false,
                Err(_) if answers.is_empty() => return Ok(()),
                Err(_) => {}
            },
        }
    }
    Ok(())
}

/// The answer to one message by TCP. `None` if there is nothing to be said.
async fn respond(pod: &Rc<Pod>, message: Vec<u8>) -> Option<Vec<u8>> {
    let query = read(pod, message, usize::MAX)?;
    let local = pod.local();
    match local.and_then(|local| by_mesh(pod, &local, &query, Transport::Tcp)) {
        Some(answer) => Some(answer),
        None => by_name_server(pod, &query, Transport::Tcp).await,
    }
}

fn read(pod: &Pod, message: Vec<u8>, longest: usize) -> Option<Query> {
    let query = (message.len() <= longest).then(|| Query::read(message));
    if query.is_none() {
        pod.shared().metrics.refuse("not_a_dns_query");
    }
    query.flatten()
}

/// What the mesh itself says. Takes no time.
fn by_mesh(pod: &Pod, local: &Local, query: &Query, transport: Transport) -> Option<Vec<u8>> {
    let dns = pod.settings().dns.as_ref()?;
    let (family, name) = (query.family()?, query.name()?);
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
    let known = client.look_up(&snapshot, &name, family, &mut Rng::new())?;
    let answer = query.answer(&known, transport)?;
    let labels = DnsLabels::new(query.kind(), transport.as_str(), &local.workload);
    let metrics = &pod.shared().metrics.dns;
    metrics.requests.get_or_create(&labels).inc();
    log(local, query, "mesh", known.addresses.len());
    Some(answer)
}

/// What a name server says, or that none says anything. Also waits until the pod itself is known.
async fn by_name_server(pod: &Rc<Pod>, query: &Query, transport: Transport) -> Option<Vec<u8>> {
    let metrics = &pod.shared().metrics;
    let Some(_room) = pod.dns.query(query.len()) else {
        metrics.refuse("too_many_dns_queries");
        return query.fail();
    };
    let waited = pod.local().is_none();
    let Some(local) = pod.wait_for_local().await else {
        metrics.refuse("unknown_workload");
        return query.fail();
    };
    if waited && let Some(answer) = by_mesh(pod, &local, query, transport) {
        return Some(answer);
    }
    let labels = DnsLabels::new(query.kind(), transport.as_str(), &local.workload);
    let metrics = &metrics.dns;
    metrics.requests.get_or_create(&labels).inc();
    metrics.upstream_requests.get_or_create(&labels).inc();
    let started = Instant::now();
    let place = Place {
        netns: &pod.spec.netns,
        mark: Some(pod.settings().mark),
    };
    let asked = pod.shared().name_servers.ask(place, query, transport);
    let answered = pod.gone.run_until_cancelled(asked).await?;
    let lasted = metrics.upstream_duration.get_or_create(&labels);
    lasted.observe(started.elapsed().as_secs_f64());
    match answered {
        Ok(reply) => {
            log(&local, query, "forwarded", 0);
            Some(reply)
        }
        Err(error) => {
            log(&local, query, &error.to_string(), 0);
            metrics.upstream_failures.get_or_create(&labels).inc();
            query.fail()
        }
    }
}

fn log(local: &Local, query: &Query, result: &str, endpoints: usize) {
    tracing::debug!(
        target: "dns",
        query = query.kind(),
        src.workload = %local.workload.name,
        src.namespace = %local.workload.namespace,
        domain = query.name(),
        result,
        endpoints,
        "query"
    );
}

/// Of one connection, at a time.
const MOST_ANSWERS: usize = 32;
/// How long a connection waits for the next query, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after an error of a socket.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes; most queries are shorter.
const SMALL: usize = 512;
