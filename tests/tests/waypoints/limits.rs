//! How many requests may pass: counted by the waypoint, or by a service that it asks.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::StatusCode;
use tonic::{Status, transport::Server as GrpcServer};
use tulle_lab::{Mesh, Pod, sandbox::Sandbox};
use tulle_proto::rate_limit::{
    Code, CurrentLimit, DescriptorStatus, HeaderValue, RateLimitRequest, RateLimitResponse, Unit,
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};

use crate::{
    app::{Answer, Client, Grpc, Server},
    authorizers::{self, GUARD},
    world::{ONE, SOON, TWO, WAYPOINT, client, eventually, service, start},
};

/// What comes too fast is refused until there are tokens again, each client by itself; what is only tried out is told.
pub(crate) async fn count_here(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];

    mesh.apply(&policy(
        "- {name: all, match: {paths: ['/limited*']}, rateLimitHeaders: true, local: {requests: 2, per: 4s}}",
    ))
    .await?;
    eventually("what is too much is refused", async || {
        is(&mesh, "/limited", &[], StatusCode::TOO_MANY_REQUESTS).await
    })
    .await?;
    let access = mesh.waypoint(WAYPOINT);
    let access = access
        .wait_for_access("a refusal", SOON, |line| line.is("response_code", "429"))
        .await?;
    ensure!(access.is("response_flags", "RL"), "{access:?}");
    ensure!(
        access.is("response_code_details", "local_rate_limited"),
        "{access:?}"
    );
    ensure!(
        access.is(
            "upstream_transport_failure_reason",
            "matched_limit[ns[shop]-policy[p]-limit[all]]"
        ),
        "{access:?}"
    );
    for _ in 0..10 {
        let answer = asked(&mesh, "/open", &[]).await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        ensure!(
            header(&answer, "x-ratelimit-limit").is_empty(),
            "{answer:?}"
        );
    }
    eventually("there are tokens again", async || {
        let answer = asked(&mesh, "/limited", &[]).await;
        answer.is_ok_and(|answer| {
            answer.status == StatusCode::OK && header(&answer, "x-ratelimit-limit") == "2"
        })
    })
    .await?;

    // From here on nothing fills again within the test.
    let by_user = "- {name: user, rateLimitHeaders: true, local: {requests: 1, per: 1h, burst: 2, by: [{header: x-user}]}}\n  \
        - {name: all, match: {headers: [{name: x-user}]}, local: {requests: 1, per: 1h, burst: 7}}";
    mesh.apply(&policy(by_user)).await?;
    // Seven pass of all users, and two of each. Those that are refused count for nobody else.
    for (user, passing) in [("a", 2), ("b", 2), ("c", 2), ("d", 1), ("e", 0)] {
        let user = [("x-user", user)];
        if passing == 2 {
            eventually("two of a user are too many", async || {
                is(&mesh, "/", &user, StatusCode::TOO_MANY_REQUESTS).await
            })
            .await?;
        } else {
            let mut passed = 0;
            for _ in 0..5 {
                let answer = asked(&mesh, "/", &user).await?;
                passed += u32::from(answer.status == StatusCode::OK);
            }
            ensure!(passed == passing, "{user:?}: {passed}");
        }
    }
    let refused = asked(&mesh, "/", &[("x-user", "a")]).await?;
    ensure!(
        refused.status == StatusCode::TOO_MANY_REQUESTS,
        "{refused:?}"
    );
    ensure!(refused.text == "local_rate_limited", "{refused:?}");
    ensure!(
        header(&refused, "x-envoy-ratelimited") == "true",
        "{refused:?}"
    );
    ensure!(
        header(&refused, "x-ratelimit-remaining") == "0",
        "{refused:?}"
    );
    // Those who say nothing of themselves are all one.
    for expected in [
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let answer = asked(&mesh, "/", &[]).await?;
        ensure!(answer.status == expected, "{answer:?}");
    }
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    let told = |limit, outcome| {
        let labels = [("policy", "shop/p"), ("limit", limit), ("outcome", outcome)];
        metrics.sum("tulle_rate_limit_requests_total", &labels)
    };
    ensure!(told("user", "refused") >= 4.0 && told("user", "allowed") >= 9.0);

    // Callers of gRPC are told in their own way. What was counted stays counted when another part of the policy changes.
    for (more, status) in [("", "14"), ("rateLimitedAsResourceExhausted: true, ", "8")] {
        let changed = by_user.replace("name: user, ", &format!("name: user, {more}"));
        mesh.apply(&policy(&changed)).await?;
        eventually("a call is refused", async || {
            let answer = call(&mesh, &[("x-user", "a")]).await;
            answer.is_ok_and(|answer| header(&answer, "grpc-status") == status)
        })
        .await?;
    }

    mesh.apply(&policy(
        "- {name: tried, dryRun: true, local: {requests: 1, per: 1h}}",
    ))
    .await?;
    eventually("what would be refused is told", async || {
        let passes = is(&mesh, "/", &[], StatusCode::OK).await;
        let labels = [("limit", "tried"), ("outcome", "would_refuse")];
        let metrics = mesh.waypoint(WAYPOINT).metrics().await;
        let told =
            |metrics: tulle_lab::Metrics| metrics.sum("tulle_rate_limit_requests_total", &labels);
        passes && metrics.is_ok_and(|metrics| told(metrics) >= 1.0)
    })
    .await?;
    mesh.waypoint(WAYPOINT)
        .wait_for_access("a trial", SOON, |line| {
            line.is("dry_run_denied_by", "shop/p/tried") && line.is("response_code", "200")
        })
        .await?;

    // Nobody knows how much is meant by what is not in order.
    mesh.apply(&policy("- {name: none, local: {requests: 0, per: 1h}}"))
        .await?;
    eventually("nothing passes", async || {
        is(&mesh, "/", &[], StatusCode::INTERNAL_SERVER_ERROR).await
    })
    .await?;
    mesh.remove("RateLimitPolicy", "shop", "p").await?;
    eventually("nothing is limited", async || {
        is(&mesh, "/", &[], StatusCode::OK).await
    })
    .await
}

