//! Keys of tokens' issuers, which waypoints ask for themselves.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tulle_lab::{MeshConfig, PodSpec, Program, sandbox::Sandbox};

use crate::{
    app::{Client, Server},
    policies::{SERVICE, policy},
    world::{ONE, TWO, WAYPOINT, client, eventually, service, start, start_as},
};

/// Who signs tokens.
pub(crate) struct Issuer {
    key: EncodingKey,
    id: Option<String>,
}

impl Issuer {
    pub(crate) fn new() -> Result<Self> {
        let pem = rcgen::KeyPair::generate()?.serialize_pem();
        Ok(Self {
            key: EncodingKey::from_ec_pem(pem.as_bytes())?,
            id: None,
        })
    }

    /// Its key has a name.
    fn named(id: &str) -> Result<Self> {
        let id = Some(id.to_owned());
        Ok(Self { id, ..Self::new()? })
    }

    /// Its public key, as JSON.
    pub(crate) fn keys(&self) -> Result<String> {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256)?;
        key.common.key_id = self.id.clone();
        Ok(json!({ "keys": [key] }).to_string())
    }

    pub(crate) fn sign(&self, claims: &serde_json::Value) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = self.id.clone();
        Ok(encode(&header, claims, &self.key)?)
    }
}

/// Whoever is asked for keys.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<HashMap<String, String>>>);

impl Told {
    /// From now on, this is there.
    fn say(&self, path: &str, text: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned(), text);
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = all.get(request.uri().path()).cloned();
        let mut response = Response::new(Full::from(text.clone().unwrap_or_default()));
        if text.is_none() {
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
        }
        response
    }

    fn serve(&self, listener: TcpListener, tls: Option<TlsAcceptor>) -> Serving {
        let told = self.clone();
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                match tls.clone() {
                    None => drop(tokio::spawn(converse(told.clone(), tcp))),
                    Some(tls) => {
                        let told = told.clone();
                        drop(tokio::spawn(async move {
                            converse(told, tls.accept(tcp).await?).await
                        }));
                    }
                }
            }
        });
        Serving(serving.abort_handle())
    }
}

