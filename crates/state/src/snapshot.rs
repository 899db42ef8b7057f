//! What the data path reads.

use std::{net::IpAddr, sync::Arc};

use tulle_model::{PolicyKey, PolicyTarget, ServiceKey, Uid};
use tulle_policy::PolicySet;

use super::{
    policies::{Policies, PolicyRecord},
    quarantine::Quarantine,
    resource::Resource,
    services::{ServiceRecord, Services},
    workload::Workload,
    workloads::Workloads,
};

/// Everything that is known of the mesh, at one moment. Never changes; clones share almost everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) policy_epoch: PolicyEpoch,
    pub(super) workloads: Workloads,
    pub(super) services: Services,
    pub(super) policies: Policies,
    pub(super) quarantine: Quarantine,
    pub(super) local: Arc<[Resource]>,
}

/// Equal as long as no decision about a connection to a workload of this node can have changed.
///
/// It moves on when a policy changes, or a workload of this node, which may have been given other policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyEpoch(pub(super) u64);

/// What an address stands for.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    /// A virtual address.
    Service(&'a Arc<ServiceRecord>),
    /// The address of one workload.
    Workload(&'a Arc<Workload>),
    /// Something of the mesh that could not be understood; its name.
    Quarantined(&'a Arc<str>),
    /// Nothing in the mesh.
    Unknown,
}

impl Snapshot {
    /// Counts changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Tells when to look at live connections again.
    pub fn policy_epoch(&self) -> PolicyEpoch {
        self.policy_epoch
    }

    /// What an address stands for, to a client of `namespace`. The most specific claim wins: a virtual address,
    /// then a workload, then a range of virtual addresses.
    pub fn destination(&self, network: &str, address: IpAddr, namespace: &str) -> Destination<'_> {
        let address = address.to_canonical();
        if let Some(service) = self.services.by_vip(network, address, namespace) {
            return Destination::Service(service);
        }
        if let Some(workload) = self.workloads.by_address(network, address) {
            return Destination::Workload(workload);
        }
        if let Some(name) = self.quarantine.claimant(network, address) {
            return Destination::Quarantined(name);
        }
        match self.services.by_range(network, address, namespace) {
            Some(service) => Destination::Service(service),
            None => Destination::Unknown,
        }
    }

    /// A workload by key.
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that has an address to itself. Never one that shares the host's addresses.
    pub fn workload_by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.by_address(network, address.to_canonical())
    }

    /// The workload of a namespace that is known by this hostname.
    pub fn workload_by_hostname(&self, key: &ServiceKey) -> Option<&Arc<Workload>> {
        self.workloads.by_hostname(key)
    }

    /// A workload of this node, as the node agent names it.
    pub fn local_workload(
        &self,
        namespace: &str,
        name: &str,
        service_account: &str,
    ) -> Option<&Arc<Workload>> {
        self.workloads.local(namespace, name, service_account)
    }

    /// All workloads of this node.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.all_local()
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// A service by key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceRecord>> {
        self.services.get(key)
    }

    /// Every service with this hostname, whoever may see it.
    pub fn services_by_hostname(
        &self,
        hostname: &str,
    ) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.services.by_hostname(hostname)
    }

    /// Every service that claims an address, whoever may see it.
    pub fn services_at(
        &self,
        network: &str,
        address: IpAddr,
    ) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.services.all_at(network, address.to_canonical())
    }

    /// All services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.services.iter()
    }

    /// Endpoints whose service has not arrived, in no particular order.
    pub fn staged_endpoints(&self) -> impl Iterator<Item = (&ServiceKey, &[Arc<Workload>])> {
        self.services.staged()
    }

    /// A policy by key.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<PolicyRecord>> {
        self.policies.get(key)
    }

    /// All policies, in no particular order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyRecord>> {
        self.policies.iter()
    }

    /// The policies that apply to connections to a workload.
    pub fn policies_for(&self, workload: &Workload) -> PolicySet {
        self.policies.applicable(workload)
    }

    /// The policies about what waypoints serve: targets with their namespaces.
    pub fn policies_about(&self, targets: &[(Arc<str>, PolicyTarget)]) -> PolicySet {
        self.policies.about(targets)
    }

    /// What came from the local file, whether or not the control plane says otherwise.
    pub fn local(&self) -> &[Resource] {
        &self.local
    }

    /// How many resources there are.
    pub fn counts(&self) -> Counts {
        Counts {
            workloads: self.workloads.len(),
            services: self.services.len(),
            policies: self.policies.len(),
            quarantined: self.quarantine.len(),
        }
    }

    /// Whether both know the same, whatever their generation.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self.workloads == other.workloads
            && self.services == other.services
            && self.policies == other.policies
            && self.quarantine == other.quarantine
    }
}

/// Number of resources of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub workloads: usize,
    pub services: usize,
    pub policies: usize,
    /// Workloads and services that could not be understood.
    pub quarantined: usize,
}
