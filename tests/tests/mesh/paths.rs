//! Who reaches whom and how: every combination of client, server, address and mode.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
};
use tulle_lab::{
    Families, Flow, Mesh, Pod,
    capture::{ContentType, records},
    sandbox::Sandbox,
};

use crate::{
    observed::{Kind, Tally, access},
    traffic::{Echo, call, call_from, call_until_refused, soon},
    world::{
        self, CART, LEGACY, NEAR, NEIGHBOUR, PORT, SERVICE_PORT, VISITOR, WEB, identity,
        same_family,
    },
};

pub(crate) async fn permissive(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    every_path(&mesh, |path| path.permissive).await
}

pub(crate) async fn strict(sandbox: Sandbox) -> Result<()> {
    let mut mesh = world::start(&sandbox).await?;
    mesh.apply(STRICT).await?;
    for server in [NEAR, WEB] {
        let to = (mesh.pod(server).ip(), PORT).into();
        call_until_refused(mesh.pod(VISITOR), to).await?;
    }
    every_path(&mesh, |path| path.strict).await?;
    // Nor does a process on another node get in. On the pod's own node, what runs as the kubelet's user probes.
    let _web = Echo::start(mesh.pod(WEB))?;
    for ip in mesh.pod(WEB).addresses() {
        let node = mesh.lab().node("node1");
        let called = call_from(node.netns(), node.name(), (*ip, PORT).into()).await;
        ensure!(called.is_err(), "{} has reached {ip}", node.name());
    }
    Ok(())
}

pub(crate) async fn ipv4_alone(sandbox: Sandbox) -> Result<()> {
    single_family(&sandbox, Families::V4).await
}

pub(crate) async fn ipv6_alone(sandbox: Sandbox) -> Result<()> {
    single_family(&sandbox, Families::V6).await
}

async fn single_family(sandbox: &Sandbox, families: Families) -> Result<()> {
    let mesh = world::start_in(sandbox, families, |_| ()).await?;
    for path in &PATHS {
        let (client, server) = (mesh.pod(path.client), mesh.pod(path.server));
        let _echo = Echo::start(server)?;
        let service = mesh.lab().service(path.server).ip();
        for to in [(service, SERVICE_PORT), (server.ip(), PORT)] {
            call(client, to.into()).await?;
        }
        if path.permissive == Encrypted {
            let line = [
                ("direction", "outbound"),
                ("dst.identity", &identity(path.server)),
            ];
            access(&mesh, client.node(), "the connection", &line).await?;
        }
    }
    Ok(())
}

/// Every workload in the mesh takes mutual TLS alone.
pub(crate) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// What should become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Encrypted,
    Plain,
    Refused,
}
use Outcome::{Encrypted, Plain, Refused};

struct Path {
    client: &'static str,
    server: &'static str,
    permissive: Outcome,
    strict: Outcome,
}

const fn path(
    client: &'static str,
    server: &'static str,
    permissive: Outcome,
    strict: Outcome,
) -> Path {
    Path {
        client,
        server,
        permissive,
        strict,
    }
}

const PATHS: [Path; 8] = [
    path(CART, NEAR, Encrypted, Encrypted),
    path(CART, WEB, Encrypted, Encrypted),
    path(CART, NEIGHBOUR, Plain, Plain),
    path(CART, LEGACY, Plain, Plain),
    path(VISITOR, NEAR, Plain, Refused),
    path(VISITOR, WEB, Plain, Refused),
    path(VISITOR, NEIGHBOUR, Plain, Plain),
    path(VISITOR, LEGACY, Plain, Plain),
];

/// One connection of the matrix.
struct Try<'a> {
    client: &'a Pod,
    server: &'a Pod,
    to: SocketAddr,
    by_service: bool,
    outcome: Outcome,
    request: String,
    reply: String,
}

