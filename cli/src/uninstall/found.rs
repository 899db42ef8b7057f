//! What there is to remove.

use std::collections::BTreeMap;

use anyhow::Result;
use http::StatusCode;
use serde_json::Value;
use tulle_kubernetes::{CallError, Objects};

use crate::{
    check::before::DEFINITION,
    cluster::{list, list_kind},
    finding::{counted, some},
    json::{items, label, name, namespace, text, title},
    manifest::{MANAGED_BY, MANAGER, MESHS, Manifest, OURS, Platform, is_ours},
};

/// What there is of an installation of ours.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// An object that Helm has installed.
    pub(super) by_helm: Option<String>,
    /// What is always removed, in that order.
    pub(super) objects: Vec<Value>,
    /// The namespace that the mesh is in.
    pub(super) namespace: String,
    /// Definitions that we have installed, and a namespace that we have made.
    definitions: Vec<Value>,
    made: Option<Value>,
    /// A namespace of somebody else that we have labelled.
    pub(super) given: Option<Value>,
    /// How many objects there are of each definition, by its name.
    counts: BTreeMap<String, usize>,
    /// What is in the namespace that we have made, and not ours: with its kind.
    guests: Vec<String>,
    /// Policies by which workloads take nothing but mutual TLS.
    pub(super) strict: usize,
}

impl Found {
    /// Looks for it; also for what would go with it, if all is purged.
    ///
    /// # Errors
    /// When something cannot be asked.
    pub(super) async fn gather(objects: &Objects, purge: bool) -> Result<Self> {
        let mut found = Self::default();
        for kind in ["Deployment", "DaemonSet"] {
            let mesh = list_kind(objects, "apps/v1", kind, MESHS).await?;
            let helms = mesh.iter().find(|one| label(one, MANAGED_BY) == "Helm");
            found.by_helm = found.by_helm.or(helms.map(title));
        }
        for (version, kind) in Manifest::kinds()? {
            let ours = list_kind(objects, &version, &kind, OURS).await?;
            let of_itself = |object: &Value| object.pointer("/metadata/ownerReferences").is_none();
            found.objects.extend(ours.into_iter().filter(of_itself));
        }
        let mut definitions =
            list_kind(objects, "apiextensions.k8s.io/v1", DEFINITION, OURS).await?;
        for definition in &definitions {
            let count = count(objects, definition).await?;
            found.counts.insert(name(definition).to_owned(), count);
        }
        found.definitions.append(&mut definitions);
        let usual = Manifest::of(Platform::Default)?;
        for namespace in list_kind(objects, "v1", "Namespace", "").await? {
            if is_ours(&namespace) {
                found.made = Some(namespace);
            } else if name(&namespace) == usual.namespace() && is_labelled(&namespace) {
                found.given = Some(namespace);
            }
        }
        if let Some(made) = found.made.as_ref().filter(|_| purge) {
            found.guests = guests(objects, name(made)).await?;
        }
        let authentications =
            list_kind(objects, "security.istio.io/v1", "PeerAuthentication", "").await?;
        found.strict = authentications.iter().filter(|one| is_strict(one)).count();
        let mut namespaces = found.objects.iter().map(namespace);
        let of_objects = namespaces.find(|namespace| !namespace.is_empty());
        found.namespace = of_objects.unwrap_or(usual.namespace()).to_owned();
        Ok(found)
    }

    /// Whether there is nothing that would be removed.
    pub(super) fn is_nothing(&self, purge: bool) -> bool {
        let more = purge && self.purged().next().is_some();
        self.objects.is_empty() && self.given.is_none() && !more
    }

    /// What is removed only if nothing is to be left: with it goes what others have made.
    pub(super) fn purged(&self) -> impl Iterator<Item = &Value> {
        self.definitions.iter().chain(&self.made)
    }

    /// The same, for people.
    pub(super) fn kept(&self) -> String {
        let definitions = counted(self.definitions.len(), "definition") + " of kinds";
        let definitions = (!self.definitions.is_empty()).then_some(definitions);
        let made = self
            .made
            .as_ref()
            .map(|made| format!("namespace {}", name(made)));
        let parts: Vec<String> = definitions.into_iter().chain(made).collect();
        parts.join(" and ")
    }

    /// What goes with an object that is purged, to be said after its name.
    pub(super) fn with(&self, object: &Value) -> String {
        if text(object, "/kind") != DEFINITION {
            return match self.guests.is_empty() {
                true => String::new(),
                false => format!(", and in it {}", some(&self.guests)),
            };
        }
        match self.counts.get(name(object)).copied().unwrap_or_default() {
            0 => String::new(),
            count => format!(", and {} of that kind", counted(count, "object")),
        }
    }

    /// The node agent.
    pub(super) fn agent(&self) -> Option<&Value> {
        let is_agent = |object: &&Value| {
            text(object, "/kind") == "DaemonSet" && label(object, "k8s-app") == "istio-cni-node"
        };
        self.objects.iter().find(is_agent)
    }
}

/// Whether we own fields of an object.
fn is_labelled(object: &Value) -> bool {
    items(object, "/metadata/managedFields").any(|entry| text(entry, "/manager") == MANAGER)
}

/// What people or others keep in a namespace: the authority's key, for example.
async fn guests(objects: &Objects, namespace_name: &str) -> Result<Vec<String>, CallError> {
    let mut guests = Vec::new();
    for (version, kind) in KEPT {
        let folder = match objects.resource(version, kind).await {
            Err(CallError::UnknownKind { .. }) => continue,
            resource => resource?.folder(Some(namespace_name)),
        };
        let mut all = match list(objects.client(), &folder, "").await {
            Err(error) if error.code() == Some(StatusCode::FORBIDDEN) => {
                guests.push(format!("{kind}s, which you may not list"));
                continue;
            }
            all => all?,
        };
        all.retain(|one| {
            !is_ours(one)
                && one.pointer("/metadata/ownerReferences").is_none()
                && !MADE_EVERYWHERE.contains(&name(one))
        });
        guests.extend(all.iter().map(|one| format!("{kind} {}", name(one))));
    }
    Ok(guests)
}

fn is_strict(authentication: &Value) -> bool {
    let ports = authentication.pointer("/spec/portLevelMtls");
    let ports = ports.and_then(Value::as_object).into_iter().flatten();
    let mut modes = ports.map(|(_, port)| text(port, "/mode"));
    text(authentication, "/spec/mtls/mode") == STRICT || modes.any(|mode| mode == STRICT)
}

async fn count(objects: &Objects, definition: &Value) -> Result<usize, CallError> {
    let served = crate::definition::served(definition);
    let Some(version) = served.first() else {
        return Ok(0);
    };
    let (group, plural) = (
        text(definition, "/spec/group"),
        text(definition, "/spec/names/plural"),
    );
    let path = format!("/apis/{group}/{version}/{plural}");
    let all = list(objects.client(), &path, "").await?;
    Ok(all.len())
}

/// What is worth being told of by name before it goes with its namespace.
const KEPT: [(&str, &str); 7] = [
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
];
/// Every namespace has these.
const MADE_EVERYWHERE: [&str; 2] = ["kube-root-ca.crt", "istio-ca-root-cert"];
const STRICT: &str = "STRICT";
