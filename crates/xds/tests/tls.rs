//! The whole way: our client, TLS with a token, our server.

#![expect(clippy::unwrap_used, reason = "a test: what fails should panic")]

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Status, metadata::MetadataMap};
use tulle_identity::{
    ca::SigningCa,
    control_tls::{
        ChannelConfig, Credentials, IncomingConfig, RootSource, ServingKey, TokenSource, incoming,
    },
};
use tulle_model::Authorization;
use tulle_testkit::workload;
use tulle_xds::{
    Address, Authorizer, ClientConfig, Delta, Node, NodeConfig, Server, StreamScope, Subscriber,
    run_client,
    store::{StoreConfig, StoreWriter, Transaction},
};

struct Tokens;

#[tonic::async_trait]
impl Authorizer for Tokens {
    async fn authorize(&self, metadata: &MetadataMap, node: &Node) -> Result<StreamScope, Status> {
        match metadata.get("authorization") {
            Some(value) if value == "Bearer secret" => Ok(StreamScope {
                client: node.text("NAME").into(),
            }),
            _ => Err(Status::unauthenticated("no valid token")),
        }
    }
}

struct Addresses(mpsc::UnboundedSender<Delta<Address>>);

impl Subscriber for Addresses {
    fn addresses(&mut self, delta: Delta<Address>) {
        let _ = self.0.send(delta);
    }

    fn policies(&mut self, _: Delta<Authorization>) {}
}

/// Serves one workload under a certificate for 127.0.0.1; returns the port.
async fn serve(ca: &SigningCa) -> u16 {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let hour = Duration::from_secs(3600);
    let certificate = ca
        .issue_serving(&[], &[loopback], hour, SystemTime::now())
        .unwrap();
    let tls = ServingKey::new(certificate)
        .unwrap()
        .server_config()
        .unwrap();
    let listener = TcpListener::bind((loopback, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut writer = StoreWriter::new(StoreConfig::default());
    let mut transaction = Transaction::default();
    transaction.put_address(workload("shop", "a", "10.0.0.1").into());
    writer.commit(transaction);
    let server = Server::new(writer.store(), Arc::new(Tokens));
    let limits = IncomingConfig {
        max_unproven_per_address: 1,
        ..IncomingConfig::default()
    };
    let connections = incoming(listener, Arc::new(tls), limits);
    tokio::spawn(async move {
        let _writer = writer;
        let router = tonic::transport::Server::builder().add_service(server);
        router.serve_with_incoming(connections).await
    });
    port
}

fn config(port: u16, roots: &str) -> ClientConfig {
    let root = RootSource::Pem(roots.to_owned());
    ClientConfig::new(
        ChannelConfig::new(format!("https://127.0.0.1:{port}"), root),
        Credentials {
            token: TokenSource::Literal("secret".to_owned()),
            ..Credentials::default()
        },
        NodeConfig::new("ztunnel-x", "mesh", "node-1"),
    )
}

#[tokio::test]
async fn resources_arrive_over_tls_from_a_server_that_is_trusted() {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let port = serve(&ca).await;
    let (sender, mut deltas) = mpsc::unbounded_channel();
    let client = run_client(config(port, ca.roots_pem()), Addresses(sender), || {});
    let client = tokio::spawn(client);
    let delta = timeout(LIMIT, deltas.recv()).await.unwrap().unwrap();
    assert_eq!(delta.updated[0].1, workload("shop", "a", "10.0.0.1").into());
    client.abort();
}

#[tokio::test]
async fn admitted_clients_leave_their_place_to_others() {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let port = serve(&ca).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (sender, mut deltas) = mpsc::unbounded_channel();
        let client = run_client(config(port, ca.roots_pem()), Addresses(sender), || {});
        clients.push(tokio::spawn(client));
        timeout(LIMIT, deltas.recv()).await.unwrap().unwrap();
    }
    assert!(clients.iter().all(|client| !client.is_finished()));
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_nothing() {
    let ca = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let other = SigningCa::generate(&Default::default(), SystemTime::now()).unwrap();
    let config = config(serve(&ca).await, other.roots_pem());
    let metrics = Arc::clone(&config.metrics);
    let (sender, mut deltas) = mpsc::unbounded_channel();
    let client = tokio::spawn(run_client(config, Addresses(sender), || {}));
    let failed = async {
        while metrics.connection_errors.value() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, failed).await.unwrap();
    assert!(deltas.try_recv().is_err());
    client.abort();
}

const LIMIT: Duration = Duration::from_secs(20);
