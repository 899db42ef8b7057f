//! Objects of the core API.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de};

use super::{
    conditions::{Conditions, lenient},
    meta::{Labels, Metadata, or_default},
};

/// A namespace: labels and annotations are all we read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Metadata,
}

/// A node: only its topology labels are read.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// What was asked for.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PodSpec,
    /// What is running.
    #[serde(default, deserialize_with = "or_default")]
    pub status: PodStatus,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodSpec {
    #[serde(default, deserialize_with = "or_default")]
    pub node_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub service_account_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub host_network: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
}

impl PodSpec {
    /// The service account; `default` when none is written.
    pub fn service_account(&self) -> &str {
        if self.service_account_name.is_empty() {
            "default"
        } else {
            &self.service_account_name
        }
    }
}

/// A container: only its ports are read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct Container {
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar, which keeps running.
    #[serde(default, deserialize_with = "or_default")]
    pub restart_policy: String,
}

/// A declared port of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ContainerPort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub container_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
}

/// What is running.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub phase: PodPhase,
    #[serde(default, rename = "podIP", deserialize_with = "or_default")]
    pub pod_ip: String,
    #[serde(default, rename = "podIPs", deserialize_with = "or_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
    #[default]
    #[serde(other)]
    Unknown,
}

impl PodPhase {
    /// The pod has ended and will not run again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// An address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PodIp {
    /// The address as text.
    #[serde(default, deserialize_with = "or_default")]
    pub ip: String,
}

/// A condition in a status.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: ConditionStatus,
}

/// Status of a condition. YAML reads an unquoted `True` as a boolean, which the API server refuses and we accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold, or nobody knows.
    #[default]
    NotTrue,
}

impl<'de> Deserialize<'de> for ConditionStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "True" | "true" => Self::True,
            _ => Self::NotTrue,
        })
    }
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Service {
    /// Metadata.
    pub metadata: Metadata,
    /// What was asked for.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// What has become of it.
    #[serde(default, deserialize_with = "lenient")]
    pub status: Conditions,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ServiceSpec {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub service_type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub selector: Labels,
    #[serde(default, rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    #[serde(default, rename = "clusterIPs", deserialize_with = "or_default")]
    pub cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    #[serde(default, deserialize_with = "or_default")]
    pub ip_families: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub internal_traffic_policy: String,
    #[serde(default, deserialize_with = "or_default")]
    pub traffic_distribution: String,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ServicePort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub target_port: TargetPort,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "or_default")]
    pub app_protocol: String,
}

/// Where a service port leads to on the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TargetPort {
    /// The same number as the service port.
    #[default]
    Same,
    /// A number.
    Number(u16),
    /// The container port with this name.
    Name(String),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetPortVisitor)
    }
}

struct TargetPortVisitor;

impl de::Visitor<'_> for TargetPortVisitor {
    type Value = TargetPort;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a port number or the name of a container port")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        match u16::try_from(value) {
            Ok(0) => Ok(TargetPort::Same),
            Ok(port) => Ok(TargetPort::Number(port)),
            Err(_) => Err(E::custom("a port number is at most 65535")),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        let value = u64::try_from(value).map_err(|_| E::custom("a port number is not negative"))?;
        self.visit_u64(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        if value.is_empty() {
            return Ok(TargetPort::Same);
        }
        Ok(TargetPort::Name(value.to_owned()))
    }
}

impl Pod {
    /// The addresses of the pod; `None` when it has none, or when one cannot be understood.
    pub fn addresses(&self) -> Option<Vec<IpAddr>> {
        let status = &self.status;
        let texts: Vec<&str> = if status.pod_ips.is_empty() {
            vec![status.pod_ip.as_str()]
        } else {
            status.pod_ips.iter().map(|ip| ip.ip.as_str()).collect()
        };
        texts
            .into_iter()
            .map(|text| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()))
            .collect()
    }

    /// Leaves out what nothing is read of: most containers and conditions.
    pub fn trim(&mut self) {
        for containers in [&mut self.spec.containers, &mut self.spec.init_containers] {
            containers.retain(|container| !container.ports.is_empty());
            containers.shrink_to_fit();
        }
        let conditions = &mut self.status.conditions;
        conditions.retain(|condition| condition.kind == READY);
        conditions.shrink_to_fit();
    }

    /// Whether condition `Ready` holds.
    pub fn is_ready(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|condition| condition.kind == READY && condition.status == ConditionStatus::True)
    }
}

impl Service {
    /// The addresses of the service; none if it is headless, or has not been given any yet.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let spec = &self.spec;
        let texts = match spec.cluster_ips.as_slice() {
            [] => std::slice::from_ref(&spec.cluster_ip),
            several => several,
        };
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

const READY: &str = "Ready";