/// What a route sends to a backend with limits of its own counts there too; what is limited for all that a waypoint serves, once.
pub(crate) async fn count_behind_routes(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    mesh.apply(authorizers::BEHIND_A_ROUTE).await?;
    eventually("the route leads to another", async || {
        let answer = asked(&mesh, "/", &[]).await;
        answer.is_ok_and(|answer| answer.saw("/pod") == "two")
    })
    .await?;
    let limit = "- {name: user, match: {headers: [{name: x-user}]}, local: {requests: 1, per: 1h, burst: 4, by: [{header: x-user}]}}";
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: w}";
    for (target, user) in [(gateway, "a"), ("{kind: Service, name: two}", "b")] {
        mesh.apply(&policy(limit).replace(WEB, target)).await?;
        let warm = [("x-user", "warm")];
        eventually("it is counted", async || {
            is(&mesh, "/", &warm, StatusCode::TOO_MANY_REQUESTS).await
        })
        .await?;
        let mut passed = 0;
        for _ in 0..8 {
            let answer = asked(&mesh, "/", &[("x-user", user)]).await?;
            passed += u32::from(answer.status == StatusCode::OK);
        }
        ensure!(passed == 4, "{target}: {passed}");
        mesh.remove("RateLimitPolicy", "shop", "p").await?;
        eventually("it is counted no more", async || {
            is(&mesh, "/", &warm, StatusCode::OK).await
        })
        .await?;
    }
    Ok(())
}

