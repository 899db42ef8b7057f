//! Deleting waypoints, and saying who still wants one.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tulle_kubernetes::Objects;

use super::{
    DeleteArgs,
    gateway::{USE, waypoints},
};
use crate::{
    cluster::list_kind,
    finding::{counted, some},
    json::{label, name, namespace, title},
    progress::Progress,
};

pub(super) async fn remove(objects: &Objects, args: &DeleteArgs) -> Result<ExitCode> {
    let progress = Progress::new();
    let of = args.namespace.as_deref();
    let of = of.unwrap_or(objects.client().namespace());
    let found = waypoints(objects, Some(of)).await?;
    let unknown = |wanted: &&String| !found.iter().any(|gateway| name(gateway) == wanted.as_str());
    let unknown: Vec<&String> = args.names.iter().filter(unknown).collect();
    if !unknown.is_empty() {
        bail!(
            "there is no waypoint {} in namespace {of}; nothing was deleted",
            some(&unknown)
        );
    }
    let is_meant =
        |gateway: &&Value| args.all || args.names.iter().any(|wanted| wanted == name(gateway));
    let meant: Vec<&Value> = found.iter().filter(is_meant).collect();
    for gateway in &meant {
        let deleted = objects.delete(gateway).await;
        deleted.with_context(|| format!("{} cannot be deleted", title(gateway)))?;
        progress.done(&title(gateway), "deleted");
    }
    for user in users(objects, of, &meant).await? {
        progress.note(&format!(
            "{user} is still labelled {USE}, with a waypoint that is no more"
        ));
    }
    let count = counted(meant.len(), "waypoint");
    progress.conclude(&format!("{count} deleted in namespace {of}."));
    Ok(ExitCode::SUCCESS)
}

/// The namespaces and services whose labels name one of these waypoints.
async fn users(objects: &Objects, of: &str, waypoints: &[&Value]) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for kind in ["Namespace", "Service"] {
        for object in list_kind(
            objects,
            "v1",
            kind,
            "labelSelector=istio.io%2Fuse-waypoint&",
        )
        .await?
        {
            let own = match kind {
                "Namespace" => name(&object),
                _ => namespace(&object),
            };
            let place = match label(&object, USE_NAMESPACE) {
                "" => own,
                place => place,
            };
            let names = waypoints
                .iter()
                .any(|gateway| name(gateway) == label(&object, USE));
            if place == of && names {
                users.push(title(&object));
            }
        }
    }
    Ok(users)
}

const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
