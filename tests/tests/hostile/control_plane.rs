//! Whoever reaches the control plane's ports, and is nobody.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tonic::{Code, Request, Status, client::Grpc};
use tulle_identity::control_tls;
use tulle_lab::sandbox::Sandbox;
use tulle_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tulle_tests::raw::Raw;
use tulle_xds::NodeConfig;

use crate::{
    garbage::no_tls_is_cut,
    tokens::{ControlPlane, Forge},
    world::{World, soon},
};

/// CVE-2022-24726, CVE-2022-23635 and -39278, ISTIO-SECURITY-2026-006: unauthenticated or oversized input at 15012.
pub(crate) async fn garbage_and_floods_are_cut(sandbox: Sandbox) -> Result<()> {
    let mut world = World::start(&sandbox).await?;
    let at = ControlPlane::of(&world.mesh);
    no_tls_is_cut(world.attacker(), at.socket()).await?;
    let before = world.mesh.control_plane().process_mut().usage()?;
    let token = Forge::at(&world.mesh)?.node1();
    let flood = Bytes::from(vec![0x0a; FLOOD]);
    for (method, token) in [
        (SIGN, ""),
        (SIGN, &token),
        (SUBSCRIBE, ""),
        (SUBSCRIBE, &token),
    ] {
        let refused = at.call(token, method, flood.clone()).await?;
        ensure!(refused.is_err(), "{method} took {FLOOD} bytes");
    }
    for (method, text) in [(SIGN, 1), (SUBSCRIBE, 2)] {
        let text = text << 3;
        for (name, malformed) in [
            ("no UTF-8", &[text | 2, 2, 0xff, 0xfe][..]),
            ("more than there is", &[text | 2, 0x7f, 1]),
            ("a number", &[text, 1]),
            ("a number that never ends", &[text, 0xff, 0xff, 0xff]),
            ("a group", &[text | 3]),
        ] {
            let malformed = Bytes::copy_from_slice(malformed);
            let refused = at.call(&token, method, malformed).await?;
            ensure!(refused.is_err(), "{method} took {name}");
        }
    }
    let after = world.mesh.control_plane().process_mut().usage()?;
    ensure!(
        after.rss < before.rss + (FLOOD as u64) / 4,
        "memory grew from {} to {}",
        before.rss,
        after.rss
    );
    ensure!(
        at.sign(&token, "cart").await?,
        "an honest node gets no answer"
    );
    world.recovers().await
}

/// Stalled handshakes at 15012: each address gets a small share of the places, so others get in; and the places come back.
pub(crate) async fn strangers_leave_places_for_others(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let at = ControlPlane::of(&world.mesh);
    let mut silent = Vec::new();
    // From two addresses, neither of which is a node's.
    for from in [world.attacker(), world.bystander()] {
        for _ in 0..200 {
            silent.push(from.connect(at.socket()).await?);
        }
    }
    let cut = async |stranger: &mut TcpStream| {
        let ended = async { anyhow::Ok(stranger.read(&mut [0]).await.unwrap_or(0)) };
        soon("the end of a stranger's connection", ended).await
    };
    let last = silent.last_mut().context("no connection")?;
    ensure!(cut(last).await? == 0, "one address has all places");
    let token = Forge::at(&world.mesh)?.node1();
    ensure!(at.sign(&token, "cart").await?, "there is no place left");
    ensure!(
        at.subscribe(&token, "node1").await?,
        "there is no place left"
    );
    // Of those that have a place, none keeps it.
    let first = silent.first_mut().context("no connection")?;
    ensure!(cut(first).await? == 0);
    world.recovers().await
}

