//! Objects to and from the API server, of whatever kind it knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tulle_kubernetes::{APPLY, JSON, Resource, version_path};

use super::worker::{Request, Worker};

/// The API server, asked by hand.
#[derive(Debug)]
pub(super) struct Rest {
    worker: Worker,
    /// By `apiVersion` and kind.
    kinds: Mutex<BTreeMap<(String, String), Resource>>,
}

impl Rest {
    pub(super) fn new(worker: Worker) -> Self {
        Self {
            worker,
            kinds: Mutex::default(),
        }
    }

    pub(super) fn put(&self, object: &Value) -> Result<Value> {
        let path = self.path(object)?;
        let mut written = object.clone();
        let parts = written.as_object_mut().context("not an object")?;
        let status = parts.remove("status");
        if let Some(metadata) = parts.get_mut("metadata").and_then(Value::as_object_mut) {
            // Given by the API server.
            metadata.remove("uid");
        }
        let applied = self.apply(&path, &written)?;
        let Some(status) = status else {
            return Ok(applied);
        };
        let only = json!({
            "apiVersion": object.get("apiVersion"),
            "kind": object.get("kind"),
            "metadata": {"name": object.pointer("/metadata/name")},
            "status": status,
        });
        self.apply(&format!("{path}/status"), &only)
    }

    pub(super) fn create(&self, object: &Value) -> Result<Value> {
        let path = self.path(object)?;
        let (folder, _) = path.rsplit_once('/').context("no folder")?;
        self.call(Method::POST, folder, JSON, &object.to_string())
    }

    pub(super) fn rehearse(&self, object: &Value) -> Result<()> {
        let path = self.path(object)?;
        let path = format!("{path}?dryRun=All&fieldManager=lab&force=true&fieldValidation=Strict");
        let applied = self.call(Method::PATCH, &path, APPLY, &object.to_string());
        applied.map(drop)
    }

    fn apply(&self, path: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager=lab&force=true&fieldValidation=Strict");
        self.call(Method::PATCH, &path, APPLY, &object.to_string())
    }

    pub(super) fn delete(&self, object: &Value) -> Result<()> {
        let path = format!("{}?gracePeriodSeconds=0", self.path(object)?);
        match self.call(Method::DELETE, &path, "", "") {
            Err(error) if format!("{error:#}").contains("404") => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    /// Sends a request; what is answered is JSON, or a word.
    pub(super) fn call(&self, method: Method, path: &str, kind: &str, body: &str) -> Result<Value> {
        let kind = if kind.is_empty() { JSON } else { kind };
        let answer = self.worker.call(Request {
            method,
            path: path.to_owned(),
            kind: kind.to_owned(),
            body: body.as_bytes().to_vec(),
        })?;
        let text = || String::from_utf8_lossy(&answer).into_owned().into();
        Ok(serde_json::from_slice(&answer).unwrap_or_else(|_| text()))
    }

    /// Where an object is.
    fn path(&self, object: &Value) -> Result<String> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let version = text("/apiVersion").context("an object without apiVersion")?;
        let kind = text("/kind").context("an object without kind")?;
        let name = text("/metadata/name").context("an object without name")?;
        let resource = self.kind(version, kind)?;
        Ok(resource.path(text("/metadata/namespace"), name))
    }

    fn kind(&self, version: &str, kind: &str) -> Result<Resource> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let list = self.call(Method::GET, &version_path(version), "", "")?;
        let mut kinds = self.kinds.lock();
        for resource in Resource::read_all(version, list.to_string().as_bytes())? {
            kinds.insert((version.to_owned(), resource.kind.clone()), resource);
        }
        let known = kinds.get(&key).cloned();
        known.with_context(|| format!("the API server knows no {version} {kind}"))
    }
}