async fn every_path(mesh: &Mesh, outcome: impl Fn(&Path) -> Outcome) -> Result<()> {
    let capture = mesh.lab().capture("node1", "node2").await?;
    let mut tries = Vec::new();
    for path in &PATHS {
        let (client, server) = (mesh.pod(path.client), mesh.pod(path.server));
        let service = mesh.lab().service(path.server).addresses();
        let by_service = service.iter().map(|ip| (*ip, SERVICE_PORT, true));
        let by_pod = server.addresses().iter().map(|ip| (*ip, PORT, false));
        for (ip, port, by_service) in by_service.chain(by_pod) {
            // Lengths are unlike, so that a connection can be told by its byte counts.
            let number = 100 + tries.len();
            let attempt = Try {
                client,
                server,
                to: (ip, port).into(),
                by_service,
                outcome: outcome(path),
                request: format!("request-{number}-{}", "q".repeat(number)),
                reply: format!("reply-{number}-{}", "r".repeat(2 * number)),
            };
            let what = attempt.what();
            attempt.run(mesh).await.context(what)?;
            tries.push(attempt);
        }
    }
    ensure!(tries.len() == 32);
    let flows = capture.finish().await?;
    for attempt in tries.iter().filter(|attempt| attempt.crosses_nodes()) {
        attempt.check_link(&flows).with_context(|| attempt.what())?;
    }
    Ok(())
}

