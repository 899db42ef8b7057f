//! What is told of requests: spans to collectors, lines of the access log, labels of metrics.

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
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message;
use tokio::task::AbortHandle;
use tonic::transport::{Server as GrpcServer, server::TcpIncoming};
use tulle_lab::{Mesh, Pod, PodSpec, sandbox::Sandbox, wait_for};

use crate::{
    app::{Answer, Client, Server},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// By gRPC: a client's trace is gone on with, and one is begun where there is none; endpoints and the collector know the same.
pub(crate) async fn traces_go_on(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let collector = begin(&mut mesh, "").await?;
    mesh.apply(&telemetry(
        "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, \
         customTags: {team: {literal: {value: red}}, who: {header: {name: x-who, defaultValue: nobody}}}}]",
    ))
    .await?;
    eventually("somebody is told", async || {
        let answer = asked(&mesh, "/first", &[]).await;
        answer.is_ok_and(|answer| !answer.saw("/headers/traceparent").is_empty())
    })
    .await?;
    let answer = asked(
        &mesh,
        "/of/a?b=c",
        &[
            ("traceparent", PARENT),
            ("tracestate", "a=b"),
            ("x-who", "jo"),
        ],
    )
    .await?;
    let told = answer.saw("/headers/traceparent");
    let parts: Vec<&str> = told.split('-').collect();
    ensure!(
        parts.get(1) == Some(&TRACE) && parts.get(2) != Some(&SPAN),
        "{told}"
    );
    ensure!(answer.saw("/headers/tracestate") == "a=b", "{answer:?}");
    let (span, resource) = collector.span("/of/a?b=c").await?;
    ensure!(
        hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == SPAN,
        "{span:?}"
    );
    ensure!(
        parts.get(2) == Some(&hex(&span.span_id).as_str()),
        "{span:?}"
    );
    ensure!(
        span.kind() == SpanKind::Server && span.name == "web.shop.svc.cluster.local:80/*",
        "{span:?}"
    );
    ensure!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    ensure!(text(&resource, "service.name") == "w.shop", "{resource:?}");
    for (name, value) in [
        ("http.method", "GET"),
        ("http.url", "http://web.shop/of/a?b=c"),
        ("http.status_code", "200"),
        ("upstream_cluster", "web.shop.svc.cluster.local"),
        ("istio.source_canonical_service", "cart"),
        ("istio.source_namespace", "shop"),
        ("istio.destination_canonical_service", "web"),
        ("team", "red"),
        ("who", "jo"),
    ] {
        ensure!(text(&span.attributes, name) == value, "{name}: {span:?}");
    }
    let access = mesh.waypoint(WAYPOINT);
    let access = access.wait_for_access("the trace", SOON, |line| line.is("path", "/of/a?b=c"));
    ensure!(access.await?.is("trace_id", TRACE));

    // In the words of another family, and to its endpoints in both.
    let b3 = format!("{TRACE}-{SPAN}-1");
    let answer = asked(&mesh, "/b3", &[("b3", &b3)]).await?;
    ensure!(answer.saw("/headers/b3").starts_with(TRACE), "{answer:?}");
    ensure!(
        answer.saw("/headers/traceparent").contains(TRACE),
        "{answer:?}"
    );
    let (span, _) = collector.span("/b3").await?;
    ensure!(hex(&span.parent_span_id) == SPAN, "{span:?}");

    // One that fails says so, and one that the client does not want is told to nobody.
    let answer = asked(&mesh, "/fails", &[("x-fail", "all")]).await?;
    ensure!(
        answer.status == StatusCode::SERVICE_UNAVAILABLE,
        "{answer:?}"
    );
    let (span, _) = collector.span("/fails").await?;
    let status = span.status.as_ref().map(|status| status.code());
    ensure!(status == Some(SpanStatus::Error), "{span:?}");
    ensure!(text(&span.attributes, "who") == "nobody", "{span:?}");
    let unwanted = PARENT.replace("-01", "-00");
    let answer = asked(&mesh, "/unwanted", &[("traceparent", &unwanted)]).await?;
    ensure!(
        answer.saw("/headers/traceparent").ends_with("-00"),
        "{answer:?}"
    );
    asked(&mesh, "/last", &[]).await?;
    collector.span("/last").await?;
    ensure!(
        collector.find("/unwanted").is_none(),
        "told of what is not wanted"
    );

    // The narrower says otherwise: nobody is told, and endpoints learn of it.
    mesh.apply(&format!(
        "{}  targetRefs: [{{kind: Service, name: web, group: ''}}]\n  tracing: [{{randomSamplingPercentage: 0}}]\n",
        head("narrow")
    ))
    .await?;
    eventually("nothing is sampled", async || {
        let answer = asked(&mesh, "/none", &[]).await;
        answer.is_ok_and(|answer| answer.saw("/headers/traceparent").ends_with("-00"))
    })
    .await?;
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    let told = metrics.sum("tulle_spans_total", &[("outcome", "told")]);
    ensure!(told >= 5.0, "{told}");
    Ok(())
}

/// By HTTP, with headers; when the waypoint ends, nothing that waits is lost.
pub(crate) async fn collectors_by_http(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let http = ", http: {path: /v1/traces, timeout: 3s, headers: [{name: x-key, value: secret}]}";
    let collector = begin(&mut mesh, http).await?;
    let traced = "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100, enableIstioTags: false}]";
    mesh.apply(&telemetry(traced)).await?;
    eventually("somebody is told", async || {
        let answer = asked(&mesh, "/first", &[]).await;
        answer.is_ok_and(|answer| !answer.saw("/headers/traceparent").is_empty())
    })
    .await?;
    let (span, _) = collector.span("/first").await?;
    ensure!(
        text(&span.attributes, "istio.source_workload").is_empty(),
        "{span:?}"
    );
    let answer = asked(&mesh, "/at-the-end", &[]).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    let waypoint = mesh.waypoint(WAYPOINT).process();
    waypoint.signal(Signal::SIGTERM)?;
    collector.span("/at-the-end").await?;
    Ok(())
}

/// Lines as operators want them, of requests that they choose; labels that they add or take away; sizes and messages.
pub(crate) async fn lines_and_labels(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(
        "apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: lines
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: \"own %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %REQ(x-who)% %DOWNSTREAM_PEER_URI_SAN%\\n\"}}
    - name: labels
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {own: \"%RESPONSE_CODE%\", path: \"%REQ(:PATH)%\"}}}
",
    )
    .await?;
    mesh.apply(&telemetry(
        "accessLogging:
  - {providers: [{name: lines}, {name: labels}], filter: {expression: 'response.code >= 400 && request.headers[\"x-who\"].startsWith(\"jo\")'}}
  metrics:
  - overrides:
    - tagOverrides:
        path: {value: 'request.url_path'}
        response_flags: {operation: REMOVE}
    - match: {metric: REQUEST_DURATION}
      disabled: true",
    ))
    .await?;
    let who = [("x-who", "jo"), ("x-status", "404")];
    let line = "own GET /chosen?q=1 404 jo spiffe://cluster.local/ns/shop/sa/cart\n";
    let log = |mesh: &Mesh| mesh.waypoint(WAYPOINT).process().log();
    eventually("lines are as they are wanted", async || {
        let _ = asked(&mesh, "/chosen?q=1", &who).await;
        log(&mesh).contains(line)
    })
    .await?;
    let labels = "{\"own\":404,\"path\":\"/chosen?q=1\"}\n";
    ensure!(log(&mesh).contains(labels), "no line with labels");
    // What a client says forges no line, and what is not chosen is not told.
    let forged = [("x-who", "jo\"own"), ("x-status", "500")];
    asked(&mesh, "/forged", &forged).await?;
    let line = "own GET /forged 500 jo\\\"own spiffe://cluster.local/ns/shop/sa/cart\n";
    eventually("quotes are escaped", async || log(&mesh).contains(line)).await?;
    asked(&mesh, "/not-chosen", &[("x-who", "jo")]).await?;
    asked(&mesh, "/nor-this", &[("x-who", "al"), ("x-status", "404")]).await?;
    asked(&mesh, "/after", &who).await?;
    eventually("the last is told", async || {
        log(&mesh).contains("own GET /after 404")
    })
    .await?;
    for untold in ["/not-chosen", "/nor-this"] {
        ensure!(!log(&mesh).contains(untold), "{untold} is told");
    }
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    let by_path =
        |name: &str, path: &str| metrics.sum(name, &[("path", path), ("reporter", "waypoint")]);
    ensure!(by_path("istio_requests_total", "/after") == 1.0);
    ensure!(by_path("istio_request_bytes_count", "/after") == 1.0);
    ensure!(by_path("istio_response_bytes_sum", "/after") > 50.0);
    ensure!(
        by_path("istio_request_duration_milliseconds_count", "/after") == 0.0,
        "it is disabled"
    );
    let after = metrics.select("istio_requests_total", &[("path", "/after")]);
    ensure!(
        after
            .into_iter()
            .all(|sample| sample.label("response_flags").is_none())
    );
    // Nobody wants lines any more. The label tells that it is so.
    mesh.apply(&telemetry(
        "accessLogging: [{disabled: true}]\n  metrics: [{overrides: [{tagOverrides: {mark: {value: \"'silent'\"}}}]}]",
    ))
    .await?;
    let marked = [("mark", "silent")];
    eventually("no line is wanted", async || {
        let _ = asked(&mesh, "/silent", &who).await;
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        metrics.is_ok_and(|metrics| metrics.sum("istio_requests_total", &marked) > 0.0)
    })
    .await?;
    asked(&mesh, "/quiet", &who).await?;
    mesh.apply(&telemetry("accessLogging: [{providers: [{name: lines}]}]"))
        .await?;
    eventually("lines are wanted again", async || {
        let _ = asked(&mesh, "/end", &[]).await;
        log(&mesh).contains("own GET /end 200")
    })
    .await?;
    ensure!(!log(&mesh).contains("/quiet"), "a line that nobody wanted");
    let mut connection = Client::connect(client(&mesh), service(80), true).await?;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let message = Bytes::from_static(b"\0\0\0\0\x01a\0\0\0\0\0");
    connection.send("POST", "/a.B/C", &grpc, message).await?;
    let messages = wait_for("messages are counted", SOON, async || {
        let metrics = mesh.waypoint(WAYPOINT).metrics().await.ok()?;
        let counted = metrics.sum(
            "istio_request_messages_total",
            &[("request_protocol", "grpc")],
        );
        (counted > 0.0).then_some(counted)
    });
    ensure!(messages.await? == 2.0);
    Ok(())
}

async fn asked(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut connection = Client::connect(client(mesh), service(80), false).await?;
    connection.get(path, headers).await
}

fn head(name: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n"
    )
}

/// For the whole of the namespace.
fn telemetry(spec: &str) -> String {
    format!("{}  {spec}\n", head("all"))
}

/// Starts a collector, and says that it is one.
async fn begin(mesh: &mut Mesh, how: &str) -> Result<Told> {
    mesh.start_pod(PodSpec::new(OTEL, "node2").label("app", "otel"))
        .await?;
    mesh.apply(SERVICE).await?;
    let told = match how.is_empty() {
        true => Told::by_grpc(mesh.pod(OTEL))?,
        false => Told::by_http(mesh.pod(OTEL))?,
    };
    mesh.apply(&format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - {{name: otel, opentelemetry: {{service: otel.shop.svc.cluster.local, port: 4317{how}}}}}
"
    ))
    .await?;
    Ok(told)
}

