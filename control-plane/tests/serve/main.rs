//! A whole control plane on loopback: manifests in a temporary directory, real TLS, real clients.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

mod client;

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use tonic::Code;
use tulle_control_plane::{
    app::{Config, ControlPlane, RunError},
    authority::AuthorityConfig,
    mesh::Mesh,
    serving::ServingConfig,
    source::SourceConfig,
    token::{Caller, TokenKey},
};
use tulle_identity::{
    CaClient, CaClientConfig, CaError, CertificateAuthority, Svid, WallClock,
    control_tls::{ChannelConfig, Credentials, RootSource, TokenSource},
    csr::KeyAndCsr,
};
use tulle_manifest::{ObjectKey, source::directory::DirectoryConfig};
use tulle_model::SpiffeId;
use tulle_xds::{Address, ClientConfig, NodeConfig, client::Termination};

use self::client::{Client, eventually};

const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: zt1, namespace: istio-system, uid: u1}
spec: {nodeName: n1, serviceAccountName: ztunnel}
status: {podIP: 10.0.0.2, phase: Running}
";

const CART: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, uid: c1, labels: {app: cart}}
spec: {nodeName: n1, serviceAccountName: cart}
status: {podIP: 10.0.0.3, phase: Running}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: cart}, ports: [{port: 80}]}
";

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
";

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// A control plane and its directories.
struct Lab {
    directory: tempfile::TempDir,
    control_plane: ControlPlane,
    tokens: TokenKey,
}

impl Lab {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("manifests")).unwrap();
        write(directory.path(), "cluster.yaml", CLUSTER);
        write(directory.path(), "cart.yaml", CART);
        let control_plane = ControlPlane::start(config(directory.path()), None)
            .await
            .unwrap();
        let tokens = TokenKey::load_or_generate(&directory.path().join("state")).unwrap();
        Self {
            directory,
            control_plane,
            tokens,
        }
    }

    fn write(&self, name: &str, text: &str) {
        write(self.directory.path(), name, text);
    }

    fn token(&self, edit: impl Fn(&mut Caller)) -> Credentials {
        let mut caller = Caller {
            account: ObjectKey::new("istio-system", "ztunnel"),
            pod: "zt1".to_owned(),
            pod_uid: "u1".to_owned(),
            node: Some("n1".to_owned()),
        };
        edit(&mut caller);
        let hour = Duration::from_secs(3600);
        let token = self.tokens.issue(&caller, hour, SystemTime::now()).unwrap();
        Credentials {
            token: TokenSource::Literal(token),
            ..Credentials::default()
        }
    }

    fn channel(&self) -> ChannelConfig {
        let roots = self.directory.path().join("state/root-cert.pem");
        let address = format!("https://{}", self.control_plane.address());
        ChannelConfig {
            server_name: Some("istiod.istio-system.svc".to_owned()),
            ..ChannelConfig::new(address, RootSource::File(roots))
        }
    }

    fn client(&self, credentials: Credentials, node: &str) -> Client {
        let node = NodeConfig::new("zt1", "istio-system", node);
        Client::start(ClientConfig::new(self.channel(), credentials, node))
    }

    async fn sign(&self, credentials: Credentials, id: &str, hours: u64) -> Result<Svid, CaError> {
        let client = CaClient::new(CaClientConfig::new(self.channel(), credentials)).unwrap();
        let id: SpiffeId = id.parse().unwrap();
        let request = KeyAndCsr::generate(&id).unwrap();
        let validity = Duration::from_secs(hours * 3600);
        let chain = client.sign(&id, request.csr_pem, validity).await?;
        Ok(Svid::from_response(&id, request.key, &chain, WallClock::default()).unwrap())
    }

    async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let address = self.control_plane.http_addresses()[0];
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn config(directory: &Path) -> Config {
    Config {
        mesh: Mesh::default(),
        source: SourceConfig::Directory {
            manifests: DirectoryConfig::new(directory.join("manifests")),
            state: directory.join("state"),
        },
        ca: None,
        usual_ca: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        http: "127.0.0.1:0".parse().unwrap(),
        debug_port: 0,
        serving: ServingConfig::new("istio-system", []),
        identity: "test".to_owned(),
        authority: AuthorityConfig::default(),
        root_overlap: AuthorityConfig::default().max_ttl,
        waypoints: None,
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join("manifests").join(name), text).unwrap();
}

