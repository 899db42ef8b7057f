//! A workload as it is kept in memory.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use smallvec::SmallVec;
use tulle_model::{
    ApplicationTunnel, GatewayAddress, Health, Locality, NetworkAddress, NetworkMode, PolicyKey,
    PortMapping, ServiceKey, SpiffeId, TunnelProtocol, Uid, WorkloadType,
};

use super::intern::Interner;

/// An endpoint of the mesh: what is its own, and the [`Profile`] and [`Place`] it shares with others.
///
/// A node knows every workload of the cluster. Replicas differ in very little, so the rest exists once; together
/// with short index entries that keeps 100 000 workloads at about 40 MB. Fields of the profile are read as if they
/// were the workload's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Primary key.
    pub uid: Uid,
    /// Pod name.
    pub name: Arc<str>,
    /// Its addresses, never IPv4-mapped. Empty for a workload known by `hostname` only.
    pub addresses: SmallVec<[IpAddr; 1]>,
    /// Whether services may pick it.
    pub health: Health,
    /// Where it runs.
    pub place: Arc<Place>,
    /// What its replicas have in common.
    pub profile: Arc<Profile>,
}

impl Workload {
    /// The addresses under which the workload is looked up: none for one that shares the host's.
    pub fn own_addresses(&self) -> impl Iterator<Item = NetworkAddress> + '_ {
        let own = match self.network_mode {
            NetworkMode::Standard => self.addresses.as_slice(),
            NetworkMode::HostNetwork => &[],
        };
        own.iter()
            .map(|address| NetworkAddress::new(Arc::clone(&self.network), *address))
    }

    /// Whether the workload was declared as a pod, rather than as an entry that may describe the same address.
    pub fn is_pod(&self) -> bool {
        self.uid.as_str().contains("//Pod/")
    }

    /// Port of this workload for a port of a service, if it names one itself.
    pub fn mapped_port(&self, service: &ServiceKey, service_port: u16) -> Option<u16> {
        self.ports_of(service)?
            .iter()
            .find(|mapping| mapping.service_port == service_port && mapping.target_port != 0)
            .map(|mapping| mapping.target_port)
    }
}

impl From<tulle_model::Workload> for Workload {
    /// One that shares nothing.
    fn from(workload: tulle_model::Workload) -> Self {
        Interner::default().workload(workload)
    }
}

impl Deref for Workload {
    type Target = Profile;

    fn deref(&self) -> &Profile {
        &self.profile
    }
}

/// What replicas of one workload have in common. The fields are those of [`tulle_model::Workload`]; `services` is
/// sorted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "documented in the model")]
pub struct Profile {
    pub namespace: Arc<str>,
    pub identity: SpiffeId,
    pub hostname: Option<Arc<str>>,
    pub network: Arc<str>,
    pub network_mode: NetworkMode,
    pub tunnel_protocol: TunnelProtocol,
    pub native_tunnel: bool,
    pub waypoint: Option<GatewayAddress>,
    pub network_gateway: Option<GatewayAddress>,
    pub services: Box<[(ServiceKey, Box<[PortMapping]>)]>,
    pub authorization_policies: Vec<PolicyKey>,
    pub cluster_id: Arc<str>,
    pub capacity: u32,
    pub application_tunnel: Option<ApplicationTunnel>,
    pub workload_type: WorkloadType,
    pub workload_name: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
}

impl Profile {
    /// The ports it serves of a service, if it is an endpoint of that one.
    pub fn ports_of(&self, service: &ServiceKey) -> Option<&[PortMapping]> {
        let index = self.services.binary_search_by(|(key, _)| key.cmp(service));
        let (_, ports) = self.services.get(index.ok()?)?;
        Some(ports)
    }

    /// Keys of the services it is an endpoint of.
    pub fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.iter().map(|(key, _)| key)
    }
}

/// Where a workload runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Place {
    /// Name of the node; empty if unknown.
    pub node: Arc<str>,
    /// Region, zone and subzone.
    pub locality: Locality,
}

/// Several workloads or services may claim one key. The first is the one that counts.
pub(crate) type Claims<T> = SmallVec<[T; 1]>;

/// Adds a claim, keeping the list in order of preference.
pub(crate) fn add_claim(claims: &mut Claims<Arc<Workload>>, workload: &Arc<Workload>) {
    let rank = |w: &Workload| {
        let hbone = w.tunnel_protocol == TunnelProtocol::Hbone;
        (!w.is_pod(), !hbone, w.uid.clone())
    };
    let position = claims.partition_point(|other| rank(other) < rank(workload));
    claims.insert(position, Arc::clone(workload));
}

/// Takes a claim away; says whether any is left.
pub(crate) fn drop_claim(claims: &mut Claims<Arc<Workload>>, uid: &Uid) -> bool {
    claims.retain(|other| other.uid != *uid);
    !claims.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_workload_costs_stays_small() {
        // Times 100 000, beside its UID and name.
        assert!(size_of::<Workload>() <= 96, "{}", size_of::<Workload>());
    }
}
