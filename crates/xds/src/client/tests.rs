//! Client and server over real connections.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tonic::{
    metadata::MetadataMap,
    transport::{Endpoint, server::TcpIncoming},
};
use tulle_identity::control_tls::{ChannelConfig, Credentials, RootSource, TokenSource};
use tulle_model::{Authorization, Workload};
use tulle_testkit::{deny, workload};

use super::*;
use crate::{
    Address, Authorizer, Delta, Node, ResourceType, Server, ServerConfig, StreamScope,
    store::{StoreConfig, StoreWriter, Transaction},
};
use link::Link;

mod link;
mod raw;
mod scripted;

/// What a subscriber was told.
#[derive(Debug)]
enum Told {
    Addresses(Delta<Address>),
    Policies(Delta<Authorization>),
    Ready,
}

struct Recorder(mpsc::UnboundedSender<Told>);

impl Subscriber for Recorder {
    fn addresses(&mut self, delta: Delta<Address>) {
        let _ = self.0.send(Told::Addresses(delta));
    }

    fn policies(&mut self, delta: Delta<Authorization>) {
        let _ = self.0.send(Told::Policies(delta));
    }
}

/// A client at work, and what it tells its subscriber.
struct Running {
    told: mpsc::UnboundedReceiver<Told>,
    metrics: Arc<ClientMetrics>,
    task: JoinHandle<Infallible>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Connects in plain text to a loopback port.
    fn start(port: u16) -> Self {
        Self::with(port, |_| {})
    }

    fn with(port: u16, adjust: impl FnOnce(&mut ClientConfig)) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let root = RootSource::Pem(String::new());
        let mut config = ClientConfig::new(
            ChannelConfig::new("https://unused", root),
            Credentials {
                token: TokenSource::Literal("secret".to_owned()),
                ..Credentials::default()
            },
            NodeConfig::new("ztunnel-x", "mesh", "node-1"),
        );
        adjust(&mut config);
        let metrics = Arc::clone(&config.metrics);
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let open = move || Ok(endpoint.connect_lazy());
        let subscriber = Recorder(sender.clone());
        let ready = move || drop(sender.send(Told::Ready));
        Self {
            told,
            metrics,
            task: tokio::spawn(run_over(config, open, subscriber, ready)),
        }
    }

    async fn next(&mut self) -> Told {
        let next = timeout(LIMIT, self.told.recv()).await;
        next.expect("nothing was told in time")
            .expect("the client stopped")
    }

    /// The next delta of addresses: names of updates and removals.
    async fn addresses(&mut self) -> (Vec<String>, Vec<String>) {
        match self.next().await {
            Told::Addresses(delta) => {
                let mut names: Vec<_> = delta.updated.into_iter().map(|(name, _)| name).collect();
                names.sort_unstable();
                (names, delta.removed)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, condition: impl Fn(&ClientMetrics) -> bool) {
        wait_for(|| condition(&self.metrics)).await;
    }
}

/// Polls a condition that nothing announces, with a deadline.
async fn wait_for(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, poll)
        .await
        .expect("condition did not come true");
}

/// Accepts the token `secret` and names the client by its node.
struct Tokens;

#[tonic::async_trait]
impl Authorizer for Tokens {
    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        match metadata.get("authorization") {
            Some(value) if value == "Bearer secret" => Ok(()),
            _ => Err(Status::unauthenticated("no valid token")),
        }
    }

    async fn authorize(&self, _: &MetadataMap, node: &Node) -> Result<StreamScope, Status> {
        if node.text("NODE_NAME") == "node-1" {
            Ok(StreamScope {
                client: node.id.as_str().into(),
            })
        } else {
            Err(Status::permission_denied("not on your node"))
        }
    }
}

