//! The proxy's own ports seen from pods: no way into it, around it or round and round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tulle_lab::{Mesh, Pod, ServiceSpec, sandbox::Sandbox};

use crate::{
    traffic::{Echo, at, call, eventually},
    world::{self, CART, SOON, VISITOR, WEB},
};

/// Calls of every proxy port by every address that leads to a ztunnel.
pub(crate) async fn proxy_ports(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    let ports = PROXY_PORTS.into_iter().enumerate();
    let service = ServiceSpec::new("shop/ports").app("web");
    let service = ports.fold(service, |service, (number, port)| {
        service.port(FIRST_SERVICE_PORT + number as u16, port)
    });
    mesh.add_service(service)?;
    let _web = Echo::start(mesh.pod(WEB))?;
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    let before = Load::of(&mesh)?;
    for client in [CART, WEB, VISITOR] {
        let client = mesh.pod(client);
        for to in targets(&mesh, client) {
            no_answer(client, to).await?;
        }
    }
    eventually("no connection is left", async || {
        open_connections(&mesh).await.is_ok_and(|open| open == 0)
    })
    .await?;
    let after = Load::of(&mesh)?;
    ensure!(
        after.files <= before.files + 20,
        "files: {} and then {}",
        before.files,
        after.files
    );
    // All of this is a few hundred refused connections; a loop would have taken seconds.
    let spent = after.cpu - before.cpu;
    ensure!(
        spent < std::time::Duration::from_secs(5),
        "CPU time: {spent:?}"
    );
    call(mesh.pod(CART), at(mesh.pod(WEB))).await?;
    for node in ["node1", "node2"] {
        mesh.ztunnel_mut(node).process_mut().check_alive()?;
    }
    Ok(())
}

fn targets(mesh: &Mesh, client: &Pod) -> Vec<SocketAddr> {
    let web = mesh.pod(WEB).addresses().iter();
    let nodes = ["node1", "node2"].map(|node| mesh.lab().node(node).addresses());
    let localhost: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let direct = web
        .chain(client.addresses())
        .copied()
        .chain(localhost)
        .chain(nodes.into_iter().flatten());
    let direct = direct.flat_map(|ip| PROXY_PORTS.map(|port| SocketAddr::new(ip, port)));
    let service = mesh.lab().service("shop/ports").addresses().iter();
    let service = service.flat_map(|ip| {
        (0..PROXY_PORTS.len() as u16)
            .map(|number| SocketAddr::new(*ip, FIRST_SERVICE_PORT + number))
    });
    direct.chain(service).collect()
}

/// Asks the admin server to end the process. It must not be there, and nothing may hang.
async fn no_answer(client: &Pod, to: SocketAddr) -> Result<()> {
    let what = format!("{} calls {to}", client.full_name());
    let exchange = async {
        let mut stream = client.connect(to).await?;
        let host = format!(
            "POST /quitquitquit HTTP/1.1\r\nhost: localhost:{}\r\n\r\n",
            to.port()
        );
        stream.write_all(host.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answered = timeout(SOON, exchange).await;
    // Refused is as good.
    if let Ok(answer) = answered.with_context(|| format!("{what}: it hangs"))? {
        let text = String::from_utf8_lossy(&answer);
        ensure!(!text.starts_with("HTTP/1.1 2"), "{what}: {text}");
    }
    Ok(())
}

/// Connections that the ztunnels have open.
async fn open_connections(mesh: &Mesh) -> Result<usize> {
    let mut open = 0;
    for ztunnel in mesh.ztunnels() {
        let dump = ztunnel.config_dump().await?;
        let pods = dump
            .get("workloadState")
            .and_then(|state| state.as_object());
        for pod in pods.context("no workloadState")?.values() {
            for direction in ["inbound", "outbound"] {
                let list = pod.pointer(&format!("/connections/{direction}"));
                open += list.and_then(|list| list.as_array()).map_or(0, Vec::len);
            }
        }
    }
    Ok(open)
}

/// What both ztunnels use together.
struct Load {
    files: usize,
    cpu: std::time::Duration,
}

impl Load {
    fn of(mesh: &Mesh) -> Result<Self> {
        let mut load = Self {
            files: 0,
            cpu: std::time::Duration::ZERO,
        };
        for ztunnel in mesh.ztunnels() {
            let usage = ztunnel.process().usage()?;
            load.files += usage.files;
            load.cpu += usage.cpu;
        }
        Ok(load)
    }
}

/// The metrics and readiness ports are not among them: on the node they may be asked.
const PROXY_PORTS: [u16; 5] = [15000, 15001, 15006, 15008, 15053];
const FIRST_SERVICE_PORT: u16 = 1000;