async fn converse(told: Told, io: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let answer = async |request| Ok::<_, Infallible>(told.answer(&request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(io), service_fn(answer));
    Ok(served.await?)
}

/// It is there until this is dropped.
struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Of a service of the mesh: by a tunnel, from who it is meant to be. Keys that are exchanged are known at once, and a service that is not
/// there yet once it is.
pub(crate) async fn keys_are_asked_for(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.start_pod(PodSpec::new(KEYS, "node2").label("app", "keys"))
        .await?;
    mesh.apply(MESH).await?;
    let (first, second) = (Issuer::named("first")?, Issuer::named("second")?);
    let told = Told::default();
    told.say("/keys", first.keys()?);
    told.say("/later", first.keys()?);
    let about = json!({"issuer": "http://keys.shop", "jwks_uri": "http://keys.shop/tenant"});
    told.say("/.well-known/openid-configuration", about.to_string());
    told.say("/tenant", second.keys()?);
    let lies = json!({"issuer": "http://keys.shop", "jwks_uri": "http://keys.shop/tenant"});
    told.say("/liar/.well-known/openid-configuration", lies.to_string());
    let _keys = told.serve(mesh.pod(KEYS).listen(8080)?, None);
    let rules = "jwtRules: [{issuer: i, jwksUri: 'http://keys.shop.svc.cluster.local/keys'}, \
                 {issuer: 'http://keys.shop'}, {issuer: 'http://keys.shop/liar'}, \
                 {issuer: late, jwksUri: 'http://keys.shop:81/later'}]";
    mesh.apply(&policy(
        "RequestAuthentication",
        &format!("{SERVICE}, {rules}"),
    ))
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    // Nobody but the mesh gets there, and who the server is has been proved.
    answered(&mut connection, &first, "i", 200, "").await?;
    answered(&mut connection, &second, "http://keys.shop", 200, "").await?;
    let not_had = "Jwks remote fetch is failed";
    answered(
        &mut connection,
        &second,
        "http://keys.shop/liar",
        401,
        not_had,
    )
    .await?;
    answered(&mut connection, &first, "late", 401, not_had).await?;
    ensure!(get(&mut connection, &second, "i").await? == (401, "Jwt verification fails".into()));
    // Another key, by another name: the first request that brings it is good.
    told.say("/keys", second.keys()?);
    let third = Issuer::named("third")?;
    told.say("/tenant", third.keys()?);
    let rotated = get(&mut connection, &third, "http://keys.shop").await?;
    ensure!(rotated.0 == 200, "{rotated:?}");
    let revoked = get(&mut connection, &second, "http://keys.shop").await?;
    ensure!(revoked.0 == 401, "{revoked:?}");
    // Who was not there comes.
    let _later = told.serve(mesh.pod(KEYS).listen(8081)?, None);
    answered(&mut connection, &first, "late", 200, "").await?;
    // Policies hold for the waypoint as for anybody, also where it is the one that asks them.
    mesh.apply(&MESH.replace("namespace: shop}\nspec: {clusterIP", SERVED))
        .await?;
    let refuses = "targetRefs: [{group: '', kind: Service, name: keys}], action: DENY, rules: [\
                   {to: [{operation: {paths: [/keys]}}]}]";
    mesh.apply(&policy("AuthorizationPolicy", refuses)).await?;
    eventually("the policy is in force", async || {
        let at = SocketAddr::from(([10, 96, 200, 20], 80));
        let Ok(mut connection) = Client::connect(client(&mesh), at, false).await else {
            return false;
        };
        let answer = connection.get("/keys", &[]).await;
        answer.is_ok_and(|answer| answer.status.as_u16() == 403)
    })
    .await?;
    let rules = "jwtRules: [{issuer: i, jwksUri: 'http://keys.shop:80/./keys'}, \
                 {issuer: o, jwksUri: 'http://keys.shop:80/tenant'}]";
    mesh.apply(&policy(
        "RequestAuthentication",
        &format!("{SERVICE}, {rules}"),
    ))
    .await?;
    answered(&mut connection, &third, "o", 200, "").await?;
    answered(&mut connection, &second, "i", 401, not_had).await?;
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    for outcome in ["ok", "not_understood", "unreachable", "refused"] {
        let count = metrics.sum("tulle_jwks_fetches_total", &[("outcome", outcome)]);
        ensure!(count > 0.0, "{outcome}: {count}");
    }
    Ok(())
}

/// Of a host that is not of the mesh: in plain text, or by TLS with one whom operators trust.
pub(crate) async fn keys_come_from_outside(sandbox: Sandbox) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root.pem");
    let (trusted, stranger) = (Authority::new()?, Authority::new()?);
    std::fs::write(&root, &trusted.pem)?;
    let mut config = MeshConfig::new()?;
    let root = root.to_str().context("a path")?.to_owned();
    config.waypoint_env = vec![("TULLE_JWKS_ROOT_CA".to_owned(), root)];
    let mut mesh = start_as(&sandbox, config).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let issuer = Issuer::named("a")?;
    let told = Told::default();
    told.say("/keys", issuer.keys()?);
    mesh.start_pod(PodSpec::new(KEYS, "node2").label("istio.io/dataplane-mode", "none"))
        .await?;
    let _plain = told.serve(mesh.pod(KEYS).listen(8080)?, None);
    let node = mesh.lab().node("node2");
    let at = *node.addresses().first().context("an address")?;
    let listen = |port| -> Result<TcpListener> {
        let any = SocketAddr::new([0u16; 8].into(), port);
        let options = tulle_net::listen::ListenOptions::new(any);
        let listener = tulle_net::listen::listen(node.netns(), &options)?;
        Ok(TcpListener::from_std(listener.socket)?)
    };
    let _trusted = told.serve(listen(8443)?, Some(trusted.proves(at)?));
    let _untrusted = told.serve(listen(8444)?, Some(stranger.proves(at)?));
    let pod = mesh.pod(KEYS).ip();
    let rules = format!(
        "jwtRules: [{{issuer: plain, jwksUri: 'http://{pod}:8080/keys'}}, {{issuer: tls, jwksUri: 'https://{at}:8443/keys'}}, \
         {{issuer: other, jwksUri: 'https://{at}:8444/keys'}}]"
    );
    mesh.apply(&policy(
        "RequestAuthentication",
        &format!("{SERVICE}, {rules}"),
    ))
    .await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    answered(&mut connection, &issuer, "plain", 200, "").await?;
    answered(&mut connection, &issuer, "tls", 200, "").await?;
    let not_had = "Jwks remote fetch is failed";
    answered(&mut connection, &issuer, "other", 401, not_had).await
}

