//! Making waypoints, and waiting for them.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http::{Method, StatusCode};
use serde_json::json;
use tulle_kubernetes::{Apply, MERGE, Objects};

use super::{
    ApplyArgs,
    gateway::{USE, USE_NAMESPACE, gateway, is_usable, kind, waypoints, why_not},
};
use crate::{
    json::{full_name, label, name, title},
    manifest::MANAGER,
    progress::Progress,
    wait::{Left, Wait},
};

pub(super) async fn apply(objects: &Objects, args: &ApplyArgs) -> Result<ExitCode> {
    let progress = Progress::new();
    let waypoint = &args.waypoint;
    let namespace = waypoint.namespace.as_deref();
    let namespace = namespace.unwrap_or(objects.client().namespace());
    let (version, _) = kind(objects).await?;
    let labelled = match args.enroll_namespace {
        true => Some(enrolled(objects, namespace, args).await?),
        false => None,
    };
    let wanted = gateway(&version, waypoint, Some(namespace));
    let applied = objects.apply(&wanted, Apply::by(MANAGER)).await;
    let applied = applied.map_err(|error| match error.code() {
        Some(StatusCode::CONFLICT) => anyhow!(
            "{}: {error}; it was made by something else: change it there, or choose another --name",
            title(&wanted)
        ),
        _ => anyhow!("{}: {error}", title(&wanted)),
    })?;
    progress.done(&title(&applied), "applied");
    if labelled == Some(true) {
        enroll(objects, namespace, &waypoint.name).await?;
        progress.done(
            &format!("Namespace {namespace}"),
            &format!("labelled {USE}={}", waypoint.name),
        );
    }
    let place = format!("{namespace}/{}", waypoint.name);
    if !args.wait {
        progress.conclude(&format!("Waypoint {place} is applied; `tulle waypoint status {} -n {namespace}` tells when it can be used.", waypoint.name));
        return Ok(ExitCode::SUCCESS);
    }
    wait(
        objects,
        Some(namespace),
        Some(&waypoint.name),
        args.waypoint_timeout,
        &progress,
    )
    .await?;
    progress.conclude(&format!("Waypoint {place} can be used."));
    Ok(ExitCode::SUCCESS)
}

/// Whether the namespace is still to be labelled.
async fn enrolled(objects: &Objects, namespace: &str, args: &ApplyArgs) -> Result<bool> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let found = objects.find(&object).await?;
    let found = found.with_context(|| format!("there is no namespace {namespace}"))?;
    let wanted = args.waypoint.name.as_str();
    let elsewhere = match label(&found, USE_NAMESPACE) {
        "" => None,
        same if same == namespace => None,
        other => Some(other),
    };
    match (label(&found, USE), elsewhere) {
        (same, None) if same == wanted => Ok(false),
        ("", None) => Ok(true),
        (other, elsewhere) if !args.overwrite => {
            let elsewhere = elsewhere.map(|place| format!(" and {USE_NAMESPACE}={place}"));
            bail!(
                "namespace {namespace} is labelled {USE}={other}{}: --overwrite has it use {wanted} instead",
                elsewhere.unwrap_or_default()
            )
        }
        _ => Ok(true),
    }
}

async fn enroll(objects: &Objects, namespace: &str, waypoint: &str) -> Result<()> {
    // The waypoint is in the namespace itself.
    let change = json!({"metadata": {"labels": {USE: waypoint, USE_NAMESPACE: null}}});
    let path = format!("/api/v1/namespaces/{namespace}?fieldManager={MANAGER}");
    let body = serde_json::to_vec(&change)?;
    let changed = objects
        .client()
        .call(Method::PATCH, &path, MERGE, body)
        .await;
    changed.with_context(|| format!("namespace {namespace} cannot be labelled"))?;
    Ok(())
}

/// Waits until the waypoints of that name, or all, can be used.
pub(super) async fn wait(
    objects: &Objects,
    namespace: Option<&str>,
    only: Option<&str>,
    limit: Duration,
    progress: &Progress,
) -> Result<()> {
    let wait = Wait {
        what: "waypoints cannot be used",
        limit,
        progress,
    };
    wait.until(async || {
        let mut found = waypoints(objects, namespace).await?;
        found.retain(|gateway| only.is_none_or(|only| name(gateway) == only));
        found.retain(|gateway| !is_usable(gateway));
        let first = found.first();
        Ok(first.map(|first| {
            let why = format!("{}: {}", full_name(first), why_not(first));
            Left::steps(found.len(), why)
        }))
    })
    .await
}
