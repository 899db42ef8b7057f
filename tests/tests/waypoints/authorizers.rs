//! Authorizers outside of the mesh's own policies: who asks them, what they see, and what they bring about.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1::Builder,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Status, transport::Server as GrpcServer};
use tulle_lab::{Mesh, Pod, PodSpec, sandbox::Sandbox};
use tulle_proto::authorizer::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, QueryParameter, Status as Code,
    authorization_server::{Authorization, AuthorizationServer},
    check_response::HttpResponse,
};

use crate::{
    app::{Answer, Client, Grpc, Server, greet},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// By gRPC: a yes changes the request and the response, a no is the client's answer, and without either it is refused.
pub(crate) async fn by_grpc(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let guard = begin(&mut mesh).await?;
    mesh.apply(&settings("envoyExtAuthzGrpc", "timeout: 1s"))
        .await?;
    mesh.apply(&custom("rules: [{to: [{operation: {notPaths: [/open]}}]}]"))
        .await?;
    eventually("somebody is asked", async || {
        let answer = asked(&mesh, "/", &[("x-guard", "no")]).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::IM_A_TEAPOT)
    })
    .await?;
    let before = guard.seen().len();

    // What no rule matches is none of its business.
    let answer = asked(&mesh, "/open", &[("x-guard", "no")]).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(guard.seen().len() == before, "asked without need");

    let headers = [
        ("x-secret", "s"),
        ("x-list", "a"),
        ("x-list", "b"),
        ("x-old", "1"),
    ];
    let answer = asked(&mesh, "/a?keep=1&gone=2&set=3", &headers).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.saw("/uri") == "/a?keep=1&set=new", "{answer:?}");
    ensure!(answer.saw("/headers/x-secret").is_empty(), "{answer:?}");
    ensure!(answer.saw("/headers/x-user") == "jo", "{answer:?}");
    ensure!(answer.saw("/headers/x-old") == "2", "{answer:?}");
    ensure!(answer.saw("/headers/host") == "web.shop", "{answer:?}");
    ensure!(
        answer
            .headers
            .get("x-seen")
            .is_some_and(|seen| seen == "yes"),
        "{answer:?}"
    );
    let seen = guard.seen().pop().context("nothing was asked")?;
    let of = seen.attributes.context("no attributes")?;
    let (source, destination) = (
        of.source.context("no source")?,
        of.destination.context("no destination")?,
    );
    ensure!(
        source.principal == "spiffe://cluster.local/ns/shop/sa/cart",
        "{source:?}"
    );
    ensure!(
        destination.principal == "spiffe://cluster.local/ns/shop/sa/w",
        "{destination:?}"
    );
    let address = |peer: tulle_proto::authorizer::Peer| {
        let socket = peer.address.and_then(|address| address.socket_address);
        socket
            .map(|socket| (socket.address, socket.port_value))
            .unwrap_or_default()
    };
    ensure!(address(source).0 == client(&mesh).ip().to_string());
    ensure!(address(destination) == ("10.96.200.1".to_owned(), 80));
    let http = of
        .request
        .and_then(|request| request.http)
        .context("no request")?;
    ensure!(
        (http.method.as_str(), http.path.as_str()) == ("GET", "/a?keep=1&gone=2&set=3"),
        "{http:?}"
    );
    ensure!(
        (http.host.as_str(), http.scheme.as_str()) == ("web.shop", "http"),
        "{http:?}"
    );
    ensure!(
        http.headers.get("x-list").is_some_and(|list| list == "a,b"),
        "{http:?}"
    );
    ensure!(!http.id.is_empty() && http.body.is_empty(), "{http:?}");

    // A no is told as it was said; to a client of gRPC in its own way.
    let answer = asked(&mesh, "/", &[("x-guard", "no")]).await?;
    ensure!(answer.text == "not today", "{answer:?}");
    ensure!(
        answer
            .headers
            .get("x-why")
            .is_some_and(|why| why == "because"),
        "{answer:?}"
    );
    let mut connection = Client::connect(client(&mesh), service(80), true).await?;
    let grpc = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-guard", "no"),
    ];
    let answer = connection
        .send("POST", "/a.B/C", &grpc, Bytes::new())
        .await?;
    ensure!(answer.headers.contains_key("grpc-status"), "{answer:?}");
    let access = mesh
        .waypoint(WAYPOINT)
        .wait_for_access("a no", SOON, |line| line.is("response_code", "418"));
    let access = access.await?;
    ensure!(access.is("response_flags", "UAEX"), "{access:?}");
    ensure!(
        access.is("response_code_details", "ext_authz_denied"),
        "{access:?}"
    );

    // Nobody answers, or nothing that can be understood: refused.
    let reached = servers
        .iter()
        .map(|server| server.asked("/lost").len())
        .sum::<usize>();
    for how in ["error", "hang", "malformed"] {
        let answer = asked(&mesh, "/lost", &[("x-guard", how)]).await?;
        ensure!(answer.status == StatusCode::FORBIDDEN, "{how}: {answer:?}");
    }
    mesh.remove_pod(GUARD).await?;
    answers(&mesh, "there is nobody to ask", StatusCode::FORBIDDEN).await?;
    let answer = asked(&mesh, "/lost", &[]).await?;
    ensure!(answer.status == StatusCode::FORBIDDEN, "{answer:?}");
    let lost = servers
        .iter()
        .map(|server| server.asked("/lost").len())
        .sum::<usize>();
    ensure!(lost == reached, "what nobody permitted was sent");
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    for outcome in ["permitted", "refused", "error"] {
        let labels = [("authorizer", "guard"), ("outcome", outcome)];
        ensure!(
            metrics.sum("tulle_authorizer_requests_total", &labels) >= 1.0,
            "{outcome}"
        );
    }

    // Operators may want it otherwise, or with another status.
    mesh.apply(&settings(
        "envoyExtAuthzGrpc",
        "timeout: 1s, statusOnError: '503'",
    ))
    .await?;
    answers(
        &mesh,
        "the other status is given",
        StatusCode::SERVICE_UNAVAILABLE,
    )
    .await?;
    mesh.apply(&settings(
        "envoyExtAuthzGrpc",
        "timeout: 1s, failOpen: true",
    ))
    .await?;
    answers(&mesh, "what cannot be asked about passes", StatusCode::OK).await?;
    // One that nothing is said of is not passed over.
    mesh.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n",
    )
    .await?;
    answers(
        &mesh,
        "nobody of that name can be asked",
        StatusCode::FORBIDDEN,
    )
    .await
}

