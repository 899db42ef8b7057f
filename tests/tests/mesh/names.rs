//! Services outside the mesh whose endpoints are where a name leads.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use anyhow::{Result, ensure};
use tulle_lab::{Mesh, Pod, sandbox::Sandbox};

use crate::{
    dns::getent,
    name_server::{Files, NameServer, start},
    observed::access,
    traffic::{Echo, call, call_until_reached, call_until_refused, eventually},
    world::{CART, LEGACY, NEIGHBOUR, PORT, SOON, WEB, identity},
};

/// A name is found out by ztunnel, and found out anew when its time is over; where it leads is no other path than that of any
/// address, and not to what only the app itself may call.
pub(crate) async fn followed(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, files) = start(&sandbox).await?;
    let (zone, server) = Zone::serve(&mesh, &files)?;
    mesh.apply(ENTRY).await?;
    let conf = files.write("client.conf", "nameserver 192.0.2.53\noptions attempts:1\n")?;
    let client = mesh.pod(CART);
    eventually("the app is told the service's address", async || {
        let found = getent(client, &conf, "ahostsv4", API).await;
        found.is_ok_and(|found| found == [VIP.ip()])
    })
    .await?;

    let pods = [NEIGHBOUR, LEGACY, WEB, CART].map(|pod| mesh.pod(pod));
    let echoes = pods.map(Echo::start);
    let [neighbour, legacy, web, cart] = echoes;
    let (neighbour, legacy, web, cart) = (neighbour?, legacy?, web?, cart?);
    zone.lead_to(pods[0].ip());
    call_until_reached(client, VIP).await?;
    ensure!(neighbour.accepted() > 0 && legacy.accepted() == 0);
    let line = line_to(&mesh, pods[0]).await?;
    ensure!(line.is("dst.service", API) && line.field("dst.identity").is_none());

    zone.lead_to(pods[1].ip());
    reaches(client, &legacy).await?;
    let before = neighbour.accepted();
    call(client, VIP).await?;
    ensure!(neighbour.accepted() == before);
    ensure!(line_to(&mesh, pods[1]).await?.is("dst.service", API));

    // A pod of the mesh is not called in the clear, whoever leads there.
    zone.lead_to(pods[2].ip());
    reaches(client, &web).await?;
    let line = [("dst.service", API), ("dst.identity", &identity(WEB))];
    access(&mesh, "node1", "the connection", &line).await?;

    zone.lead_to("127.0.0.1".parse()?);
    call_until_refused(client, VIP).await?;
    let error = format!("{API} leads to 127.0.0.1, where no name may lead");
    access(&mesh, "node1", "the refusal", &[("error", &error)]).await?;
    ensure!(cart.accepted() == 0);

    let metrics = mesh.ztunnel("node1").metrics().await?;
    let of_name = [("hostname", API), ("source_workload", "cart")];
    let connections = metrics.sum("istio_on_demand_dns_total", &of_name);
    ensure!(connections >= 5.0, "{connections}");
    // The node asks, the pods do not; and each answer has served several of them.
    let found = [("outcome", "found")];
    let asked = metrics.sum("tulle_on_demand_dns_lookups_total", &found);
    ensure!(
        asked >= 4.0 && asked < connections,
        "{asked} of {connections}"
    );
    ensure!(server.take().len() as f64 >= asked);
    Ok(())
}