/// CVE-2026-31837, GHSA-fgw5-hp8f-xfhc: what is only there for who is near is not asked, however it is spelled; and keys that cannot be had
/// make no token good.
pub(crate) async fn nobody_is_asked_who_is_near(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let waypoint = mesh.pod(WAYPOINT);
    // It would be reached.
    let add = Program::new("add", "/usr/sbin/ip").args([
        "address",
        "add",
        "169.254.169.254/32",
        "dev",
        "lo",
    ]);
    let added = waypoint.exec(&add).await?;
    ensure!(added.status.success(), "{added:?}");
    let near = waypoint.listen(9999)?;
    drop(
        waypoint
            .connect(([169, 254, 169, 254], 9999).into())
            .await?,
    );
    near.accept().await?;
    let hosts = [
        "169.254.169.254",
        // Names, as far as anybody can tell before they are looked up.
        "2852039166",
        "0xa9fea9fe",
        "localhost",
        "127.0.0.1",
        "[::ffff:169.254.169.254]",
        "[::1]",
        "0.0.0.0",
    ];
    let rules: Vec<_> = hosts
        .iter()
        .map(|host| format!("{{issuer: '{host}', jwksUri: 'http://{host}:9999/keys'}}"))
        .collect();
    let rules = format!("{SERVICE}, jwtRules: [{}]", rules.join(", "));
    mesh.apply(&policy("RequestAuthentication", &rules)).await?;
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let issuer = Issuer::new()?;
    for host in hosts {
        answered(
            &mut connection,
            &issuer,
            host,
            401,
            "Jwks remote fetch is failed",
        )
        .await?;
    }
    // {"alg":"none"} and {"iss":"localhost"}, without a signature; and nothing that looks like one.
    for token in ["eyJhbGciOiJub25lIn0.eyJpc3MiOiJsb2NhbGhvc3QifQ.", "x"] {
        let bearer = format!("Bearer {token}");
        let answer = connection.get("/", &[("authorization", &*bearer)]).await?;
        ensure!(answer.status.as_u16() == 401, "{answer:?}");
    }
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    let count = |outcome| metrics.sum("tulle_jwks_fetches_total", &[("outcome", outcome)]);
    ensure!(count("refused") >= hosts.len() as f64);
    ensure!(count("ok") + count("http") + count("unreachable") == 0.0);
    let asked = tokio::select! {
        biased;
        asked = near.accept() => Some(asked?.1),
        () = std::future::ready(()) => None,
    };
    ensure!(asked.is_none(), "{asked:?} asked for keys");
    Ok(())
}

/// Routes look at claims of valid tokens, and at nothing else that looks like them.
pub(crate) async fn claims_choose_routes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec:
  hosts: [web]
  http:
  - match: [{headers: {'@request.auth.claims.role': {exact: admin}, '@request.auth.claims[realm.access][team]': {prefix: a}}}]
    route: [{destination: {host: two, port: {number: 8000}}}]
  - match: [{withoutHeaders: {'@request.auth.claims.sub': {}}}]
    directResponse: {status: 203, body: {string: nobody}}
  - route: [{destination: {host: one, port: {number: 8000}}}]
