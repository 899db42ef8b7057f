//! A compromised node, or a guest, at the control plane.

use std::{
    fs, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tulle_identity::{
    CaClient, CaClientConfig, CaError, CertificateAuthority,
    control_tls::{ChannelConfig, Credentials, RootSource, TokenSource},
    csr::KeyAndCsr,
};
use tulle_lab::{Mesh, sandbox::Sandbox};
use tulle_xds::{ClientConfig, NodeConfig, Subscriber, run_client};

use crate::world::{SOON, World, identity, soon};

/// ztunnel impersonation, CSR abuse: a node gets the identities of the pods on it, by its own, valid token.
pub(crate) async fn certificates_need_the_right_token(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let forge = Forge::at(&world.mesh)?;
    let at = ControlPlane::of(&world.mesh);
    // What the real node proxies have.
    ensure!(
        at.sign(&forge.node1(), "cart").await?,
        "node1 may have cart"
    );
    ensure!(
        !at.sign(&forge.node1(), "web").await?,
        "node1 got the identity of a pod on node2"
    );
    ensure!(
        !at.sign(&forge.node1(), "nobody").await?,
        "an identity of nobody"
    );
    for (name, token) in forge.bad_tokens()? {
        ensure!(!at.sign(&token, "cart").await?, "{name} was accepted");
    }
    let elsewhere = ControlPlane {
        cluster: "another".to_owned(),
        ..ControlPlane::of(&world.mesh)
    };
    ensure!(
        !elsewhere.sign(&forge.node1(), "cart").await?,
        "a caller of another cluster was given a certificate"
    );
    ensure!(
        at.sign(&forge.node1(), "cart").await?,
        "node1 may have cart, afterwards"
    );
    world.recovers().await
}

/// xDS impersonation: what a client says of its node in the request opens nothing that its token does not.
pub(crate) async fn configuration_needs_the_right_node(sandbox: Sandbox) -> Result<()> {
    let world = World::start(&sandbox).await?;
    let forge = Forge::at(&world.mesh)?;
    let at = ControlPlane::of(&world.mesh);
    ensure!(
        at.subscribe(&forge.node1(), "node1").await?,
        "node1 is served"
    );
    ensure!(
        !at.subscribe(&forge.node1(), "node2").await?,
        "node1 was taken for node2"
    );
    for (name, token) in forge.bad_tokens()? {
        ensure!(!at.subscribe(&token, "node1").await?, "{name} was accepted");
    }
    let elsewhere = ControlPlane {
        cluster: "another".to_owned(),
        ..ControlPlane::of(&world.mesh)
    };
    ensure!(
        !elsewhere.subscribe(&forge.node1(), "node1").await?,
        "a caller of another cluster is served"
    );
    ensure!(
        at.subscribe(&forge.node1(), "node1").await?,
        "node1 is served, afterwards"
    );
    world.recovers().await
}

/// Makes tokens with the control plane's own key, so that nothing but their content is wrong.
pub(crate) struct Forge {
    key: EncodingKey,
    /// The real token of the ztunnel on `node1`, and its claims.
    token: String,
    claims: Value,
}

impl Forge {
    pub(crate) fn at(mesh: &Mesh) -> Result<Self> {
        let key = fs::read(mesh.lab().dir().join("state/token-key.pem"))?;
        let token = fs::read_to_string(mesh.lab().dir().join("node1/token"))?;
        let token = token.trim().to_owned();
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token)?.claims;
        Ok(Self {
            key: EncodingKey::from_ec_pem(&key)?,
            token,
            claims,
        })
    }

    pub(crate) fn node1(&self) -> String {
        self.token.clone()
    }

    /// The token of a pod of that name and service account on `node1`.
    pub(crate) fn of_pod(&self, namespace: &str, name: &str) -> Result<String> {
        let mut claims = self.claims.clone();
        let subject = format!("system:serviceaccount:{namespace}:{name}");
        for (path, value) in [
            ("/sub", &*subject),
            ("/kubernetes.io/namespace", namespace),
            ("/kubernetes.io/serviceaccount/name", name),
            ("/kubernetes.io/pod/name", name),
        ] {
            *claims.pointer_mut(path).with_context(|| path.to_owned())? = json!(value);
        }
        Ok(encode(&Header::new(Algorithm::ES256), &claims, &self.key)?)
    }

    fn with(&self, path: &str, value: Value) -> Result<String> {
        let mut claims = self.claims.clone();
        *claims
            .pointer_mut(path)
            .with_context(|| format!("no {path} in {}", self.claims))? = value;
        Ok(encode(&Header::new(Algorithm::ES256), &claims, &self.key)?)
    }

    fn bad_tokens(&self) -> Result<Vec<(&'static str, String)>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let [_, claims, signature] = self.token.split('.').collect::<Vec<_>>()[..] else {
            return Err(anyhow!("not a token"));
        };
        // {"alg":"none"}
        let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
        // {"alg":"HS256"}, signed with what an attacker knows.
        let header = Header::new(Algorithm::HS256);
        let guessed = encode(&header, &self.claims, &EncodingKey::from_secret(b"public"))?;
        let tampered = self.with("/kubernetes.io/pod/name", json!("ztunnel-node2"))?;
        let tampered = tampered
            .rsplit_once('.')
            .context("not a token")?
            .0
            .to_owned();
        Ok(vec![
            ("no token", String::new()),
            ("garbage", "x.y.z".into()),
            ("alg none", unsigned),
            ("a symmetric key", guessed),
            ("another signature", format!("{tampered}.{signature}")),
            ("expired", self.with("/exp", json!(now - 3600))?),
            ("not valid yet", self.with("/nbf", json!(now + 3600))?),
            ("another audience", self.with("/aud", json!(["vault"]))?),
            (
                "another issuer",
                self.with("/iss", json!("https://evil.example"))?,
            ),
            (
                "a pod that is no more",
                self.with(
                    "/kubernetes.io/pod/uid",
                    json!("00000000-0000-4000-9000-00000000dead"),
                )?,
            ),
            (
                "another pod",
                self.with("/kubernetes.io/pod/name", json!("ztunnel-node2"))?,
            ),
            (
                "another node",
                self.with("/kubernetes.io/node/name", json!("node2"))?,
            ),
            (
                "another account",
                self.with("/sub", json!("system:serviceaccount:shop:cart"))?,
            ),
        ])
    }
}

