//! Pod into workload.

use std::collections::BTreeMap;

use tulle_model::{
    ApplicationTunnel, GatewayAddress, Health, InvalidSpiffeId, Locality, NetworkMode, PolicyKey,
    TunnelProtocol, Workload,
};

use super::{
    endpoint_slice, entry_key, first_label, owner::workload_name, port::mappings, service_entry,
    service_key,
};
use crate::mesh::Mesh;
use tulle_manifest::{EndpointSlice, Labels, Node, Pod, Service, ServiceEntry};

/// What a workload depends on besides its pod.
#[derive(Clone, Debug, Default)]
pub struct Surroundings<'a> {
    /// Network of the cluster.
    pub network: &'a str,
    /// The node that the pod runs on, if it is known.
    pub node: Option<&'a Node>,
    /// Services that the pod is an endpoint of: those that select it, and those of which a slice lists it.
    pub services: Vec<(&'a Service, Option<&'a EndpointSlice>)>,
    /// Service entries that select the pod, and the hosts that are theirs.
    pub entries: Vec<(&'a ServiceEntry, Vec<&'a str>)>,
    /// What serves the pod's own addresses.
    pub waypoint: Option<GatewayAddress>,
    /// How connections are handed to the pod, if it is a proxy behind ztunnel.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Policies that apply to the pod by selector, each of which is sent as well.
    pub policies: Vec<PolicyKey>,
}

/// Why a running pod is no workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untranslatable {
    /// An address of the pod is not an address.
    #[error("an address in its status cannot be understood")]
    Address,
    /// A service entry claims something that is no address.
    #[error("one of its addresses is neither an address nor a range of them")]
    Claim,
    /// A service entry claims the address of a service in another namespace.
    #[error("one of its addresses is that of a Service of another namespace")]
    Foreign,
    /// An endpoint that is no pod has neither an address nor a name.
    #[error("what it has for an address is neither an address nor a name")]
    Endpoint,
    /// The service account cannot be part of an identity.
    #[error("its service account cannot be part of an identity")]
    Identity(#[from] InvalidSpiffeId),
}

/// The key of a pod's workload.
pub fn workload_uid(mesh: &Mesh, namespace: &str, name: &str) -> String {
    let cluster = &mesh.cluster_id;
    format!("{cluster}//Pod/{namespace}/{name}")
}

/// The workload of a pod; `None` when it has ended, or has no address yet.
///
/// # Errors
/// [`Untranslatable`] when it should be a workload but says something impossible.
pub fn workload(
    mesh: &Mesh,
    pod: &Pod,
    around: &Surroundings<'_>,
) -> Result<Option<Workload>, Untranslatable> {
    let metadata = &pod.metadata;
    let has_address = !pod.status.pod_ip.is_empty() || !pod.status.pod_ips.is_empty();
    if pod.status.phase.is_terminal() || !has_address {
        return Ok(None);
    }
    let addresses = pod.addresses().ok_or(Untranslatable::Address)?;
    let namespace = metadata.namespace();
    let start = Workload::new(
        &workload_uid(mesh, namespace, &metadata.name),
        mesh.trust_domain.clone(),
        namespace,
        pod.spec.service_account(),
    )?;
    let (tunnel_protocol, native_tunnel) = tunnel(&metadata.labels, &metadata.annotations);
    let workload_name = workload_name(pod);
    let canonical_name = first_label(&metadata.labels, CANONICAL_NAME).unwrap_or(&workload_name);
    let canonical_revision = first_label(&metadata.labels, CANONICAL_REVISION).unwrap_or("latest");
    let network_mode = if pod.spec.host_network {
        NetworkMode::HostNetwork
    } else {
        NetworkMode::Standard
    };
    let health = if pod.is_ready() && metadata.deletion_timestamp.is_none() {
        Health::Healthy
    } else {
        Health::Unhealthy
    };
    let services = around.services.iter();
    let mut services: BTreeMap<_, _> = services
        .filter(|(service, _)| service.spec.service_type != "ExternalName")
        .map(|(service, slice)| {
            let mappings = match slice {
                Some(slice) => endpoint_slice::mappings(slice, service),
                None => mappings(service, pod),
            };
            (service_key(mesh, service), mappings)
        })
        .collect();
    for (entry, hosts) in &around.entries {
        let mappings = service_entry::pod_mappings(entry, pod);
        let keys = hosts.iter().map(|host| entry_key(entry, host));
        services.extend(keys.map(|key| (key, mappings.clone())));
    }
    Ok(Some(Workload {
        name: metadata.name.as_str().into(),
        addresses,
        network: around.network.into(),
        network_mode,
        tunnel_protocol,
        native_tunnel,
        services,
        waypoint: around.waypoint.clone(),
        application_tunnel: around.application_tunnel,
        authorization_policies: around.policies.clone(),
        health,
        node: pod.spec.node_name.as_str().into(),
        locality: around.node.map(locality).unwrap_or_default(),
        cluster_id: mesh.cluster_id.as_str().into(),
        canonical_name: canonical_name.into(),
        canonical_revision: canonical_revision.into(),
        workload_name: workload_name.as_str().into(),
        ..start
    }))
}

/// Where a node is.
pub fn locality(node: &Node) -> Locality {
    let label = |name: &str| {
        let value = node.metadata.labels.get(name);
        value.map_or("", String::as_str).into()
    };
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// How a workload is reached, and whether it terminates HBONE itself.
pub(super) fn tunnel(labels: &Labels, annotations: &Labels) -> (TunnelProtocol, bool) {
    let redirection = annotations.get("ambient.istio.io/redirection");
    if redirection.is_some_and(|value| value == "enabled") {
        (TunnelProtocol::Hbone, false)
    } else if terminates_hbone(labels) {
        (TunnelProtocol::Hbone, true)
    } else {
        (TunnelProtocol::None, false)
    }
}

/// Whether the labels say that the pod terminates HBONE itself, as sidecars and gateways do.
pub(crate) fn terminates_hbone(labels: &Labels) -> bool {
    labels
        .get("networking.istio.io/tunnel")
        .is_some_and(|value| value.split(',').any(|protocol| protocol.trim() == "http"))
}

pub(super) const CANONICAL_NAME: &[&str] = &[
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
pub(super) const CANONICAL_REVISION: &[&str] = &[
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

#[cfg(test)]
mod tests;
