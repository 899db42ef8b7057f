//! Endpoints that are no pods into workloads: machines outside the cluster, and names.
//!
//! Spec: `control-plane.md` §1.9 and §1.10.

use std::{collections::BTreeMap, net::IpAddr};

use tulle_manifest::{Labels, WorkloadEntry, WorkloadEntrySpec};
use tulle_model::{GatewayAddress, Health, Locality, PolicyKey, PortMapping, ServiceKey, Workload};

use super::{
    first_label,
    workload::{CANONICAL_NAME, CANONICAL_REVISION, Untranslatable, tunnel},
};
use crate::mesh::Mesh;

/// An endpoint that is no pod, as its object describes it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Key of the workload.
    pub uid: &'a str,
    /// Name of the object.
    pub name: &'a str,
    /// Namespace of the object.
    pub namespace: &'a str,
    /// Where it is.
    pub spec: &'a WorkloadEntrySpec,
    /// By which it is selected, and told how it is reached.
    pub labels: &'a Labels,
    /// Annotations of the object.
    pub annotations: &'a Labels,
    /// What whoever checks it says.
    pub health: Health,
}

/// What the workload depends on besides.
#[derive(Clone, Debug, Default)]
pub struct MachineSurroundings<'a> {
    /// Network of the cluster.
    pub network: &'a str,
    /// Services that it is an endpoint of.
    pub services: BTreeMap<ServiceKey, Vec<PortMapping>>,
    /// What serves its own address.
    pub waypoint: Option<GatewayAddress>,
    /// Policies that apply to it by selector, each of which is sent as well.
    pub policies: Vec<PolicyKey>,
}

/// The key of the workload of a workload entry.
pub fn workload_entry_uid(mesh: &Mesh, namespace: &str, name: &str) -> String {
    let cluster = &mesh.cluster_id;
    format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}")
}

/// What a workload entry describes. `labels` are [`WorkloadEntry::labels`].
pub fn machine_of<'a>(entry: &'a WorkloadEntry, uid: &'a str, labels: &'a Labels) -> Machine<'a> {
    Machine {
        uid,
        name: &entry.metadata.name,
        namespace: entry.metadata.namespace(),
        spec: &entry.spec,
        labels,
        annotations: &entry.metadata.annotations,
        health: health(entry),
    }
}

/// Healthy, unless somebody who looks after it says that it is not.
fn health(entry: &WorkloadEntry) -> Health {
    let mut conditions = entry.status.conditions.iter();
    match conditions.any(|told| told.kind == HEALTHY && told.status == "False") {
        true => Health::Unhealthy,
        false => Health::Healthy,
    }
}

/// The workload of such an endpoint.
///
/// # Errors
/// [`Untranslatable`] when its address can be none, or its service account.
pub fn machine(
    mesh: &Mesh,
    machine: Machine<'_>,
    around: MachineSurroundings<'_>,
) -> Result<Workload, Untranslatable> {
    let Machine { spec, labels, .. } = machine;
    let account = match spec.service_account.as_str() {
        "" => "default",
        account => account,
    };
    let trust_domain = mesh.trust_domain.clone();
    let start = Workload::new(machine.uid, trust_domain, machine.namespace, account)?;
    let (addresses, hostname) = match spec.address.parse::<IpAddr>() {
        Ok(address) => (vec![address.to_canonical()], None),
        Err(_) if is_name(&spec.address) => (Vec::new(), Some(spec.address.as_str().into())),
        Err(_) => return Err(Untranslatable::Endpoint),
    };
    let network = match spec.network.as_str() {
        "" => around.network,
        network => network,
    };
    let (tunnel_protocol, native_tunnel) = tunnel(labels, machine.annotations);
    let group = machine.annotations.get(GROUP).map(String::as_str);
    let workload_name = group
        .filter(|group| !group.is_empty())
        .or_else(|| first_label(labels, &["service.istio.io/workload-name"]))
        .unwrap_or(machine.name);
    let canonical_name = first_label(labels, CANONICAL_NAME).unwrap_or(workload_name);
    let canonical_revision = first_label(labels, CANONICAL_REVISION).unwrap_or("latest");
    Ok(Workload {
        name: machine.name.into(),
        addresses,
        hostname,
        network: network.into(),
        tunnel_protocol,
        native_tunnel,
        services: around.services,
        waypoint: around.waypoint,
        authorization_policies: around.policies,
        locality: locality(&spec.locality),
        cluster_id: mesh.cluster_id.as_str().into(),
        health: machine.health,
        capacity: spec.weight.max(1),
        workload_name: workload_name.into(),
        canonical_name: canonical_name.into(),
        canonical_revision: canonical_revision.into(),
        ..start
    })
}

/// Whether a text can be a DNS name, or a wildcard of some.
pub(super) fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Locality {
        region: next(),
        zone: next(),
        subzone: next(),
    }
}

/// The condition of a workload entry by which whoever probes the machine tells of it.
pub const HEALTHY: &str = "Healthy";
/// Annotation of entries that machines have made themselves.
const GROUP: &str = "istio.io/autoRegistrationGroup";

#[cfg(test)]
mod tests;