type Spans = Arc<Mutex<Vec<(Span, Vec<KeyValue>)>>>;

/// A collector, and what it was told.
struct Told {
    spans: Spans,
    task: AbortHandle,
}

impl Told {
    fn by_grpc(pod: &Pod) -> Result<Self> {
        let listener = pod.listen(4317).context("cannot listen on 4317")?;
        let spans = Spans::default();
        let server = TraceServiceServer::new(Collects(Arc::clone(&spans)));
        let server = GrpcServer::builder().add_service(server);
        let task = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok(Self {
            spans,
            task: task.abort_handle(),
        })
    }

    fn by_http(pod: &Pod) -> Result<Self> {
        let listener = pod.listen(4317).context("cannot listen on 4317")?;
        let spans = Spans::default();
        let told = Arc::clone(&spans);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let told = Arc::clone(&told);
                let service = service_fn(move |request| posted(request, Arc::clone(&told)));
                tokio::spawn(Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Ok(Self {
            spans,
            task: task.abort_handle(),
        })
    }

    /// The span of a request for this path, and who told of it.
    fn find(&self, path: &str) -> Option<(Span, Vec<KeyValue>)> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let url = format!("http://web.shop{path}");
        let mut of_it = spans
            .iter()
            .filter(|(span, _)| text(&span.attributes, "http.url") == url);
        of_it.next().cloned()
    }