impl Try<'_> {
    fn what(&self) -> String {
        let (client, server) = (self.client.full_name(), self.server.full_name());
        let by = if self.by_service { "service" } else { "pod" };
        format!("{client} to {server} by {by} address {}", self.to)
    }

    async fn run(&self, mesh: &Mesh) -> Result<()> {
        let mut tally = Tally::read(mesh).await?;
        let listener = self.server.listen(PORT)?;
        let from = self.exchange(&listener).await?;
        for kind in self.kinds() {
            tally.one_more(kind);
        }
        tally.settles("metrics", mesh).await?;
        if self.outcome == Encrypted {
            self.check_log(mesh, from).await?;
        }
        Ok(())
    }

    /// Talks, and sees that what should happen does. Returns the client's own address, if it was let in.
    async fn exchange(&self, listener: &TcpListener) -> Result<SocketAddr> {
        let client = soon("the client", self.client.connect(self.to)).await?;
        if self.outcome == Refused {
            // The reset may come as early as that.
            let Ok(mut stream) = client else {
                return Ok(self.to);
            };
            return select! {
                accepted = listener.accept() => {
                    anyhow::bail!("the server was reached from {:?}", accepted?.1);
                }
                ended = soon("the refusal", ask(&mut stream, &self.request)) => {
                    let answer = ended?;
                    ensure!(answer.is_err(), "{answer:?} came in place of a reset");
                    Ok(self.to)
                }
            };
        }
        let mut stream = client?;
        let from = stream.local_addr()?;
        let both = async {
            tokio::join!(
                ask(&mut stream, &self.request),
                answer(listener, &self.reply)
            )
        };
        let (reply, served) = soon("the exchange", both).await?;
        let (request, peer) = served.context("the server")?;
        ensure!(request == self.request && reply.context("the client")? == self.reply);
        let client = same_family(self.client.addresses(), self.to.ip());
        ensure!(peer == client, "the server sees {peer}, not {client}");
        Ok(from)
    }

    /// What the nodes' metrics should have one more of.
    fn kinds(&self) -> Vec<Kind> {
        let (source, destination) = match self.outcome {
            Encrypted => (
                identity(&self.client.full_name()),
                identity(&self.server.full_name()),
            ),
            Plain | Refused => ("unknown".into(), "unknown".into()),
        };
        let security = match self.outcome {
            Encrypted => "mutual_tls",
            Plain | Refused => "unknown",
        };
        let flag = match self.outcome {
            Encrypted | Plain => "-",
            Refused => "DENY",
        };
        let ends = [(self.client, "source"), (self.server, "destination")];
        let in_mesh = ends
            .into_iter()
            .filter(|(pod, _)| pod.namespace() == "shop");
        in_mesh
            .map(|(pod, reporter)| Kind {
                node: if pod.node() == "node1" {
                    "node1"
                } else {
                    "node2"
                },
                reporter: reporter.into(),
                security: security.into(),
                source: source.clone(),
                destination: destination.clone(),
                flag: flag.into(),
            })
            .collect()
    }

    /// Sees that both ztunnels wrote down the identities, the tunnel's target and the bytes.
    async fn check_log(&self, mesh: &Mesh, from: SocketAddr) -> Result<()> {
        let [sent, received] = [&self.request, &self.reply].map(|text| text.len().to_string());
        let outbound = [
            ("direction", "outbound"),
            ("bytes_sent", &sent),
            ("bytes_recv", &received),
        ];
        let inbound = [
            ("direction", "inbound"),
            ("bytes_recv", &sent),
            ("bytes_sent", &received),
        ];
        let pod = SocketAddr::new(same_family(self.server.addresses(), self.to.ip()), PORT);
        for (node, line) in [
            (self.client.node(), outbound),
            (self.server.node(), inbound),
        ] {
            let line = access(mesh, node, "the connection", &line).await?;
            let expected = [
                ("src.identity", identity(&self.client.full_name())),
                ("dst.identity", identity(&self.server.full_name())),
                ("src.workload", self.client.name().into()),
                ("dst.workload", self.server.name().into()),
                ("dst.hbone_addr", pod.to_string()),
            ];
            for (name, value) in expected {
                ensure!(line.is(name, &value), "{name} is not {value}: {line:?}");
            }
            if self.by_service {
                let host = format!("{}.shop.svc.cluster.local", self.server.name());
                ensure!(line.is("dst.service", &host), "{line:?}");
            }
            ensure!(line.error().is_none(), "{line:?}");
            let source: SocketAddr = line.field("src.addr").context("no src.addr")?.parse()?;
            ensure!(source.ip() == from.ip(), "{line:?}");
        }
        Ok(())
    }

    fn crosses_nodes(&self) -> bool {
        self.client.node() != self.server.node()
    }

    /// Sees what passed between the nodes.
    fn check_link(&self, flows: &[Flow]) -> Result<()> {
        let seen = |text: &str| flows.iter().any(|flow| flow.contains(text.as_bytes()));
        let pair: [IpAddr; 2] =
            [self.client, self.server].map(|pod| same_family(pod.addresses(), self.to.ip()));
        let own = |flow: &&Flow| {
            let ends = [flow.source.ip(), flow.destination.ip()];
            ends == pair || ends == [pair[1], pair[0]]
        };
        match self.outcome {
            Encrypted => {
                ensure!(
                    !seen(&self.request) && !seen(&self.reply),
                    "seen in the clear"
                );
                ensure!(flows.iter().filter(own).count() >= 2, "nothing was sent");
                for flow in flows.iter().filter(own) {
                    let ports = [flow.source.port(), flow.destination.port()];
                    ensure!(ports.contains(&HBONE), "beside the tunnel: {flow:?}");
                    let records = records(&flow.payload).context("not TLS")?;
                    let encrypted = |record: &_| {
                        matches!(
                            record,
                            tulle_lab::capture::Record {
                                content: ContentType::ApplicationData,
                                ..
                            }
                        )
                    };
                    ensure!(records.iter().any(encrypted), "{records:?}");
                }
            }
            Plain => ensure!(seen(&self.request) && seen(&self.reply), "not seen"),
            Refused => ensure!(!seen(&self.reply), "the server has answered"),
        }
        Ok(())
    }
}

async fn ask(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}

/// Serves one connection. Returns the request and the client's address as the app sees it.
async fn answer(listener: &TcpListener, reply: &str) -> io::Result<(String, IpAddr)> {
    let (mut stream, peer) = listener.accept().await?;
    let mut request = String::new();
    stream.read_to_string(&mut request).await?;
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    Ok((request, peer.ip().to_canonical()))
}

const HBONE: u16 = 15008;