const CART_UID: &str = "Kubernetes//Pod/shop/cart";
const API: &str = "shop/api.example";
const CART_SERVICE: &str = "shop/cart.shop.svc.cluster.local";

#[tokio::test]
async fn resources_follow_the_manifests() {
    let lab = Lab::start().await;
    let mut client = lab.client(lab.token(|_| ()), "n1");
    client
        .until(|client| client.has(CART_UID) && client.has(CART_SERVICE))
        .await;
    assert_eq!(client.policies_of(CART_UID), 0);

    lab.write("strict.yaml", STRICT);
    client
        .until(|client| client.policies_of(CART_UID) == 1)
        .await;

    // Broken: the last good version stays, and it is known where the mistake is.
    lab.write("strict.yaml", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict, namespace: shop}\nspec: {mtls: {mode: STRCT}}\n");
    lab.write("more.yaml", &CART.replace("cart", "more"));
    client
        .until(|client| client.has("Kubernetes//Pod/shop/more"))
        .await;
    assert_eq!(client.policies_of(CART_UID), 1);
    let source = lab.page("/debug/source").await;
    assert!(source.contains("strict.yaml"), "{source}");
    assert!(
        source.contains("line 4, column 21, field spec.mtls.mode"),
        "{source}"
    );
    let why = lab.page("/debug/why?pod=shop/cart").await;
    for part in [
        "\"selected\":{\"is\":true",
        "\"namespace\":\"ambient\"",
        "\"authorizationPolicies\":[\"",
    ] {
        let found = why.replace([' ', '\n'], "").contains(part);
        assert!(found, "{part} is not in {why}");
    }
    let why = lab.page("/debug/why?pod=shop/nobody").await;
    assert!(why.starts_with("HTTP/1.1 404"), "{why}");
    let streams = lab.page("/debug/streams").await;
    assert!(streams.contains("istio-system/zt1 on n1"), "{streams}");
    let metrics = lab.page("/metrics").await;
    for line in [
        "tulle_control_plane_source_broken_files 1",
        "tulle_control_plane_objects{kind=\"Pod\"} 3",
        "tulle_control_plane_policies{outcome=\"exact\"} 1",
        "tulle_control_plane_xds_streams 1",
        "tulle_control_plane_xds_commit_to_ack_seconds_bucket{le=\"+Inf\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    lab.write("strict.yaml", &STRICT.replace("STRICT", "PERMISSIVE"));
    client
        .until(|client| client.policies_of(CART_UID) == 0)
        .await;
    fs::remove_file(lab.directory.path().join("manifests/cart.yaml")).unwrap();
    client
        .until(|client| !client.has(CART_UID) && !client.has(CART_SERVICE))
        .await;
    let ready = lab.page("/healthz/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
}

/// When the manifest changes, it is the same one.
#[tokio::test]
async fn hosts_without_an_address_are_given_one() {
    let lab = Lab::start().await;
    let mut client = lab.client(lab.token(|_| ()), "n1");
    lab.write("entry.yaml", ENTRY);
    client.until(|client| client.virtual_ips(API) == 2).await;
    let first = client.held[API].clone();
    lab.write("entry.yaml", &ENTRY.replace("number: 443", "number: 444"));
    // It never is without one.
    let other = |client: &Client| client.held[API] != first;
    client.until(other).await;
    assert_eq!(client.virtual_ips(API), 2);
    let mut fresh = lab.client(lab.token(|_| ()), "n1");
    fresh.until(|client| client.has(API)).await;
    assert_eq!(fresh.held[API], client.held[API]);
    let addresses = |address: &Option<Address>| match address {
        Some(Address::Service(service)) => service.vips.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(addresses(&fresh.held[API]), addresses(&first));
}

#[tokio::test]
async fn a_stream_needs_a_token_for_a_running_pod_of_the_node() {
    let lab = Lab::start().await;
    let (good, other_uid) = (
        lab.token(|_| ()),
        lab.token(|caller| caller.pod_uid = "u2".to_owned()),
    );
    let not_a_proxy = lab.token(|caller| {
        caller.account = ObjectKey::new("shop", "cart");
        (caller.pod, caller.pod_uid) = ("cart".to_owned(), "c1".to_owned());
    });
    for (credentials, node) in [
        (Credentials::default(), "n1"),
        (
            Credentials {
                token: TokenSource::Literal("x".to_owned()),
                ..Credentials::default()
            },
            "n1",
        ),
        (other_uid, "n1"),
        (not_a_proxy, "n1"),
        (good.clone(), "n2"),
        (good.clone(), ""),
    ] {
        lab.client(credentials, node).refused().await;
    }
    let mut client = lab.client(good, "n1");
    client.until(|client| client.has(CART_UID)).await;
    let metrics = lab.page("/metrics").await;
    for reason in ["token", "other_pod", "no_proxy", "other_node"] {
        let line = format!("tulle_control_plane_xds_streams_refused_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn certificates_are_for_workloads_of_the_node_only() {
    let lab = Lab::start().await;
    lab.write("far.yaml", &CART.replace("cart", "far").replace("n1", "n2"));
    let good = lab.token(|_| ());
    let mut client = lab.client(good.clone(), "n1");
    client
        .until(|client| client.has("Kubernetes//Pod/shop/far"))
        .await;

    let cart = "spiffe://cluster.local/ns/shop/sa/cart";
    let svid = lab.sign(good.clone(), cart, 24).await.unwrap();
    assert_eq!(svid.id.to_string(), cart);
    let far = "spiffe://cluster.local/ns/shop/sa/far";
    for (credentials, id, hours, expected) in [
        (good.clone(), far, 24, Code::Unauthenticated),
        (
            good.clone(),
            "spiffe://other/ns/shop/sa/cart",
            24,
            Code::Unauthenticated,
        ),
        (
            lab.token(|caller| caller.pod_uid = "u2".to_owned()),
            cart,
            24,
            Code::Unauthenticated,
        ),
        (
            lab.token(|caller| caller.node = Some("n2".to_owned())),
            cart,
            24,
            Code::Unauthenticated,
        ),
        (Credentials::default(), cart, 24, Code::Unauthenticated),
        (good.clone(), cart, 25, Code::InvalidArgument),
    ] {
        match lab.sign(credentials, id, hours).await {
            Err(CaError::Refused { code, message }) => {
                assert_eq!(code, expected, "{id}");
                let opaque = message == "authentication failed";
                assert_eq!(opaque, code == Code::Unauthenticated, "{message}");
            }
            other => panic!("{id}: {other:?}"),
        }
    }
    // The pod leaves the mesh, and with it the right to its identity goes.
    lab.write(
        "cart.yaml",
        &CART.replace(
            "labels: {app: cart}",
            "labels: {app: cart, istio.io/dataplane-mode: none}",
        ),
    );
    lab.write("mark.yaml", &CART.replace("cart", "mark"));
    client
        .until(|client| client.has("Kubernetes//Pod/shop/mark"))
        .await;
    assert!(matches!(
        lab.sign(good, cart, 24).await,
        Err(CaError::Refused {
            code: Code::Unauthenticated,
            ..
        })
    ));
}

#[tokio::test]
async fn a_restart_keeps_authority_and_tokens() {
    let lab = Lab::start().await;
    let roots = lab.directory.path().join("state/root-cert.pem");
    let before = fs::read_to_string(&roots).unwrap();
    let Lab {
        directory,
        control_plane,
        tokens,
    } = lab;
    control_plane.drain(Duration::from_millis(200)).await;
    let control_plane = ControlPlane::start(config(directory.path()), None)
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(&roots).unwrap(), before);
    let lab = Lab {
        directory,
        control_plane,
        tokens,
    };
    let mut client = lab.client(lab.token(|_| ()), "n1");
    client.until(|client| client.has(CART_UID)).await;
}

#[tokio::test]
async fn draining_ends_streams_and_takes_no_more() {
    let lab = Lab::start().await;
    let mut client = lab.client(lab.token(|_| ()), "n1");
    client.until(|client| client.has(CART_UID)).await;
    let Lab { control_plane, .. } = lab;
    let address = control_plane.address();
    control_plane.drain(Duration::from_secs(2)).await;
    eventually(|| client.metrics.terminations(Termination::Complete).value() > 0).await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn nothing_is_served_before_all_manifests_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("manifests")).unwrap();
    write(directory.path(), "a.yaml", CART);
    write(
        directory.path(),
        "b.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {}\n",
    );
    match ControlPlane::start(config(directory.path()), None).await {
        Err(RunError::Source(error)) => {
            let text = error.to_string();
            assert!(
                text.contains("b.yaml: line 3, column 11, field metadata"),
                "{text}"
            );
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("started"),
    }
}
