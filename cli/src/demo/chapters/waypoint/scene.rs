//! A namespace with a waypoint: two services, and how they are asked.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::json;
use tokio::time::timeout;
use tulle_lab::{PodSpec, Waypoint, wait_for};

use super::super::super::world::{CART, LABEL, PATIENCE, SETTLE_LIMIT, World};
use crate::workload::Answer;

/// The waypoint.
pub(super) const WAYPOINT: &str = "store/waypoint";
/// Two versions of one service.
pub(super) const FRONT: &str = "10.96.210.1:80";
/// A service one of whose pods fails.
pub(super) const BILLING: &str = "10.96.210.2:80";

/// The namespace, as it runs.
pub(super) struct Scene<'a> {
    world: &'a mut World,
}

/// What a request was answered.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// What the server says, if it was that.
    pub(super) answer: Option<Answer>,
}

impl<'a> Scene<'a> {
    /// Starts pods and waypoint.
    pub(super) async fn set(world: &'a mut World) -> Result<Self> {
        world.mesh.apply(SERVICES).await?;
        for (pod, app, version) in [
            ("store/front-v1", "front", "v1"),
            ("store/front-v2", "front", "v2"),
            ("store/billing-good", "billing", "good"),
            ("store/billing-bad", "billing", "bad"),
        ] {
            let spec = PodSpec::new(pod, "node2")
                .label("app", app)
                .label("version", version);
            world.mesh.add_pod(spec).await?;
            let status = if version == "bad" { "503" } else { "200" };
            world.serve(pod, &["--status", status])?;
        }
        world
            .mesh
            .label_namespace("store", LABEL, "ambient")
            .await?;
        world.mesh.add_waypoint(WAYPOINT, "node1").await?;
        let scene = Self { world };
        // From here on each request is seen by the waypoint.
        wait_for(
            "requests go through the waypoint",
            SETTLE_LIMIT,
            async || {
                let reply = scene.send(FRONT, Method::GET, "/first", &[]).await.ok()?;
                reply
                    .answer?
                    .headers
                    .contains_key("x-request-id")
                    .then_some(())
            },
        )
        .await?;
        Ok(scene)
    }

    pub(super) fn waypoint(&self) -> &Waypoint {
        self.world.mesh.waypoint(WAYPOINT)
    }

    pub(super) async fn apply(&mut self, yaml: &str) -> Result<()> {
        self.world.mesh.apply(yaml).await
    }

    pub(super) async fn remove(&mut self, kind: &str, name: &str) -> Result<()> {
        self.world.mesh.remove(kind, "store", name).await
    }

    /// How often each answered, by name, or by status if that was no success.
    pub(super) async fn answers(
        &self,
        to: &str,
        count: usize,
        headers: &[(&str, &str)],
    ) -> Result<BTreeMap<String, usize>> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let reply = self.send(to, Method::GET, "/", headers).await?;
            let who = match (reply.status, reply.answer) {
                (StatusCode::OK, Some(answer)) => answer.server,
                (status, _) => status.as_u16().to_string(),
            };
            *answers.entry(who).or_default() += 1;
        }
        Ok(answers)
    }

    /// One request, over a connection of its own.
    pub(super) async fn send(
        &self,
        to: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply> {
        let to: SocketAddr = to.parse()?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "store");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<bytes::Bytes>::new())?;
        let exchange = async {
            let stream = self.world.mesh.pod(CART).connect(to).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok(Reply {
                status,
                answer: serde_json::from_slice(&body).ok(),
            })
        };
        timeout(PATIENCE, exchange).await.context("no answer")?
    }
}

/// Who signs tokens of end users.
pub(super) struct Issuer(EncodingKey);

impl Issuer {
    pub(super) fn new() -> Result<Self> {
        let pem = rcgen::KeyPair::generate()?.serialize_pem();
        Ok(Self(EncodingKey::from_ec_pem(pem.as_bytes())?))
    }

    pub(super) fn token(&self) -> Result<String> {
        let claims = json!({"iss": "store", "sub": "eve", "exp": u32::MAX});
        Ok(encode(&Header::new(Algorithm::ES256), &claims, &self.0)?)
    }

    /// Its tokens are valid, and needed; and nobody deletes.
    pub(super) fn policies(&self) -> Result<String> {
        let key = Jwk::from_encoding_key(&self.0, Algorithm::ES256)?;
        let keys = json!({ "keys": [key] });
        Ok(POLICIES.replace("KEYS", &keys.to_string()))
    }
}

const SERVICES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: store, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: store}
spec: {clusterIP: 10.96.210.1, selector: {app: front}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: store}
spec: {clusterIP: 10.96.210.2, selector: {app: billing}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

pub(super) const CANARY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: front, namespace: store}
spec:
  host: front
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: store}
spec:
  hosts: [front]
  http:
  - match: [{uri: {exact: /teapot}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: front}}]
  - match: [{headers: {x-canary: {exact: 'yes'}}}]
    route: [{destination: {host: front, subset: v2}}]
  - route:
    - {destination: {host: front, subset: v1}, weight: 90}
    - {destination: {host: front, subset: v2}, weight: 10}
";

pub(super) const RETRY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: billing, namespace: store}
spec:
  hosts: [billing]
  http:
  - retries: {attempts: 3, retryOn: 5xx}
    route: [{destination: {host: billing}}]
";

pub(super) const EJECTION: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: billing, namespace: store}
spec:
  host: billing
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 60s, maxEjectionPercent: 50}}
";

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: front, namespace: store}
spec:
  targetRefs: [{group: '', kind: Service, name: front}]
  jwtRules: [{issuer: store, jwks: 'KEYS'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: store}
spec:
  targetRefs: [{group: '', kind: Service, name: front}]
  action: ALLOW
  rules: [{from: [{source: {requestPrincipals: [store/eve]}}], to: [{operation: {methods: [GET]}}]}]
";