/// A control plane on a loopback port.
struct Plane {
    writer: StoreWriter,
    server: Server,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plane {
    async fn start() -> Self {
        Self::with(ServerConfig::default()).await
    }

    async fn with(config: ServerConfig) -> Self {
        let writer = StoreWriter::new(StoreConfig::default());
        let server = Server::with_config(writer.store(), Arc::new(Tokens), config);
        let (listener, port) = listen().await;
        let router = tonic::transport::Server::builder().add_service(server.clone());
        let serve = router.serve_with_incoming(TcpIncoming::from(listener));
        Self {
            writer,
            server,
            port,
            task: tokio::spawn(async { serve.await.unwrap() }),
        }
    }

    fn commit(&mut self, change: impl FnOnce(&mut Transaction)) {
        let mut transaction = Transaction::default();
        change(&mut transaction);
        self.writer.commit(transaction);
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn pod(name: &str) -> Address {
    workload("shop", name, "10.0.0.1").into()
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

#[tokio::test]
async fn initial_state_then_changes() {
    let mut plane = Plane::start().await;
    plane.commit(|t| {
        t.put_address(pod("a"));
        t.put_policy(deny("shop", "no", &[]));
    });
    let mut client = Running::start(plane.port);
    let Told::Policies(policies) = client.next().await else {
        panic!("policies come first");
    };
    assert_eq!(
        policies.updated,
        [("shop/no".to_owned(), deny("shop", "no", &[]))]
    );
    let Told::Addresses(addresses) = client.next().await else {
        panic!("then addresses");
    };
    assert_eq!(addresses.updated, [(uid("a"), pod("a"))]);
    assert!(matches!(client.next().await, Told::Ready));

    plane.commit(|t| {
        t.put_address(pod("b"));
        t.remove_address(uid("a"));
    });
    assert_eq!(client.addresses().await, (vec![uid("b")], vec![uid("a")]));
    let metrics = plane.server.metrics();
    wait_for(|| metrics.commit_to_ack.count() == 1).await;
    assert_eq!(metrics.streams.value(), 1);
    assert_eq!(client.metrics.connected.value(), 1);
}

#[tokio::test]
async fn empty_control_plane_makes_ready() {
    let mut plane = Plane::start().await;
    plane.commit(|_| {});
    let mut client = Running::start(plane.port);
    assert!(matches!(client.next().await, Told::Ready));
}

#[tokio::test]
async fn nothing_is_served_before_the_first_commit() {
    let mut plane = Plane::start().await;
    let mut client = Running::start(plane.port);
    client.until(|m| m.grpc_errors.value() > 2).await;
    assert!(client.told.is_empty());
    plane.commit(|t| t.put_address(pod("a")));
    assert_eq!(client.addresses().await.0, [uid("a")]);
}

#[tokio::test]
async fn reconnect_transfers_only_differences() {
    let mut plane = Plane::start().await;
    let link = Link::start(plane.port).await;
    plane.commit(|t| (0..500).for_each(|i| t.put_address(pod(&format!("p{i}")))));
    let mut client = Running::start(link.port);
    assert_eq!(client.addresses().await.0.len(), 500);
    assert!(matches!(client.next().await, Told::Ready));
    let initial = link.received();
    assert!(initial > 50_000, "{initial}");

    link.cut();
    client.until(|m| m.connection_errors.value() > 0).await;
    plane.commit(|t| {
        t.put_address(pod("new"));
        t.remove_address(uid("p0"));
        t.remove_address(uid("p1"));
    });
    link.restore();
    assert_eq!(
        client.addresses().await,
        (vec![uid("new")], vec![uid("p0"), uid("p1")])
    );
    let difference = link.received() - initial;
    assert!(difference < 2_000, "{difference} bytes for one resource");
}

#[tokio::test]
async fn state_survives_streams_that_end_in_good_order() {
    let mut plane = Plane::with(ServerConfig {
        max_stream_age: Duration::from_millis(20),
        ..ServerConfig::default()
    })
    .await;
    plane.commit(|t| t.put_address(pod("a")));
    let mut client = Running::start(plane.port);
    assert_eq!(client.addresses().await.0, [uid("a")]);
    client.until(|m| m.completed.value() >= 3).await;
    assert!(matches!(client.next().await, Told::Ready));
    assert!(client.told.is_empty(), "nothing changed");
    plane.commit(|t| t.put_address(pod("b")));
    assert_eq!(client.addresses().await.0, [uid("b")]);
}

#[tokio::test]
async fn draining_ends_streams_and_refuses_new_ones() {
    let mut plane = Plane::start().await;
    plane.commit(|_| {});
    let mut client = Running::start(plane.port);
    assert!(matches!(client.next().await, Told::Ready));
    plane.server.drain(Duration::ZERO);
    client.until(|m| m.completed.value() == 1).await;
    client.until(|m| m.grpc_errors.value() > 0).await;
    let metrics = plane.server.metrics();
    wait_for(|| metrics.streams.value() == 0).await;
}

#[tokio::test]
async fn clients_without_permission_get_nothing() {
    let mut plane = Plane::start().await;
    plane.commit(|t| t.put_address(pod("secret")));
    let wrong_token = Running::with(plane.port, |config| {
        config.credentials.token = TokenSource::Literal("guess".to_owned());
    });
    let wrong_node = Running::with(plane.port, |config| {
        config.node.node_name = "node-2".to_owned();
    });
    for client in [wrong_token, wrong_node] {
        client.until(|m| m.grpc_errors.value() > 2).await;
        assert!(client.told.is_empty());
        assert_eq!(client.metrics.addresses.messages.value(), 0);
    }
    assert!(plane.server.metrics().unauthorized.value() > 2);
}

#[tokio::test]
async fn streams_are_bounded() {
    let mut plane = Plane::with(ServerConfig {
        max_streams: 1,
        ..ServerConfig::default()
    })
    .await;
    plane.commit(|_| {});
    let mut first = Running::start(plane.port);
    assert!(matches!(first.next().await, Told::Ready));
    let second = Running::start(plane.port);
    second.until(|m| m.grpc_errors.value() > 1).await;
    drop(first);
    second.until(|m| m.connected.value() == 1).await;
}

const LIMIT: Duration = Duration::from_secs(20);
