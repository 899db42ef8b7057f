//! Names: those of services are answered in the pod that asks, all others by the node's name servers.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};
use tulle_lab::{Pod, Program, sandbox::Sandbox};
use tulle_net::udp;

use crate::{
    name_server::{NameServer, echo, framed, read_framed, start, unnumbered},
    traffic::{eventually, soon},
    world::{self, CART, LEGACY, NEIGHBOUR, VISITOR, WEB, same_family},
};

/// What the C library makes of names, by UDP and by TCP: the mesh answers, whatever server the app has.
pub(crate) async fn services(sandbox: Sandbox) -> Result<()> {
    let (mesh, files) = start(&sandbox).await?;
    let service = mesh.lab().service(WEB).addresses().to_vec();
    // Nobody listens there.
    let server = mesh.pod(NEIGHBOUR).ip();
    files.name_servers(&[server])?;
    for options in ["ndots:5", "ndots:5 use-vc", "ndots:5 edns0"] {
        let search = "shop.svc.cluster.local svc.cluster.local cluster.local";
        let conf = files.write(
            "client.conf",
            &format!("nameserver {server}\nsearch {search}\noptions {options} attempts:1\n"),
        )?;
        for name in [
            "web",
            "web.shop",
            "web.shop.svc",
            "web.shop.svc.cluster.local",
        ] {
            for address in &service {
                let family = if address.is_ipv4() {
                    "ahostsv4"
                } else {
                    "ahostsv6"
                };
                let found = getent(mesh.pod(CART), &conf, family, name).await?;
                ensure!(
                    found == [*address],
                    "{name} with {options}: {found:?}, not {address}"
                );
            }
        }
        let unknown = getent(mesh.pod(CART), &conf, "ahosts", "nobody.example").await?;
        ensure!(unknown.is_empty(), "nobody.example: {unknown:?}");
        let outside = getent(mesh.pod(VISITOR), &conf, "ahosts", "web.shop").await?;
        ensure!(outside.is_empty(), "outside the mesh: {outside:?}");
    }
    let metrics = mesh.ztunnel("node1").metrics().await?;
    for protocol in ["udp", "tcp"] {
        for kind in ["A", "AAAA"] {
            let labels = [
                ("request_protocol", protocol),
                ("request_query_type", kind),
                ("source_canonical_service", "cart"),
            ];
            for name in ["requests", "upstream_requests", "upstream_failures"] {
                let count = metrics.sum(&format!("istio_dns_{name}_total"), &labels);
                ensure!(count >= 1.0, "{name} {labels:?}: {count}");
            }
        }
    }
    Ok(())
}

/// What is not the mesh's reaches a name server byte for byte, and so does the answer; a server that is down is passed over.
pub(crate) async fn forwarded(sandbox: Sandbox) -> Result<()> {
    let (mesh, files) = start(&sandbox).await?;
    let client = mesh.pod(CART);
    let (dead, alive) = (mesh.pod(NEIGHBOUR), mesh.pod(LEGACY));
    let server = NameServer::start(alive.netns(), &["::"])?;
    for like in alive.addresses() {
        let same = |pod: &Pod| same_family(pod.addresses(), *like);
        files.name_servers(&[same(dead), *like])?;
        // The app's own choice plays no part.
        let asked = SocketAddr::new(same(dead), 53);
        eventually("the name servers are those", async || {
            ask_udp(client, asked, &query(b"", 16)).await.is_ok()
        })
        .await?;
        server.forget();
        for query in [
            query(b"", 16),
            query(b"\x02\x00", 1),
            query(b"", 65_280),
            update(),
        ] {
            let by_udp = ask_udp(client, asked, &query).await?;
            let by_tcp = ask_tcp(client, asked, &query).await?;
            let expected = echo(&query, 0);
            ensure!(by_udp == expected, "by UDP: {by_udp:?}");
            ensure!(by_tcp == expected, "by TCP: {by_tcp:?}");
            let seen = server.take();
            ensure!(seen == [unnumbered(&query), unnumbered(&query)], "{seen:?}");
        }
    }
    Ok(())
}

