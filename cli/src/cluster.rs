//! The cluster that a command is about.

use std::{iter, path::PathBuf};

use anyhow::Result;
use clap::Args;
use http::StatusCode;
use serde_json::Value;
use tulle_kubernetes::{CallError, Client, Objects, Resource};

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterArgs {
    /// The kubeconfig [default: KUBECONFIG, or ~/.kube/config].
    #[arg(long, value_name = "FILE", global = true, help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context in it [default: its current one].
    #[arg(long, value_name = "NAME", global = true, help_heading = "Cluster")]
    pub(crate) context: Option<String>,
}

impl ClusterArgs {
    /// A client of its API server. Nothing is sent yet.
    pub(crate) async fn connect(&self) -> Result<Objects> {
        let client = Client::choose(self.kubeconfig.as_deref(), self.context.as_deref());
        Ok(Objects::new(client.await?))
    }
}

/// All objects of a list, as JSON; none if their kind is not served.
///
/// # Errors
/// [`CallError`] for every other reason.
pub(crate) async fn list(client: &Client, path: &str, only: &str) -> Result<Vec<Value>, CallError> {
    match client.list(path, only).await {
        Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => Ok(Vec::new()),
        listed => listed,
    }
}

/// The version by which a kind is served, this one or an earlier one, and where its objects are; `None` if it is not served.
///
/// # Errors
/// [`CallError`], but for a kind that is not known.
pub(crate) async fn served(
    objects: &Objects,
    version: &str,
    kind: &str,
) -> Result<Option<(String, Resource)>, CallError> {
    let group = version.strip_suffix("/v1");
    let earlier = EARLIER
        .iter()
        .filter_map(|number| Some(format!("{}/{number}", group?)));
    for version in iter::once(version.to_owned()).chain(earlier) {
        match objects.resource(&version, kind).await {
            Err(CallError::UnknownKind { .. }) => {}
            resource => return Ok(Some((version, resource?))),
        }
    }
    Ok(None)
}

/// All objects in all namespaces that are of a kind, as `find` wants it: each with kind and version, which lists leave out. The version
/// is an earlier one where that is all that is served.
///
/// # Errors
/// [`CallError`], but for a kind that is not known.
pub(crate) async fn list_kind(
    objects: &Objects,
    version: &str,
    kind: &str,
    only: &str,
) -> Result<Vec<Value>, CallError> {
    let Some((version, resource)) = served(objects, version, kind).await? else {
        return Ok(Vec::new());
    };
    let mut listed = list(objects.client(), &resource.folder(None), only).await?;
    for object in listed.iter_mut().filter_map(Value::as_object_mut) {
        object.insert("apiVersion".to_owned(), version.as_str().into());
        object.insert("kind".to_owned(), kind.into());
    }
    Ok(listed)
}

/// What is served of a kind before it is at `v1`.
const EARLIER: [&str; 3] = ["v1beta1", "v1alpha2", "v1alpha1"];