/// Without name servers, what was known goes on, and what was not is refused and says why.
pub(crate) async fn unanswered(sandbox: Sandbox) -> Result<()> {
    let (mut mesh, files) = start(&sandbox).await?;
    let (zone, server) = Zone::serve(&mesh, &files)?;
    mesh.apply(ENTRY).await?;
    let client = mesh.pod(CART);
    let neighbour = Echo::start(mesh.pod(NEIGHBOUR))?;
    zone.lead_to(mesh.pod(NEIGHBOUR).ip());
    call_until_reached(client, VIP).await?;

    call_until_refused(client, NOBODY).await?;
    let error = "nobody.example cannot be resolved: there is no such name";
    access(&mesh, "node1", "no name", &[("error", error)]).await?;

    drop(server);
    eventually("the name server is missed", async || {
        let stale = [("outcome", "stale")];
        let metrics = mesh.ztunnel("node1").metrics().await;
        let count = metrics.map(|all| all.sum("tulle_on_demand_dns_lookups_total", &stale));
        call(client, VIP).await.is_ok() && count.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    let before = neighbour.accepted();
    call(client, VIP).await?;
    ensure!(neighbour.accepted() == before + 1);

    ensure!(call(client, OTHER).await.is_err());
    let error = "other.example cannot be resolved: 127.0.0.53: ";
    let told = |line: &tulle_lab::Access| {
        let reason = line.field("error").unwrap_or_default();
        line.is("dst.service", "other.example") && reason.starts_with(error)
    };
    let node = mesh.ztunnel("node1");
    node.wait_for_access("no name server", SOON, told).await?;
    let metrics = node.metrics().await?;
    let failed = [("outcome", "failed")];
    ensure!(metrics.sum("tulle_on_demand_dns_lookups_total", &failed) >= 1.0);
    let failed = [
        ("destination_service", "other.example"),
        ("response_flags", "CONNECT"),
    ];
    ensure!(metrics.sum("istio_tcp_connections_failed_total", &failed) >= 1.0);
    Ok(())
}

/// Waits until calls of the name arrive there.
async fn reaches(client: &Pod, server: &Echo) -> Result<()> {
    eventually("the name leads elsewhere", async || {
        call(client, VIP).await.is_ok() && server.accepted() > 0
    })
    .await
}

/// The line of a connection to a pod's server.
async fn line_to(mesh: &Mesh, pod: &Pod) -> Result<tulle_lab::Access> {
    let address = SocketAddr::new(pod.ip(), PORT).to_string();
    let line = [("direction", "outbound"), ("dst.addr", address.as_str())];
    access(mesh, "node1", "the connection", &line).await
}

/// Where the names lead that are looked up.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Option<IpAddr>>>);

impl Zone {
    /// A name server on the node of the client, which only the node itself can ask.
    fn serve(mesh: &Mesh, files: &Files) -> Result<(Self, NameServer)> {
        let zone = Self::default();
        let answering = zone.clone();
        let netns = mesh.lab().node("node1").netns();
        let answer = move |query: &[u8]| answering.answer(query);
        let server = NameServer::start_with(netns, &["127.0.0.53"], answer)?;
        files.name_servers(&["127.0.0.53".parse()?])?;
        Ok((zone, server))
    }

    fn lead_to(&self, ip: IpAddr) {
        *self.0.lock().expect("no test panics with it") = Some(ip);
    }

    /// One address for a second to the question for it; else that there is none. `nobody.example` does not exist.
    fn answer(&self, query: &[u8]) -> Vec<u8> {
        let ip = *self.0.lock().expect("no test panics with it");
        let mut answer = crate::name_server::echo(query, 0);
        if query[HEADER..].starts_with(b"\x06nobody") {
            answer[3] |= 3;
            return answer;
        }
        let kind = query[query.len() - 3];
        let address = match ip {
            Some(IpAddr::V4(ip)) if kind == 1 => ip.octets().to_vec(),
            Some(IpAddr::V6(ip)) if kind == 28 => ip.octets().to_vec(),
            _ => return answer,
        };
        let length = u8::try_from(address.len()).expect("an address is short");
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, length]);
        answer.extend(address);
        answer
    }
}

const HEADER: usize = 12;
const API: &str = "api.example";
const VIP: SocketAddr = vip(7);
const OTHER: SocketAddr = vip(8);
const NOBODY: SocketAddr = vip(9);

const fn vip(last: u8) -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(240, 240, 7, last);
    SocketAddr::new(IpAddr::V4(ip), 7000)
}

/// Addresses as a control plane gives them, and one that is written.
const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example, other.example]
  resolution: DNS
  ports: [{number: 7000, name: echo, protocol: TCP, targetPort: 8080}]
status:
  addresses:
  - {value: 240.240.7.7, host: api.example}
  - {value: 240.240.7.8, host: other.example}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: nobody, namespace: shop}
spec:
  hosts: [nobody.example]
  addresses: [240.240.7.9]
  resolution: DNS
  ports: [{number: 7000, name: echo, protocol: TCP, targetPort: 8080}]
";