/// A name server that says nothing costs a second, one that refuses or fails nothing; what the last one says counts.
pub(crate) async fn passed_over(sandbox: Sandbox) -> Result<()> {
    let (mesh, files) = start(&sandbox).await?;
    let client = mesh.pod(CART);
    let (silent, refusing) = (mesh.pod(NEIGHBOUR), mesh.pod(VISITOR));
    let _unread = udp::bind(silent.netns(), (silent.ip(), 53).into(), false)?;
    let refused = NameServer::start_saying(refusing.netns(), &["::"], 5)?;
    let good = NameServer::start(mesh.pod(LEGACY).netns(), &["::"])?;
    files.name_servers(&[silent.ip(), refusing.ip(), mesh.pod(LEGACY).ip()])?;
    let asked = SocketAddr::new(silent.ip(), 53);
    let query = query(b"", 16);
    let by_udp = ask_udp(client, asked, &query).await?;
    let by_tcp = ask_tcp(client, asked, &query).await?;
    ensure!([by_udp, by_tcp].map(|answer| answer == echo(&query, 0)) == [true; 2]);
    for server in [&refused, &good] {
        ensure!(server.take() == [unnumbered(&query), unnumbered(&query)]);
    }
    drop(good);
    let last = exchange_udp(client, asked, &query).await?;
    ensure!(last == echo(&query, 5), "{last:?}");
    ensure!(refused.take() == [unnumbered(&query)]);
    Ok(())
}

/// Many queries by one connection, answered as answers come; and a ztunnel that leaves while some are open answers them.
pub(crate) async fn drained(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, files) = start(&sandbox).await?;
    let slow = mesh.pod(LEGACY).ip();
    let answering = UdpSocket::from_std(udp::bind(
        mesh.pod(LEGACY).netns(),
        (slow, 53).into(),
        false,
    )?)?;
    files.name_servers(&[slow])?;
    let query = query(b"", 16);
    let asked = SocketAddr::new(slow, 53);
    let asking = client_udp(mesh.pod(CART), asked).await?;
    asking.send(&query).await?;
    let (forwarded, from) = soon("the query", udp::receive(&answering)).await??;

    let mut stream = soon("a connection", mesh.pod(CART).connect(asked)).await??;
    let service = web_queries();
    let all: Vec<u8> = service.iter().flat_map(|query| framed(query)).collect();
    stream.write_all(&all).await?;
    let mut left: Vec<u16> = (0..WEB_QUERIES).collect();
    while !left.is_empty() {
        let answer = soon("an answer", read_framed(&mut stream)).await??;
        let number = u16::from_be_bytes([answer[0], answer[1]]);
        ensure!(answer[3] & 0x0f == 0 && answer[7] == 1, "{answer:?}");
        left.retain(|left| *left != number);
    }

    let ztunnel = mesh.ztunnel_mut("node1").process_mut();
    ztunnel.signal(Signal::SIGTERM)?;
    let ended = soon("the end of the connection", stream.read_u8()).await?;
    ensure!(ended.is_err(), "something more came");
    answering.send_to(&echo(&forwarded, 0), from).await?;
    let mut answer = vec![0; 512];
    let len = soon("an answer", asking.recv(&mut answer)).await??;
    ensure!(answer[..len] == echo(&query, 0));
    let status = ztunnel.wait(world::SOON).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// A name server on loopback, in the pod or on the node, is asked where it is, and what it asks itself does not come back.
pub(crate) async fn loopback(sandbox: Sandbox) -> Result<()> {
    let (mesh, files) = start(&sandbox).await?;
    let client = mesh.pod(CART);
    let in_pod = NameServer::start(client.netns(), &["127.0.0.53", "::1"])?;
    let on_node = NameServer::start(mesh.lab().node("node1").netns(), &["127.0.0.53"])?;
    let node_server: IpAddr = "127.0.0.53".parse()?;
    files.name_servers(&[node_server])?;
    let query = query(b"", 16);
    for server in ["127.0.0.53:53", "[::1]:53"] {
        let server = server.parse()?;
        ask_udp(client, server, &query).await?;
        ask_tcp(client, server, &query).await?;
        ensure!(in_pod.take() == [unnumbered(&query), unnumbered(&query)]);
    }
    ensure!(on_node.take().is_empty());
    // As that resolver would ask for what it does not know.
    let elsewhere = SocketAddr::new(mesh.pod(LEGACY).ip(), 53);
    ask_udp(client, elsewhere, &query).await?;
    ask_tcp(client, elsewhere, &query).await?;
    ensure!(on_node.take().len() == 2);
    ensure!(in_pod.take().is_empty());
    Ok(())
}

