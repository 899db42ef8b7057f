//! A waypoint sees requests: each is led, tried again, made to fail, and judged by what it is.

mod scene;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use hyper::Method;
use tulle_lab::wait_for;

use super::super::{
    tale::Tale,
    world::{ACCESS_LIMIT, SETTLE_LIMIT, World},
};
use scene::{BILLING, FRONT, Issuer, Scene, WAYPOINT};

pub(super) async fn tell(world: &mut World, tale: &mut Tale) -> Result<()> {
    let mut scene = Scene::set(world).await?;
    tale.evidence(
        "waypoint",
        format!("{WAYPOINT}, for services front (v1, v2) and billing, one of whose two pods fails every request"),
    );
    canary(&mut scene, tale).await?;
    retry(&mut scene, tale).await?;
    ejection(&mut scene, tale).await?;
    fault(&mut scene, tale).await?;
    tokens(&mut scene, tale).await?;
    follow(&mut scene, tale).await
}

/// A new version gets who asks for it, and a share of the others.
async fn canary(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    scene.apply(scene::CANARY).await?;
    let chosen = [("x-canary", "yes")];
    let only_new = async |scene: &Scene<'_>| -> Result<bool> {
        let answers = scene.answers(FRONT, 10, &chosen).await?;
        Ok(answers.keys().eq(["store/front-v2"]))
    };
    settled("the header decides", async || {
        only_new(scene).await.unwrap_or(false)
    })
    .await?;
    let by_header = scene.answers(FRONT, 40, &chosen).await?;
    let by_weight = scene.answers(FRONT, 400, &[]).await?;
    tale.evidence("x-canary: yes", told(&by_header));
    tale.evidence("others", told(&by_weight));
    let share = by_weight.get("store/front-v2").copied().unwrap_or_default();
    // A tenth, as chance has it: far outside of this once in a million times.
    let is_share = (10..=75).contains(&share) && by_weight.len() == 2;
    tale.claim_with(
        "canary: a header chooses the new version, a tenth of the others gets it",
        by_header.keys().eq(["store/front-v2"]) && is_share,
        format!("{share} of 400"),
    );
    Ok(())
}

/// What one endpoint cannot do another one does.
async fn retry(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    let without = scene.answers(BILLING, 40, &[]).await?;
    tale.evidence("without retry", told(&without));
    scene.apply(scene::RETRY).await?;
    let all_answered =
        |answers: &BTreeMap<String, usize>| answers.keys().eq(["store/billing-good"]);
    settled("requests are tried again", async || {
        let answers = scene.answers(BILLING, 20, &[]).await;
        answers.is_ok_and(|answers| all_answered(&answers))
    })
    .await?;
    let with = scene.answers(BILLING, 40, &[]).await?;
    tale.evidence("with retry", told(&with));
    tale.claim(
        "retry: a failing backend is not seen by clients",
        without.contains_key("503") && all_answered(&with),
    );
    scene.remove("VirtualService", "billing").await
}

/// Who fails again and again is left alone.
async fn ejection(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    // Without retries again.
    settled("failures are seen", async || {
        let answers = scene.answers(BILLING, 20, &[]).await;
        answers.is_ok_and(|answers| answers.contains_key("503"))
    })
    .await?;
    scene.apply(scene::EJECTION).await?;
    settled("the failing pod is left alone", async || {
        let answers = scene.answers(BILLING, 20, &[]).await;
        answers.is_ok_and(|answers| answers.keys().eq(["store/billing-good"]))
    })
    .await?;
    let answers = scene.answers(BILLING, 40, &[]).await?;
    let metrics = scene.waypoint().metrics().await?;
    let ejected = metrics.sum("tulle_endpoints_ejected", &[]);
    tale.evidence("then", format!("{}; left alone: {ejected}", told(&answers)));
    tale.claim(
        "outliers: a pod that fails three times in a row gets nothing more",
        answers.keys().eq(["store/billing-good"]) && (1.0..2.0).contains(&ejected),
    );
    Ok(())
}

/// What would happen if it failed.
async fn fault(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    let reply = scene.send(FRONT, Method::GET, "/teapot", &[]).await?;
    tale.evidence("fault", format!("/teapot is answered {}", reply.status));
    let reason = scene
        .waypoint()
        .wait_for_access("the fault", ACCESS_LIMIT, |line| line.is("path", "/teapot"))
        .await?;
    tale.claim(
        "faults: a path is made to fail, and the log says that it was on purpose",
        reply.status.as_u16() == 418 && reason.is("response_flags", "FI"),
    );
    Ok(())
}

/// Who may ask for what: a token of the end user, and a method.
async fn tokens(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    let issuer = Issuer::new()?;
    let stranger = Issuer::new()?;
    scene.apply(&issuer.policies()?).await?;
    let valid = format!("Bearer {}", issuer.token()?);
    let forged = format!("Bearer {}", stranger.token()?);
    let status = async |scene: &Scene<'_>, method: Method, token: Option<&str>| {
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("authorization", *token))
            .collect();
        let reply = scene.send(FRONT, method, "/", &headers).await;
        reply.map_or(0, |reply| reply.status.as_u16())
    };
    settled("a token is needed", async || {
        status(scene, Method::GET, None).await == 403
    })
    .await?;
    let mut seen = Vec::new();
    for (what, method, token, expected) in [
        ("no token", Method::GET, None, 403),
        ("a token of another issuer", Method::GET, Some(&forged), 401),
        ("a valid token", Method::GET, Some(&valid), 200),
        ("a valid token, DELETE", Method::DELETE, Some(&valid), 403),
    ] {
        let status = status(scene, method, token.map(String::as_str)).await;
        seen.push((format!("{what}: {status}"), status == expected));
    }
    let all: Vec<&str> = seen.iter().map(|(text, _)| text.as_str()).collect();
    tale.evidence("tokens", all.join(", "));
    tale.claim(
        "JWT: requests need a valid token, and a denied method stays denied with one",
        seen.iter().all(|(_, held)| *held),
    );
    scene.remove("AuthorizationPolicy", "front").await?;
    scene.remove("RequestAuthentication", "front").await?;
    settled("no token is needed", async || {
        status(scene, Method::GET, None).await == 200
    })
    .await
}

/// One request, wherever it went.
async fn follow(scene: &mut Scene<'_>, tale: &mut Tale) -> Result<()> {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let reply = scene
        .send(FRONT, Method::GET, "/followed", &[("traceparent", &parent)])
        .await?;
    let answer = reply.answer.context("no server has answered")?;
    let at_server = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
    let (id, trace_at_server) = (at_server("x-request-id"), at_server("traceparent"));
    let line = scene
        .waypoint()
        .wait_for_access("the request", ACCESS_LIMIT, |line| {
            line.is("path", "/followed")
        })
        .await?;
    tale.evidence(
        "followed",
        format!(
            "request {id} of trace {trace}, in the waypoint's log and at {}",
            answer.server
        ),
    );
    tale.claim(
        "one request: its id and trace are the same at the client, in the waypoint's log and at the server",
        !id.is_empty() && line.is("request_id", &id) && line.is("trace_id", trace) && trace_at_server.contains(trace),
    );
    Ok(())
}

async fn settled(what: &str, condition: impl AsyncFn() -> bool) -> Result<()> {
    wait_for(what, SETTLE_LIMIT, async || condition().await.then_some(())).await
}

/// Who answered how often.
fn told(answers: &BTreeMap<String, usize>) -> String {
    let each = answers.iter().map(|(who, count)| format!("{who} {count}"));
    each.collect::<Vec<_>>().join(", ")
}