/// As much of a body as is said, and the rest of it arrives all the same; and nobody is asked about what is no request.
pub(crate) async fn see_bodies(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let guard = begin(&mut mesh).await?;
    let body = |more: &str| {
        settings(
            "envoyExtAuthzGrpc",
            &format!("timeout: 5s, includeRequestBodyInCheck: {{maxRequestBytes: 1000{more}}}"),
        )
    };
    mesh.apply(&body("")).await?;
    mesh.apply(&custom("rules: [{}]")).await?;
    let send = async |mesh: &Mesh, length: usize| -> Result<Answer> {
        let mut connection = Client::connect(client(mesh), service(80), false).await?;
        let bytes = Bytes::from(vec![b'x'; length]);
        connection.send("POST", "/", &[], bytes).await
    };
    eventually("a long body is refused", async || {
        send(&mesh, 1001)
            .await
            .is_ok_and(|answer| answer.status == StatusCode::PAYLOAD_TOO_LARGE)
    })
    .await?;
    let shown = || {
        let seen = guard
            .seen()
            .pop()
            .and_then(|seen| seen.attributes?.request?.http);
        let part = seen
            .as_ref()
            .and_then(|http| http.headers.get("x-envoy-auth-partial-body").cloned());
        let length = seen.map_or(0, |http| http.body.len().max(http.raw_body.len()));
        (length, part.unwrap_or_default())
    };
    let answer = send(&mesh, 1000).await?;
    ensure!(answer.saw("/body") == "1000", "{answer:?}");
    ensure!(shown() == (1000, "false".to_owned()));
    let answer = send(&mesh, 0).await?;
    ensure!(
        answer.saw("/body") == "0" && shown() == (0, "false".to_owned()),
        "{answer:?}"
    );
    mesh.apply(&body(", allowPartialMessage: true, packAsBytes: true"))
        .await?;
    eventually("a part is shown", async || {
        send(&mesh, 300_000)
            .await
            .is_ok_and(|answer| answer.saw("/body") == "300000")
    })
    .await?;
    ensure!(shown() == (1000, "true".to_owned()), "{:?}", shown());
    // One whose end nobody announces.
    let mut tcp = client(&mesh).connect(service(80)).await?;
    let head = "POST / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    tcp.write_all(format!("{head}3\r\nabc\r\n0\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    timeout(SOON, tcp.read_to_string(&mut answer)).await??;
    ensure!(answer.contains("\"body\":3"), "{answer}");
    ensure!(shown() == (3, "false".to_owned()), "{:?}", shown());
    // Shown twice, of the service and of the backend, and forwarded once: nothing of it is lost.
    mesh.apply(BEHIND_A_ROUTE).await?;
    mesh.apply(&custom("rules: [{}]").replace(
        "{group: '', kind: Service, name: web}",
        "{group: gateway.networking.k8s.io, kind: Gateway, name: w}",
    ))
    .await?;
    eventually("it is asked about twice", async || {
        let before = guard.seen().len();
        let answer = send(&mesh, 500).await;
        let is_whole =
            answer.is_ok_and(|answer| answer.saw("/body") == "500" && answer.saw("/pod") == "two");
        is_whole && guard.seen().len() == before + 2 && shown() == (500, "false".to_owned())
    })
    .await?;
    let answer = send(&mesh, 300_000).await?;
    ensure!(answer.saw("/body") == "300000", "{answer:?}");
    ensure!(shown() == (1000, "true".to_owned()), "{:?}", shown());
    // What would be asked about refuses where nobody can be.
    let _greeting = greet(mesh.pod(ONE))?;
    let mut said = Vec::new();
    // Its end may be there before `connect` has looked at it.
    if let Ok(mut tcp) = client(&mesh).connect(service(90)).await {
        let _ = timeout(SOON, tcp.read_to_end(&mut said)).await?;
    }
    ensure!(said.is_empty(), "a connection was let through");
    Ok(())
}