/// A pod that wants to be left alone asks its server itself.
pub(crate) async fn left_alone(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, files) = start(&sandbox).await?;
    let server = NameServer::start(mesh.pod(LEGACY).netns(), &["::"])?;
    files.name_servers(&[mesh.pod(NEIGHBOUR).ip()])?;
    mesh.annotate_pod(CART, "ambient.istio.io/dns-capture", Some("false"))?;
    let (client, asked) = (mesh.pod(CART), SocketAddr::new(mesh.pod(LEGACY).ip(), 53));
    let query = query(b"", 16);
    eventually("the query arrives as it is", async || {
        let answered = ask_udp(client, asked, &query).await.is_ok();
        server.take() == [unnumbered(&query)] && answered
    })
    .await
}

/// The answer to `query`, unless it is that there is none.
async fn ask_udp(client: &Pod, server: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    definite(exchange_udp(client, server, query).await?)
}

async fn exchange_udp(client: &Pod, server: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    let socket = client_udp(client, server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; 4096];
    let len = soon("an answer by UDP", socket.recv(&mut answer)).await??;
    answer.truncate(len);
    Ok(answer)
}

async fn client_udp(client: &Pod, server: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() {
        [0; 4].into()
    } else {
        [0u16; 8].into()
    };
    let socket = UdpSocket::from_std(udp::bind(client.netns(), (any, 0).into(), false)?)?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn ask_tcp(client: &Pod, server: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    let mut stream = soon("a connection", client.connect(server)).await??;
    stream.write_all(&framed(query)).await?;
    definite(soon("an answer by TCP", read_framed(&mut stream)).await??)
}

fn definite(answer: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(answer.get(3).context("a header")? & 0x0f == 0, "{answer:?}");
    Ok(answer)
}

/// A query of this kind for a name outside the mesh, with something behind it that is none of the mesh's business.
fn query(behind: &[u8], kind: u16) -> Vec<u8> {
    let header = [0xbe, 0xef, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
    let name = b"\x04NoNe\x07EXAMPLE\x00";
    [&header, &name[..], &kind.to_be_bytes(), &[0, 1], behind].concat()
}

/// Queries for the address of a service, numbered from zero.
fn web_queries() -> Vec<Vec<u8>> {
    let number = |number: u16| {
        let header = [0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        let name = b"\x03web\x04shop\x00\x00\x01\x00\x01";
        [&number.to_be_bytes(), &header[..], name].concat()
    };
    (0..WEB_QUERIES).map(number).collect()
}

/// More than one connection may have open at a time.
const WEB_QUERIES: u16 = 100;

/// An update (RFC 2136) of a zone, without records.
fn update() -> Vec<u8> {
    let mut message = query(b"", 6);
    message[2] = 5 << 3;
    message
}

/// What the C library finds in a pod whose `/etc/resolv.conf` is `conf`.
pub(crate) async fn getent(
    pod: &Pod,
    conf: &Path,
    database: &str,
    name: &str,
) -> Result<Vec<IpAddr>> {
    let script = r#"mount --bind "$1" /etc/resolv.conf && { getent "$2" "$3" || test $? = 2; }"#;
    let conf = conf.to_str().context("a path of ours is text")?;
    let program = Program::new("getent", "unshare")
        .args(["--mount", "sh", "-ec", script, "sh", conf, database, name]);
    let output = soon("getent", pod.exec(&program)).await??;
    ensure!(
        output.status.success(),
        "getent: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let address = line
            .split_whitespace()
            .next()
            .context("an address")?
            .parse()?;
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}
