//! Objects of whatever kind the API server knows, as JSON.

use std::{collections::BTreeMap, sync::Arc};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    CallError, Client, Resource,
    call::{APPLY, JSON},
    version_path,
};

/// Objects of any kind. What kinds there are is asked once for each version of a group.
#[derive(Debug)]
pub struct Objects {
    client: Client,
    known: Mutex<BTreeMap<String, Arc<[Resource]>>>,
}

/// How an object is applied.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// Who owns the fields then.
    pub manager: &'a str,
    /// Whether fields that others own are taken from them.
    pub force: bool,
    /// Whether it is only tried.
    pub dry_run: bool,
}

impl<'a> Apply<'a> {
    /// By `manager`, who takes nothing from others.
    pub fn by(manager: &'a str) -> Self {
        Self {
            manager,
            force: false,
            dry_run: false,
        }
    }
}

impl Objects {
    /// Nothing is sent yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// By which they are asked for.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A kind.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::UnknownKind`] if there is none of that name in that version.
    pub async fn resource(&self, version: &str, kind: &str) -> Result<Resource, CallError> {
        let unknown = || CallError::UnknownKind {
            version: version.to_owned(),
            kind: kind.to_owned(),
        };
        let kinds = match self.resources(version).await {
            Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => return Err(unknown()),
            kinds => kinds?,
        };
        let found = kinds.iter().find(|resource| resource.kind == kind);
        if found.is_none() {
            // It may be defined by the next time.
            self.known.lock().await.remove(version);
        }
        found.cloned().ok_or_else(unknown)
    }

    async fn resources(&self, version: &str) -> Result<Arc<[Resource]>, CallError> {
        let mut known = self.known.lock().await;
        if let Some(kinds) = known.get(version) {
            return Ok(Arc::clone(kinds));
        }
        let path = version_path(version);
        let answer = self.client.call(Method::GET, &path, JSON, Vec::new());
        let kinds: Arc<[Resource]> = Resource::read_all(version, &answer.await?)?.into();
        known.insert(version.to_owned(), Arc::clone(&kinds));
        Ok(kinds)
    }

    /// Where an object is: by its `apiVersion`, `kind`, name and namespace.
    ///
    /// # Errors
    /// As [`Self::resource`]; without a kind none is known.
    pub async fn path(&self, object: &Value) -> Result<String, CallError> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let resource = self.resource(version.unwrap_or_default(), kind.unwrap_or_default());
        let name = text("/metadata/name").unwrap_or_default();
        Ok(resource.await?.path(text("/metadata/namespace"), name))
    }

    /// The object that there is in place of this one, if there is one.
    ///
    /// # Errors
    /// As [`Self::path`].
    pub async fn find(&self, object: &Value) -> Result<Option<Value>, CallError> {
        let path = self.path(object).await?;
        found(self.client.get(&path).await)
    }

    /// Makes an object, or makes that part of it as it is written, and returns it as it is then.
    ///
    /// # Errors
    /// As [`Self::path`]; refused with 409 when others own fields of it.
    ///
    /// Spec: Kubernetes, server-side apply.
    pub async fn apply(&self, object: &Value, how: Apply<'_>) -> Result<Value, CallError> {
        let path = self.path(object).await?;
        self.apply_at(&path, object, how).await
    }

    /// As [`Self::apply`], for what is below objects.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn apply_at(
        &self,
        path: &str,
        object: &Value,
        how: Apply<'_>,
    ) -> Result<Value, CallError> {
        let Apply {
            manager,
            force,
            dry_run,
        } = how;
        let dry = if dry_run { "&dryRun=All" } else { "" };
        let path =
            format!("{path}?fieldManager={manager}&force={force}&fieldValidation=Strict{dry}");
        let body = serde_json::to_vec(object)?;
        let answer = self.client.call(Method::PATCH, &path, APPLY, body).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Deletes an object, and in the background what belongs to it. Returns whether there was one.
    ///
    /// # Errors
    /// As [`Self::path`].
    pub async fn delete(&self, object: &Value) -> Result<bool, CallError> {
        let path = self.path(object).await?;
        let mut options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        });
        let uid = object.pointer("/metadata/uid");
        if let (Some(uid), Some(options)) = (uid, options.as_object_mut()) {
            // Another one of that name is not meant.
            options.insert("preconditions".to_owned(), json!({"uid": uid}));
        }
        let body = serde_json::to_vec(&options)?;
        let deleted = self.client.call(Method::DELETE, &path, JSON, body).await;
        Ok(found(deleted)?.is_some())
    }
}

/// Nothing, if that is what was found.
fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => Ok(None),
        answer => answer.map(Some),
    }
}