/// A service decides: what it is asked, what its answer brings about, and what happens without one.
pub(crate) async fn count_there(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    authorizers::place(&mut mesh).await?;
    let counter = Counter::start(mesh.pod(GUARD))?;
    mesh.apply(&global("timeout: 1s, failOpen: false")).await?;
    let over = [("x-how", "over")];
    eventually("somebody is asked", async || {
        is(&mesh, "/over", &over, StatusCode::TOO_MANY_REQUESTS).await
    })
    .await?;
    let reached = || -> usize {
        servers
            .iter()
            .map(|server| server.asked("/lost").len())
            .sum()
    };

    let answer = asked(&mesh, "/lost", &over).await?;
    ensure!(
        answer.text == "slow down" && header(&answer, "x-told") == "over",
        "{answer:?}"
    );
    ensure!(
        header(&answer, "x-envoy-ratelimited") == "true",
        "{answer:?}"
    );
    ensure!(
        ["limit", "remaining", "reset"].map(|of| header(&answer, &format!("x-ratelimit-{of}")))
            == ["10", "3", "7"],
        "{answer:?}"
    );
    let access = mesh.waypoint(WAYPOINT);
    let access = access
        .wait_for_access("a refusal", SOON, |line| line.is("response_flags", "RL"))
        .await?;
    ensure!(
        access.is("response_code_details", "request_rate_limited"),
        "{access:?}"
    );
    let answer = call(&mesh, &over).await?;
    ensure!(header(&answer, "grpc-status") == "14", "{answer:?}");

    let answer = asked(&mesh, "/a?user=jo", &[("x-how", "ok")]).await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.saw("/headers/x-counted") == "yes", "{answer:?}");
    ensure!(answer.saw("/headers/host") == "web.shop", "{answer:?}");
    ensure!(header(&answer, "x-told") == "ok", "{answer:?}");
    let seen = counter.seen().pop().context("nothing was asked")?;
    ensure!(seen.domain == "shop" && seen.hits_addend == 0, "{seen:?}");
    let entries: Vec<Vec<_>> = seen
        .descriptors
        .iter()
        .map(|of| {
            let entries = of.entries.iter();
            entries
                .map(|of| (of.key.as_str(), of.value.as_str()))
                .collect()
        })
        .collect();
    let first = vec![
        ("how", "ok"),
        ("who", "cluster.local/ns/shop/sa/cart"),
        ("fixed", "f"),
    ];
    let second = vec![("user", "jo"), ("method", "GET"), ("path", "/a")];
    ensure!(entries == [first.clone(), second], "{entries:?}");
    let limits: Vec<_> = seen.descriptors.iter().map(|of| of.limit).collect();
    let wanted = limits.last().copied().flatten().context("no limit")?;
    ensure!(
        (wanted.requests_per_unit, wanted.unit()) == (7, Unit::Minute),
        "{limits:?}"
    );
    // Of what it lacks, nothing is asked.
    asked(&mesh, "/a", &[("x-how", "ok")]).await?;
    let seen = counter.seen();
    ensure!(
        seen.last().is_some_and(|seen| seen.descriptors.len() == 1),
        "{seen:?}"
    );
    asked(&mesh, "/a", &[]).await?;
    ensure!(counter.seen().len() == seen.len(), "asked without need");

    // Without an answer nothing passes, if that is wanted.
    for how in ["error", "hang", "unknown"] {
        let answer = asked(&mesh, "/lost", &[("x-how", how)]).await?;
        ensure!(
            answer.status == StatusCode::INTERNAL_SERVER_ERROR,
            "{how}: {answer:?}"
        );
    }
    ensure!(reached() == 0, "what was not to pass was sent");
    mesh.waypoint(WAYPOINT)
        .wait_for_access("no answer", SOON, |line| line.is("response_flags", "RLSE"))
        .await?;

    // Or it does.
    mesh.apply(&global("timeout: 1s")).await?;
    eventually("it passes without an answer", async || {
        is(&mesh, "/", &[("x-how", "error")], StatusCode::OK).await
    })
    .await?;
    let answer = asked(&mesh, "/", &over).await?;
    ensure!(answer.status == StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    let metrics = mesh.waypoint(WAYPOINT).metrics().await?;
    for outcome in ["allowed", "refused", "error"] {
        let labels = [("policy", "shop/p"), ("limit", "all"), ("outcome", outcome)];
        ensure!(
            metrics.sum("tulle_rate_limit_requests_total", &labels) >= 1.0,
            "{outcome}"
        );
    }

    // With the usual 20 ms, too: a connection that takes longer to be made is there in the end.
    mesh.apply(&global("failOpen: true")).await?;
    eventually("it is asked in time", async || {
        is(&mesh, "/", &over, StatusCode::TOO_MANY_REQUESTS).await
    })
    .await?;
    mesh.apply(&global("timeout: 1s").replace("name: all", "name: all, dryRun: true"))
        .await?;
    eventually("it is only tried out", async || {
        is(&mesh, "/", &over, StatusCode::OK).await
    })
    .await?;
    mesh.waypoint(WAYPOINT)
        .wait_for_access("a trial", SOON, |line| {
            line.is("dry_run_denied_by", "shop/p/all")
        })
        .await?;

    // One that is not there is nobody.
    mesh.apply(&global("failOpen: false")).await?;
    mesh.remove("Service", "shop", "guard").await?;
    eventually("nobody can be asked", async || {
        is(
            &mesh,
            "/",
            &[("x-how", "ok")],
            StatusCode::INTERNAL_SERVER_ERROR,
        )
        .await
    })
    .await
}

/// Endpoints with limits of their own are asked again if that is wanted, and not otherwise.
pub(crate) async fn asked_again(sandbox: Sandbox) -> Result<()> {
    let mut mesh = start(&sandbox).await?;
    let _servers = [Server::start(mesh.pod(ONE))?, Server::start(mesh.pod(TWO))?];
    let limited = [("x-limited", "one")];
    let route = |on: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v, namespace: shop}}
