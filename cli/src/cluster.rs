//! The cluster that a command is about.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use http::StatusCode;
use serde_json::Value;
use tulle_kubernetes::{CallError, Client, Objects};

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

/// All objects in all namespaces that are of a kind, as `find` wants it: each with kind and version, which lists leave out.
///
/// # Errors
/// [`CallError`], but for a kind that is not known.
pub(crate) async fn list_kind(
    objects: &Objects,
    version: &str,
    kind: &str,
    only: &str,
) -> Result<Vec<Value>, CallError> {
    let resource = match objects.resource(version, kind).await {
        Err(CallError::UnknownKind { .. }) => return Ok(Vec::new()),
        resource => resource?,
    };
    let mut listed = list(objects.client(), &resource.folder(None), only).await?;
    for object in listed.iter_mut().filter_map(Value::as_object_mut) {
        object.insert("apiVersion".to_owned(), version.into());
        object.insert("kind".to_owned(), kind.into());
    }
    Ok(listed)
}
