//! Whether the mesh can be installed: what is asked of the cluster. What follows from it is in [`judge`].

use anyhow::Result;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tulle_kubernetes::{CallError, JSON, Objects, Resource};

use crate::{
    cluster::list,
    definition::Definition,
    finding::Finding,
    json::{namespace, text},
    manifest::{Manifest, Platform},
};

mod judge;
mod nodes;

pub(crate) use judge::{INSTALL_GATEWAY_API, conclude, gateway as gateway_finding};

/// What is known before anything is installed.
#[derive(Debug)]
pub(crate) struct Facts {
    server: Version,
    /// The version of the API that has a kind which is not served.
    unknown: Vec<String>,
    permissions: Vec<Permission>,
    definitions: Vec<(String, Definition)>,
    /// Definitions of Gateway API; or why they are not known.
    gateway: Result<Vec<Served>, String>,
    /// Nodes, daemon sets and deployments; or why they are not known.
    nodes: Result<Vec<Value>, String>,
    workloads: Result<Vec<Value>, String>,
}

/// The name of a definition, and the versions of it that are served; none if it is not there.
pub(crate) type Served = (&'static str, Option<Vec<String>>);

/// What the API server says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    pub(crate) major: String,
    /// With a `+` behind it on some platforms.
    pub(crate) minor: String,
    pub(crate) git_version: String,
}

/// Something that installing takes, and whether it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permission {
    verb: &'static str,
    group: String,
    plural: String,
    /// Empty for what is in no namespace.
    namespace: String,
    allowed: bool,
}

impl Facts {
    /// Asks for all of it.
    ///
    /// # Errors
    /// When the API server cannot be reached, or answers nothing that could be understood.
    pub(crate) async fn gather(objects: &Objects, manifest: &Manifest) -> Result<Self> {
        let client = objects.client();
        let server = client.get("/version").await?;
        let (mut resources, mut unknown) = (Vec::<(Resource, String)>::new(), Vec::new());
        for object in manifest.objects() {
            let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
            let resource = match objects.resource(version, kind).await {
                Ok(resource) => (resource, namespace(object).to_owned()),
                Err(CallError::UnknownKind { .. }) => {
                    unknown.push(format!("{kind} of {version}"));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if !resources.contains(&resource) {
                resources.push(resource);
            }
        }
        unknown.dedup();
        let wanted = resources.iter().flat_map(|(resource, namespace)| {
            VERBS.map(|verb| Permission {
                verb,
                group: resource.group().to_owned(),
                plural: resource.plural.clone(),
                namespace: namespace.clone(),
                allowed: false,
            })
        });
        let wanted: Vec<Permission> = wanted.collect();
        let asked = stream::iter(wanted).map(|wanted| wanted.ask(objects));
        let asked: Vec<Result<Permission, CallError>> = asked.buffered(AT_ONCE).collect().await;
        let mut definitions = Vec::new();
        for wanted in manifest.objects() {
            if text(wanted, "/kind") == DEFINITION {
                let found = match objects.find(wanted).await {
                    // That it may not be asked for is told as a permission.
                    Err(error) if error.code() == Some(StatusCode::FORBIDDEN) => continue,
                    found => found?,
                };
                let name = crate::definition::title(wanted).to_owned();
                definitions.push((name, Definition::compare(wanted, found.as_ref())));
            }
        }
        let (nodes, workloads) =
            tokio::join!(list(client, "/api/v1/nodes", ""), workloads(objects));
        Ok(Self {
            server,
            unknown,
            permissions: asked.into_iter().collect::<Result<_, _>>()?,
            definitions,
            gateway: gateway(objects).await.map_err(|error| error.to_string()),
            nodes: nodes.map_err(|error| error.to_string()),
            workloads: workloads.map_err(|error| error.to_string()),
        })
    }

    /// What it looks like to be, for the chart.
    pub(crate) fn platform(&self) -> Platform {
        let nodes = self.nodes.as_deref().unwrap_or_default();
        crate::manifest::detect(&self.server.git_version, nodes)
    }

    /// Where the images of an earlier installation of ours come from.
    pub(crate) fn registry(&self) -> Option<&str> {
        let workloads = self.workloads.as_deref().unwrap_or_default();
        let mut ours = workloads.iter().filter(|one| crate::manifest::is_ours(one));
        let image = ours.find_map(|workload| crate::manifest::images(workload).next());
        image.map(|image| image.registry)
    }

    /// What follows for an installation of `manifest`, with the preset of `platform`.
    pub(crate) fn judge(&self, manifest: &Manifest, platform: Platform) -> Vec<Finding> {
        judge::all(self, manifest, platform)
    }
}

impl Permission {
    async fn ask(mut self, objects: &Objects) -> Result<Self, CallError> {
        let namespace = Some(self.namespace.as_str()).filter(|name| !name.is_empty());
        let question = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": self.verb,
                "group": self.group,
                "resource": self.plural,
                "namespace": namespace,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let body = serde_json::to_vec(&question)?;
        let answer = objects.client().call(Method::POST, path, JSON, body);
        let answer: Value = serde_json::from_slice(&answer.await?)?;
        self.allowed = answer.pointer("/status/allowed") == Some(&Value::Bool(true));
        Ok(self)
    }

    /// As people write it: `deployments.apps in namespace istio-system`.
    fn on(&self) -> String {
        let kind = match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        };
        match self.namespace.as_str() {
            "" => kind,
            namespace => format!("{kind} in namespace {namespace}"),
        }
    }
}

async fn workloads(objects: &Objects) -> Result<Vec<Value>, CallError> {
    let mut all = Vec::new();
    for kind in ["DaemonSet", "Deployment"] {
        all.extend(crate::cluster::list_kind(objects, "apps/v1", kind, "").await?);
    }
    Ok(all)
}

/// Which definitions of Gateway API there are.
pub(crate) async fn gateway(objects: &Objects) -> Result<Vec<Served>, CallError> {
    let mut found = Vec::new();
    for name in GATEWAY {
        let definition = objects
            .find(&json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": DEFINITION,
                "metadata": {"name": name},
            }))
            .await?;
        let versions = definition.map(|definition| {
            let served = crate::definition::served(&definition).into_iter();
            served.map(str::to_owned).collect()
        });
        found.push((name, versions));
    }
    Ok(found)
}

pub(crate) const DEFINITION: &str = "CustomResourceDefinition";
/// What installing, upgrading and removing take.
const VERBS: [&str; 5] = ["get", "list", "create", "patch", "delete"];
const AT_ONCE: usize = 8;
/// Those that waypoints take.
const GATEWAY: [&str; 5] = [
    "gatewayclasses.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "referencegrants.gateway.networking.k8s.io",
];