    async fn span(&self, path: &str) -> Result<(Span, Vec<KeyValue>)> {
        wait_for(&format!("the span of {path}"), SOON, async || {
            self.find(path)
        })
        .await
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Collects(Spans);

#[tonic::async_trait]
impl TraceService for Collects {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        keep(&self.0, request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Takes what is posted as it has to be.
async fn posted(
    request: Request<Incoming>,
    told: Spans,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let is_said =
        |name: &str, value: &str| head.headers.get(name).is_some_and(|said| said == value);
    let is_right = head.uri.path() == "/v1/traces"
        && is_said("x-key", "secret")
        && is_said("content-type", "application/x-protobuf");
    let body = body.collect().await.ok().filter(|_| is_right);
    let message = body.and_then(|body| ExportTraceServiceRequest::decode(body.to_bytes()).ok());
    let mut response = Response::new(Full::default());
    match message {
        Some(message) => keep(&told, message),
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

fn keep(spans: &Spans, message: ExportTraceServiceRequest) {
    let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
    for of in message.resource_spans {
        let resource = of.resource.unwrap_or_default().attributes;
        let all = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.map(|span| (span, resource.clone())));
    }
}

/// An attribute, as a text.
fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    let value = found.and_then(|found| found.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is_so)) => is_so.to_string(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const OTEL: &str = "shop/otel";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: shop}
spec: {clusterIP: 10.96.200.31, clusterIPs: [10.96.200.31], selector: {app: otel}, ports: [{name: grpc, port: 4317, protocol: TCP}]}
";