/// By HTTP: a question like the request, with some of its headers.
pub(crate) async fn by_http(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let _guard = begin(&mut mesh).await?;
    let questions = serve_http(mesh.pod(GUARD))?;
    let said = "timeout: 2s, pathPrefix: /check, includeRequestHeadersInCheck: [x-guard, x-of-*], \
        includeAdditionalHeadersInCheck: {x-from: waypoint}, headersToUpstreamOnAllow: [x-user], \
        headersToDownstreamOnAllow: [x-seen]";
    mesh.apply(&settings("envoyExtAuthzHttp", said).replace("port: 9000", "port: 9001"))
        .await?;
    mesh.apply(&custom("rules: [{}]")).await?;
    answers_to(
        &mesh,
        "somebody is asked",
        &[("x-guard", "401")],
        StatusCode::UNAUTHORIZED,
    )
    .await?;
    let headers = [
        ("authorization", "Basic x"),
        ("x-of-one", "1"),
        ("x-hidden", "1"),
        ("x-user", "made up"),
        ("x-drop", "secret"),
    ];
    let answer = asked(&mesh, "/a?b=1", &headers).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.saw("/headers/x-user") == "jo", "{answer:?}");
    ensure!(answer.saw("/headers/x-drop").is_empty(), "{answer:?}");
    ensure!(
        answer
            .headers
            .get("x-seen")
            .is_some_and(|seen| seen == "yes"),
        "{answer:?}"
    );
    ensure!(answer.saw("/headers/x-not-for-it").is_empty(), "{answer:?}");
    let question = questions.last();
    ensure!(
        question.starts_with("GET /check/a?b=1 host=web.shop "),
        "{question}"
    );
    for (header, is_shown) in [
        ("authorization=Basic x", true),
        ("x-of-one=1", true),
        ("x-from=waypoint", true),
        ("content-length=0", true),
        ("x-hidden", false),
        ("x-user", false),
    ] {
        ensure!(
            question.contains(header) == is_shown,
            "{header}: {question}"
        );
    }
    let answer = asked(&mesh, "/", &[("x-guard", "302")]).await?;
    let place = answer
        .headers
        .get("location")
        .and_then(|place| place.to_str().ok());
    ensure!(
        answer.status == StatusCode::FOUND && place == Some("http://login.shop/"),
        "{answer:?}"
    );
    let answer = asked(&mesh, "/", &[("x-guard", "500")]).await?;
    ensure!(answer.status == StatusCode::FORBIDDEN, "{answer:?}");
    Ok(())
}

async fn asked(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut connection = Client::connect(client(mesh), service(80), false).await?;
    connection.get(path, headers).await
}

async fn answers(mesh: &Mesh, what: &str, status: StatusCode) -> Result<()> {
    answers_to(mesh, what, &[], status).await
}

async fn answers_to(
    mesh: &Mesh,
    what: &str,
    headers: &[(&str, &str)],
    status: StatusCode,
) -> Result<()> {
    eventually(what, async || {
        let answer = asked(mesh, "/", headers).await;
        answer.is_ok_and(|answer| answer.status == status)
    })
    .await
}

/// A pod of the mesh with an authorizer, whose service is not behind the waypoint.
async fn begin(mesh: &mut Mesh) -> Result<Guard> {
    place(mesh).await?;
    Guard::start(mesh.pod(GUARD))
}

/// The pod and its service.
pub(crate) async fn place(mesh: &mut Mesh) -> Result<()> {
    mesh.start_pod(PodSpec::new(GUARD, "node2").label("app", "guard"))
        .await?;
    mesh.apply(
        "apiVersion: v1
kind: Service
metadata: {name: guard, namespace: shop}
spec:
  clusterIP: 10.96.200.31
  clusterIPs: [10.96.200.31]
  selector: {app: guard}
  ports:
  - {name: grpc, port: 9000, targetPort: 9000, protocol: TCP}
  - {name: http, port: 9001, targetPort: 9001, protocol: TCP}
",
    )
    .await
}