/// The control plane as seen from `node1`.
pub(crate) struct ControlPlane {
    netns: tulle_net::Netns,
    ip: std::net::IpAddr,
    root: std::path::PathBuf,
    /// The cluster that callers say they are of.
    pub(crate) cluster: String,
}

impl ControlPlane {
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let ip = mesh.lab().control().addresses().first().copied();
        let ip = ip.expect("a family");
        Self {
            netns: mesh.lab().node("node1").netns().clone(),
            ip,
            root: mesh.lab().dir().join("state/root-cert.pem"),
            cluster: "Kubernetes".to_owned(),
        }
    }

    pub(crate) fn channel(&self, token: &str) -> (ChannelConfig, Credentials) {
        let token = match token {
            "" => TokenSource::None,
            token => TokenSource::Literal(token.to_owned()),
        };
        let credentials = Credentials {
            token,
            cluster_id: Some(self.cluster.clone()),
            headers: Vec::new(),
        };
        let root = RootSource::File(self.root.clone());
        let address = format!("https://{}", self.socket());
        (ChannelConfig::new(address.as_str(), root), credentials)
    }

    pub(crate) fn socket(&self) -> std::net::SocketAddr {
        (self.ip, 15012).into()
    }

    /// Whether a certificate for an account of `shop` is signed. Anything but a refusal is a failure of the test.
    pub(crate) async fn sign(&self, token: &str, account: &str) -> Result<bool> {
        let (channel, credentials) = self.channel(token);
        let id = identity(account);
        let signing = self.inside(async move {
            let key = KeyAndCsr::generate(&id)?;
            let client = CaClient::new(CaClientConfig::new(channel, credentials))?;
            let signed = client
                .sign(&id, key.csr_pem, Duration::from_secs(3600))
                .await;
            match signed {
                Ok(chain) => Ok(!chain.is_empty()),
                Err(CaError::Refused { message, .. })
                    if message.contains("authentication failed") =>
                {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        });
        soon("an answer of the CA", signing).await
    }

    /// Whether configuration is served to who says to be `node`.
    pub(crate) async fn subscribe(&self, token: &str, node: &str) -> Result<bool> {
        let (channel, credentials) = self.channel(token);
        let node = NodeConfig::new("ztunnel-node1", "istio-system", node);
        let subscribing = self.inside(async move {
            let config = ClientConfig::new(channel, credentials, node);
            let metrics = config.metrics.clone();
            let (ready, served) = tokio::sync::oneshot::channel();
            let refused = tulle_lab::wait_for("an answer", SOON, async || {
                (metrics.grpc_errors.value() > 0).then_some(false)
            });
            tokio::select! {
                never = run_client(config, Nobody, move || assert!(ready.send(()).is_ok())) => match never {},
                served = served => Ok(served.is_ok()),
                refused = refused => refused,
            }
        });
        soon("an answer of xDS", subscribing).await
    }

    /// Runs something that connects by itself in the node's network.
    pub(crate) async fn inside<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = tokio::sync::oneshot::channel();
        let netns = self.netns.clone();
        thread::spawn(move || {
            let run = || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(work)
            };
            let result = netns
                .enter(run)
                .map_err(Into::into)
                .and_then(|result| result);
            drop(done.send(result));
        });
        result.await?
    }
}

struct Nobody;

impl Subscriber for Nobody {
    fn addresses(&mut self, _delta: tulle_xds::Delta<tulle_xds::Address>) {}
    fn policies(&mut self, _delta: tulle_xds::Delta<tulle_model::Authorization>) {}
}
