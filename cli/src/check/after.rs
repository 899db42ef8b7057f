//! Whether the mesh works: what is asked of the cluster. What follows from it is in the files below.

use anyhow::Result;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tulle_kubernetes::Objects;

use super::before;
use crate::{
    cluster::{list, list_kind, served},
    finding::{Finding, Level, count, counted},
    json::{annotation, label, namespace, text},
    manifest::MESHS,
};

mod parts;
mod pods;
mod policies;
mod writing;

/// What is known of a mesh.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Deployments and daemon sets of the mesh, and their pods.
    workloads: Vec<Value>,
    own_pods: Vec<Value>,
    nodes: Vec<Value>,
    namespaces: Vec<Value>,
    /// All pods.
    pods: Vec<Value>,
    /// What node agents have told of pods.
    events: Vec<Value>,
    /// What may have conditions of ours.
    judged: Vec<Value>,
    /// ConfigMaps with the roots of trust.
    roots: Vec<Value>,
    lease: Option<Value>,
    /// Definitions that are not served.
    undefined: Vec<String>,
    gateway: Vec<before::Served>,
    now: Option<OffsetDateTime>,
}

impl Facts {
    /// Asks for all of it.
    ///
    /// # Errors
    /// When something cannot be asked.
    pub(crate) async fn gather(objects: &Objects) -> Result<Self> {
        let client = objects.client();
        let mut facts = Self {
            now: Some(OffsetDateTime::now_utc()),
            ..Self::default()
        };
        for kind in ["Deployment", "DaemonSet"] {
            let found = list_kind(objects, "apps/v1", kind, MESHS).await?;
            facts.workloads.extend(found);
        }
        if facts.workloads.is_empty() {
            return Ok(facts);
        }
        facts.own_pods = list(client, "/api/v1/pods", MESHS).await?;
        facts.nodes = list(client, "/api/v1/nodes", "").await?;
        facts.namespaces = list(client, "/api/v1/namespaces", "").await?;
        facts.pods = list(client, "/api/v1/pods", "").await?;
        facts.events = list(client, "/apis/events.k8s.io/v1/events", EVENTS).await?;
        facts.roots = list(client, "/api/v1/configmaps", ROOTS).await?;
        facts.lease = objects
            .find(&json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": "tulled", "namespace": facts.root()},
            }))
            .await?;
        for (version, kind, is_needed) in JUDGED {
            if served(objects, version, kind).await?.is_none() {
                let unknown = format!("{kind} of {version}");
                facts.undefined.extend(is_needed.then_some(unknown));
                continue;
            }
            facts
                .judged
                .extend(list_kind(objects, version, kind, "").await?);
        }
        facts.gateway = before::gateway(objects).await?;
        Ok(facts)
    }

    /// The namespace that the control plane is in.
    fn root(&self) -> &str {
        let is_control_plane = |workload: &&Value| label(workload, "app") == "tulled";
        let control_plane = self.workloads.iter().find(is_control_plane);
        control_plane.map(namespace).unwrap_or_default()
    }

    /// Everything that is to be said of it.
    pub(crate) fn judge(&self) -> Vec<Finding> {
        let mut findings = parts::judge(&self.workloads, &self.own_pods, &self.nodes);
        if self.workloads.is_empty() {
            return findings;
        }
        findings.extend(parts::versions(&self.own_pods));
        findings.push(writing::definitions(&self.undefined));
        findings.push(before::gateway_finding(&self.gateway));
        findings.push(writing::lease(self.lease.as_ref(), self.now));
        findings.push(writing::roots(&self.namespaces, &self.roots));
        let selection = pods::Selection::of(&self.workloads);
        let seen = pods::Seen {
            pods: &self.pods,
            namespaces: &self.namespaces,
            events: &self.events,
            agents: &self.own_pods,
        };
        findings.extend(pods::judge(&selection, &seen));
        findings.extend(policies::judge(&self.judged));
        findings
    }

    /// In one sentence.
    pub(crate) fn conclude(&self, findings: &[Finding]) -> (bool, String) {
        let failures: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.level == Level::Failure)
            .map(|finding| finding.what.as_str())
            .collect();
        if let Some(first) = failures.first() {
            let sentence = match self.workloads.is_empty() {
                true => format!("{first}."),
                false => {
                    let failures = counted(failures.len(), "failure");
                    format!(
                        "The mesh does not work as it was asked to: {failures}, first that {first}."
                    )
                }
            };
            return (false, sentence);
        }
        let in_mesh = |pod: &&Value| annotation(pod, pods::REDIRECTION) == "enabled";
        let pods = counted(self.pods.iter().filter(in_mesh).count(), "pod");
        let nodes = counted(self.nodes.len(), "node");
        let rest = match count(findings, Level::Warning) {
            0 => String::new(),
            warnings => format!(", with {}", counted(warnings, "warning")),
        };
        (
            true,
            format!("The mesh works: {pods} in it on {nodes}{rest}."),
        )
    }
}

/// Whether an object is about to go.
fn is_ending(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

const EVENTS: &str = "fieldSelector=type%3DWarning&";
const ROOTS: &str = "fieldSelector=metadata.name%3Distio-ca-root-cert&";
/// Kinds whose objects have conditions of ours, and whether the mesh defines them itself.
const JUDGED: [(&str, &str, bool); 14] = [
    ("security.istio.io/v1", "AuthorizationPolicy", true),
    ("security.istio.io/v1", "PeerAuthentication", true),
    ("security.istio.io/v1", "RequestAuthentication", true),
    ("networking.istio.io/v1", "ServiceEntry", true),
    ("networking.istio.io/v1", "WorkloadEntry", true),
    ("networking.istio.io/v1", "DestinationRule", true),
    ("networking.istio.io/v1", "VirtualService", true),
    ("telemetry.istio.io/v1", "Telemetry", true),
    ("tulle.io/v1alpha1", "RateLimitPolicy", true),
    ("v1", "Service", true),
    ("gateway.networking.k8s.io/v1", "GatewayClass", false),
    ("gateway.networking.k8s.io/v1", "Gateway", false),
    ("gateway.networking.k8s.io/v1", "HTTPRoute", false),
    ("gateway.networking.k8s.io/v1", "GRPCRoute", false),
];