spec: {{hosts: [web], http: [{{name: {on}, retries: {{attempts: 3, retryOn: {on}}}, route: [{{destination: {{host: web}}}}]}}]}}
"
        )
    };
    for (on, is_answered) in [("5xx", false), ("envoy-ratelimited", true)] {
        mesh.apply(&route(on)).await?;
        eventually("the route is there", async || {
            let _ = asked(&mesh, "/", &[]).await;
            let waypoint = mesh.waypoint(WAYPOINT);
            let line = waypoint.wait_for_access("a request", SOON, |line| line.is("path", "/"));
            let name = format!("VirtualService/shop/v/{on}");
            line.await.is_ok_and(|line| line.is("route_name", &name))
        })
        .await?;
        let mut refused = 0;
        for _ in 0..20 {
            let answer = asked(&mesh, "/tried", &limited).await?;
            refused += u32::from(answer.status == StatusCode::TOO_MANY_REQUESTS);
        }
        ensure!((refused == 0) == is_answered, "{on}: {refused}");
    }
    Ok(())
}

fn policy(limits: &str) -> String {
    format!(
        "apiVersion: tulle.io/v1alpha1
kind: RateLimitPolicy
metadata: {{name: p, namespace: shop}}
spec:
  targetRefs: [{WEB}]
  limits:
  {limits}
"
    )
}

/// What a service decides, of which more is said.
fn global(more: &str) -> String {
    policy(&format!(
        "- {{name: all, rateLimitHeaders: true, global: {{service: guard, port: 9000, domain: shop, {more}, \
         descriptors: [{{entries: [{{key: how, header: X-How}}, {{key: who, principal: {{}}}}, {{key: fixed, value: f}}]}}, \
         {{entries: [{{key: user, queryParameter: user}}, {{key: method, method: {{}}}}, {{key: path, path: {{}}}}], \
         limit: {{requests: 7, unit: MINUTE}}}}]}}}}"
    ))
}

async fn asked(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut connection = Client::connect(client(mesh), service(80), false).await?;
    connection.get(path, headers).await
}

async fn is(mesh: &Mesh, path: &str, headers: &[(&str, &str)], status: StatusCode) -> bool {
    let answer = asked(mesh, path, headers).await;
    answer.is_ok_and(|answer| answer.status == status)
}

async fn call(mesh: &Mesh, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut connection = Client::connect(client(mesh), service(80), true).await?;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let headers = [&grpc, headers].concat();
    connection
        .send("POST", "/a.B/C", &headers, Bytes::new())
        .await
}

fn header(answer: &Answer, name: &str) -> String {
    let value = answer
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// Does as the first descriptor says.
struct Counter {
    seen: Arc<Mutex<Vec<RateLimitRequest>>>,
    _server: Grpc,
}

impl Counter {
    fn start(pod: &Pod) -> Result<Self> {
        let seen = Arc::default();
        let server = RateLimitServiceServer::new(Decider(Arc::clone(&seen)));
        let server = GrpcServer::builder().add_service(server);
        let server = Grpc::start(pod, 9000, server)?;
        Ok(Self {
            seen,
            _server: server,
        })
    }

    fn seen(&self) -> Vec<RateLimitRequest> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Decider(Arc<Mutex<Vec<RateLimitRequest>>>);

#[tonic::async_trait]
impl RateLimitService for Decider {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let first = request.descriptors.first();
        let how = first.and_then(|of| Some(of.entries.first()?.value.clone()));
        let how = how.unwrap_or_default();
        let seen = self.0.lock();
        seen.unwrap_or_else(PoisonError::into_inner).push(request);
        let code = match how.as_str() {
            "error" => return Err(Status::internal("it does not know")),
            "hang" => return std::future::pending().await,
            "unknown" => Code::Unknown,
            "over" => Code::OverLimit,
            _ => Code::Ok,
        };
        let header = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        };
        let status = DescriptorStatus {
            code: code.into(),
            current_limit: Some(CurrentLimit {
                requests_per_unit: 10,
                unit: Unit::Minute.into(),
            }),
            limit_remaining: 3,
            duration_until_reset: std::time::Duration::from_millis(6500).try_into().ok(),
        };
        Ok(tonic::Response::new(RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![status],
            response_headers_to_add: vec![header("x-told", &how)],
            request_headers_to_add: vec![header("x-counted", "yes"), header("host", "elsewhere")],
            raw_body: Bytes::from_static(b"slow down"),
        }))
    }
}

const WEB: &str = "{group: '', kind: Service, name: web}";