fn settings(kind: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: guard
      {kind}: {{service: guard.shop.svc.cluster.local, port: 9000, {rest}}}
"
    )
}

fn custom(rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: web}}]
  action: CUSTOM
  provider: {{name: guard}}
  {rules}
"
    )
}

/// Does as header `x-guard` of a request says.
struct Guard {
    seen: Arc<Mutex<Vec<CheckRequest>>>,
    _server: Grpc,
}

impl Guard {
    fn start(pod: &Pod) -> Result<Self> {
        let seen = Arc::default();
        let server = AuthorizationServer::new(Judge(Arc::clone(&seen)));
        let server = GrpcServer::builder().add_service(server);
        let server = Grpc::start(pod, 9000, server)?;
        Ok(Self {
            seen,
            _server: server,
        })
    }

    fn seen(&self) -> Vec<CheckRequest> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Judge(Arc<Mutex<Vec<CheckRequest>>>);

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let http = request.attributes.as_ref();
        let http = http.and_then(|it| it.request.as_ref()?.http.as_ref());
        let how = http.and_then(|http| http.headers.get("x-guard").cloned());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request);
        let header = |key: &str, value: &str, append: Option<bool>| HeaderValueOption {
            header: Some(HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                ..HeaderValue::default()
            }),
            append,
            ..HeaderValueOption::default()
        };
        let (code, response) = match how.as_deref().unwrap_or_default() {
            "error" => return Err(Status::internal("it does not know")),
            "hang" => return std::future::pending().await,
            "malformed" => {
                let ok = OkHttpResponse {
                    headers: vec![header("no name", "x", None)],
                    ..OkHttpResponse::default()
                };
                (0, HttpResponse::OkResponse(ok))
            }
            "no" => {
                let denied = DeniedHttpResponse {
                    status: Some(HttpStatus { code: 418 }),
                    headers: vec![header("x-why", "because", None)],
                    body: "not today".to_owned(),
                };
                (7, HttpResponse::DeniedResponse(denied))
            }
            _ => {
                let ok = OkHttpResponse {
                    headers: vec![
                        header("x-user", "jo", None),
                        header("x-old", "2", Some(true)),
                        header("host", "elsewhere", None),
                        header(":path", "/elsewhere", None),
                    ],
                    headers_to_remove: vec!["x-secret".to_owned(), "host".to_owned()],
                    response_headers_to_add: vec![header("x-seen", "yes", None)],
                    query_parameters_to_set: vec![QueryParameter {
                        key: "set".to_owned(),
                        value: "new".to_owned(),
                    }],
                    query_parameters_to_remove: vec!["gone".to_owned()],
                };
                (0, HttpResponse::OkResponse(ok))
            }
        };
        Ok(tonic::Response::new(CheckResponse {
            status: Some(Code {
                code,
                ..Code::default()
            }),
            http_response: Some(response),
        }))
    }
}

/// What an authorizer was asked by HTTP, each question in one line.
struct Questions(Arc<Mutex<Vec<String>>>, JoinHandle<()>);

impl Questions {
    fn last(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.last().cloned().unwrap_or_default()
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// Answers with the status that `x-guard` says.
fn serve_http(pod: &Pod) -> Result<Questions> {
    let listener = pod.listen(9001).context("cannot listen on 9001")?;
    let questions = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&questions);
    let task = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            let service = service_fn(move |request| judged(request, Arc::clone(&told)));
            tokio::spawn(Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    Ok(Questions(questions, task))
}

async fn judged(
    request: Request<Incoming>,
    told: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let _ = body.collect().await;
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut question = format!("{} {} host={} ", head.method, head.uri, header("host"));
    for (name, value) in &head.headers {
        question.push_str(&format!(
            "{name}={} ",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    told.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(question);
    let status = header("x-guard").parse().unwrap_or(200);
    let response = Response::builder()
        .status(status)
        .header("x-user", "jo")
        .header("x-seen", "yes")
        .header("x-not-for-it", "1")
        .header("x-envoy-auth-headers-to-remove", "x-drop, x-other")
        .header("location", "http://login.shop/")
        .body(Full::from("said by the guard"));
    Ok(response.unwrap_or_default())
}

pub(crate) const GUARD: &str = "shop/guard";
pub(crate) const BEHIND_A_ROUTE: &str = "apiVersion: v1
kind: Service
metadata: {name: two, namespace: shop, labels: {istio.io/use-waypoint: w}}
spec: {clusterIP: 10.96.200.12, clusterIPs: [10.96.200.12], selector: {version: two}, ports: [{name: http, port: 8000, targetPort: 8080, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: two, port: {number: 8000}}}]}]}
";