",
    )
    .await?;
    let (issuer, stranger) = (Issuer::new()?, Issuer::new()?);
    let keys = issuer.keys()?;
    let rules = format!("{SERVICE}, jwtRules: [{{issuer: i, jwks: '{keys}'}}]");
    let mut connection = Client::connect(client(&mesh), service(80), false).await?;
    let token = |signer: &Issuer, role: &str, team: &str| {
        let access = json!({"team": ["x", team]});
        signer.sign(&json!({"iss": "i", "sub": "s", "role": role, "realm.access": access}))
    };
    let good = token(&issuer, "admin", "a1")?;
    // As long as nobody checks tokens, nobody is known.
    let unchecked = tokio::sync::Mutex::new(&mut connection);
    eventually("the routes are there", async || {
        let bearer = format!("Bearer {good}");
        let mut connection = unchecked.lock().await;
        let answer = connection.get("/", &[("authorization", &bearer)]).await;
        answer.is_ok_and(|answer| answer.status.as_u16() == 203)
    })
    .await?;
    mesh.apply(&policy("RequestAuthentication", &rules)).await?;
    answered(&mut connection, &stranger, "i", 401, "").await?;
    for (token, status, expected) in [
        (Some(good), 200, "two"),
        (Some(token(&issuer, "admin", "b")?), 200, "one"),
        (Some(token(&issuer, "user", "a1")?), 200, "one"),
        (Some(token(&stranger, "admin", "a1")?), 401, "Jwt"),
        (None, 203, "nobody"),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let bearer = bearer.iter().map(|bearer| ("authorization", &**bearer));
        let headers: Vec<_> = bearer
            .chain([("role", "admin"), ("x-role", "admin")])
            .collect();
        let answer = connection.get("/", &headers).await?;
        let pod = answer.saw("/pod");
        let told = if pod.is_empty() { &answer.text } else { &pod };
        ensure!(
            answer.status.as_u16() == status && told.contains(expected),
            "{expected}: {answer:?}"
        );
    }
    // A header of that name is none.
    let mut raw = client(&mesh).connect(service(80)).await?;
    raw.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n@request.auth.claims.role: admin\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    raw.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(!answer.contains("two"), "{answer}");
    Ok(())
}

/// Waits until a token of an issuer is answered like this.
async fn answered(
    connection: &mut Client,
    signer: &Issuer,
    issuer: &str,
    status: u16,
    text: &str,
) -> Result<()> {
    let connection = tokio::sync::Mutex::new(connection);
    eventually(&format!("{issuer}: {status} {text}"), async || {
        let mut connection = connection.lock().await;
        let answer = get(&mut connection, signer, issuer).await;
        answer.is_ok_and(|(found, told)| found == status && told.contains(text))
    })
    .await
}

/// Status and text of the answer to a request with a token.
async fn get(connection: &mut Client, signer: &Issuer, issuer: &str) -> Result<(u16, String)> {
    let token = signer.sign(&json!({"iss": issuer, "sub": "s", "exp": u32::MAX}))?;
    let bearer = format!("Bearer {token}");
    let answer = connection.get("/", &[("authorization", &*bearer)]).await?;
    Ok((answer.status.as_u16(), answer.text))
}

/// Who says who somebody is, outside the mesh.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    /// Somebody at an address who can prove that.
    fn proves(&self, address: IpAddr) -> Result<TlsAcceptor> {
        let key = rcgen::KeyPair::generate()?;
        let params = rcgen::CertificateParams::new(vec![address.to_string()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

const KEYS: &str = "shop/keys";
/// What makes it one of the waypoint.
const SERVED: &str = "namespace: shop, labels: {istio.io/use-waypoint: w}}\nspec: {clusterIP";
/// A service that only the mesh reaches.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: keys, namespace: shop}
spec: {clusterIP: 10.96.200.20, clusterIPs: [10.96.200.20], selector: {app: keys}, ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}, {name: http-late, port: 81, targetPort: 8081, protocol: TCP}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";
