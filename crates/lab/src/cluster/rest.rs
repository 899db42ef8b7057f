//! Objects to and from the API server, of whatever kind it knows.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::worker::{Request, Worker};

/// The API server, asked by hand.
#[derive(Debug)]
pub(super) struct Rest {
    worker: Worker,
    /// By `apiVersion` and kind: the plural, and whether it has namespaces.
    kinds: Mutex<BTreeMap<(String, String), (String, bool)>>,
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
        let (plural, has_namespace) = self.kind(version, kind)?;
        let of_version = of_version(version);
        Ok(match has_namespace {
            true => {
                let namespace = text("/metadata/namespace").unwrap_or("default");
                format!("{of_version}/namespaces/{namespace}/{plural}/{name}")
            }
            false => format!("{of_version}/{plural}/{name}"),
        })
    }

    fn kind(&self, version: &str, kind: &str) -> Result<(String, bool)> {
        let key = (version.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let list = self.call(Method::GET, &of_version(version), "", "")?;
        let resources = list.get("resources").and_then(Value::as_array);
        for resource in resources.into_iter().flatten() {
            let text = |name: &str| resource.get(name).and_then(Value::as_str);
            let (Some(plural), Some(kind)) = (text("name"), text("kind")) else {
                continue;
            };
            if !plural.contains('/') {
                let namespaced = resource.get("namespaced").and_then(Value::as_bool);
                let known = (plural.to_owned(), namespaced == Some(true));
                let key = (version.to_owned(), kind.to_owned());
                self.kinds.lock().insert(key, known);
            }
        }
        let known = self.kinds.lock().get(&key).cloned();
        ensure!(known.is_some(), "the API server knows no {version} {kind}");
        known.context("no such kind")
    }
}

fn of_version(version: &str) -> String {
    match version.contains('/') {
        true => format!("/apis/{version}"),
        false => format!("/api/{version}"),
    }
}

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