/// `xds-debug-namespace-auth`, `xds-api-generator-auth`: types that other control planes serve to those who know their names.
pub(crate) async fn only_known_types_are_served(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let at = ControlPlane::of(&world.mesh);
    let token = Forge::at(&world.mesh)?.node1();
    let node = NodeConfig::new("ztunnel-node1", "istio-system", "node1").to_wire();
    let subscribe = |type_url: &str| {
        let request = DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: type_url.to_owned(),
            ..Default::default()
        };
        Bytes::from(request.encode_to_vec())
    };
    for type_url in [
        "",
        "istio.io/debug",
        "istio.io/debug/syncz",
        "istio.io/connections",
        "type.googleapis.com/istio.workload.Workload",
        "type.googleapis.com/istio.workload.address",
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "security.istio.io/v1/AuthorizationPolicy",
        "v1/Secret",
    ] {
        let answer = at.call(&token, SUBSCRIBE, subscribe(type_url)).await?;
        let Err(refused) = answer else {
            bail!("{type_url:?} is served");
        };
        ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    }
    // What it serves it serves, by the same way of asking.
    let good = "type.googleapis.com/istio.workload.Address";
    let answer = at.call(&token, SUBSCRIBE, subscribe(good)).await?;
    let answer = answer.context("nothing is served")?;
    ensure!(DeltaDiscoveryResponse::decode(answer)?.type_url == good);
    // Whoever is no node proxy is served nothing at all: nobody, a pod of the mesh, another account beside the control plane.
    let forge = Forge::at(&world.mesh)?;
    for token in [
        "",
        &forge.of_pod("shop", "cart")?,
        &forge.of_pod("istio-system", "tulled")?,
    ] {
        for type_url in [
            good,
            "type.googleapis.com/istio.security.Authorization",
            "istio.io/debug",
        ] {
            let foreign = at.call(token, SUBSCRIBE, subscribe(type_url)).await?;
            let refused = foreign.is_err_and(|status| status.code() == Code::Unauthenticated);
            ensure!(refused, "{type_url} is served for {token:?}");
        }
    }
    world.recovers().await
}

/// CVE-2026-31838, statusgen, 15010: pages for operators, for whoever asks.
pub(crate) async fn pages_for_operators_are_not_for_pods(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let control = world.mesh.lab().control();
    let node = world.mesh.lab().node("node1");
    let ip = |node: &tulle_lab::Node| node.addresses().first().copied();
    let (control, node) = (
        ip(control).context("no address")?,
        ip(node).context("no address")?,
    );
    for port in [15000, 15010, 15017] {
        for (name, host) in [("the control plane", control), ("a node", node)] {
            let reached = world.attacker().connect((host, port).into()).await;
            ensure!(reached.is_err(), "port {port} of {name} is open to pods");
        }
    }
    for (host, port, good) in [
        (control, 15014, "/healthz/ready"),
        (node, 15020, "/metrics"),
        (node, 15021, "/healthz/ready"),
        (node, 8000, "/healthz/ready"),
        (node, 15014, "/metrics"),
    ] {
        let get = async |path: &str| {
            let netns = world.attacker().netns().clone();
            tulle_lab::http::get(&netns, (host, port).into(), path).await
        };
        get(good)
            .await
            .with_context(|| format!("{good} at {port}"))?;
        for path in [
            "/config_dump",
            "/debug/snapshot",
            "/debug/policies",
            "/debug/waypoints",
            "/debug/streams",
            "/debug/pprof/profile",
            "/debug/syncz",
            "/logging",
            "/quitquitquit",
            "/certificates/renew",
            "/../config_dump",
        ] {
            let answer = get(path).await;
            ensure!(answer.is_err(), "{path} at {port}: {answer:?}");
        }
    }
    // They are there for those who are on the machine.
    let local = (Ipv4Addr::LOCALHOST, 15000).into();
    let netns = world.mesh.lab().control().netns().clone();
    tulle_lab::http::get(&netns, local, "/debug/policies").await?;
    world.recovers().await
}

impl ControlPlane {
    /// Sends one message and returns the first answer.
    async fn call(
        &self,
        token: &str,
        method: &'static str,
        message: Bytes,
    ) -> Result<Result<Bytes, Status>> {
        let (channel, credentials) = self.channel(token);
        let calling = self.inside(async move {
            let mut grpc = Grpc::new(control_tls::channel(&channel)?);
            grpc.ready().await?;
            // The stream stays open: it is the other side that has to end it.
            let messages = tokio_stream::StreamExt::chain(
                tokio_stream::once(message),
                tokio_stream::pending(),
            );
            let mut call = Request::new(messages);
            credentials.apply(call.metadata_mut())?;
            let path = PathAndQuery::from_static(method);
            let answer = async {
                let mut answers = grpc.streaming(call, path, Raw).await?.into_inner();
                let answer = answers.message().await?;
                answer.ok_or_else(|| Status::unknown("nothing"))
            };
            Ok(answer.await)
        });
        soon(method, calling).await
    }
}

const SIGN: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const SUBSCRIBE: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// More than anybody has reason to send.
const FLOOD: usize = 100 << 20;
