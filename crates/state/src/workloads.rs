//! Workloads by UID, address, hostname and, for those of this node, by name.

use std::{net::IpAddr, sync::Arc};

use hashbrown::Equivalent;
use tulle_model::{NetworkAddress, ServiceKey, Uid};

use super::{
    cow_map::CowMap,
    services::VipQuery,
    workload::{Claims, Workload, add_claim, drop_claim},
};

/// All workloads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workloads {
    by_uid: CowMap<Uid, Arc<Workload>>,
    by_address: CowMap<NetworkAddress, Claims<Arc<Workload>>>,
    by_hostname: CowMap<ServiceKey, Claims<Arc<Workload>>>,
    local: CowMap<LocalName, Claims<Arc<Workload>>>,
}

impl Workloads {
    pub(crate) fn get(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.iter().map(|(_, workload)| workload)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// The workload that has this address to itself.
    pub(crate) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&VipQuery { network, address })?.first()
    }

    /// The workload of a namespace that is known by this hostname.
    pub(crate) fn by_hostname(&self, key: &ServiceKey) -> Option<&Arc<Workload>> {
        self.by_hostname.get(key)?.first()
    }

    /// A workload of this node.
    pub(crate) fn local(
        &self,
        namespace: &str,
        name: &str,
        service_account: &str,
    ) -> Option<&Arc<Workload>> {
        let claims = self.local.get(&LocalQuery { namespace, name })?;
        claims
            .iter()
            .find(|workload| workload.identity.service_account() == service_account)
    }

    /// All workloads of this node.
    pub(crate) fn all_local(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.local.iter().flat_map(|(_, claims)| claims)
    }

    pub(crate) fn insert(&mut self, workload: &Arc<Workload>, local: bool) {
        self.by_uid
            .insert(workload.uid.clone(), Arc::clone(workload));
        for address in workload.own_addresses() {
            let claims = self.by_address.entry(address);
            drop_claim(claims, &workload.uid);
            add_claim(claims, workload);
        }
        if let Some(key) = hostname_key(workload) {
            add_claim(self.by_hostname.entry(key), workload);
        }
        if local {
            add_claim(self.local.entry(LocalName::of(workload)), workload);
        }
    }

    pub(crate) fn remove(&mut self, uid: &Uid) -> Option<Arc<Workload>> {
        let workload = self.by_uid.remove(uid)?;
        for address in workload.own_addresses() {
            self.by_address
                .retain_entry(&address, |claims| drop_claim(claims, uid));
        }
        if let Some(key) = hostname_key(&workload) {
            self.by_hostname
                .retain_entry(&key, |claims| drop_claim(claims, uid));
        }
        self.local
            .retain_entry(&LocalName::of(&workload), |claims| drop_claim(claims, uid));
        Some(workload)
    }
}

fn hostname_key(workload: &Workload) -> Option<ServiceKey> {
    let hostname = workload.hostname.as_ref()?;
    Some(ServiceKey {
        namespace: Arc::clone(&workload.namespace),
        hostname: Arc::clone(hostname),
    })
}

/// What the node agent knows about a pod, without the service account, which is compared afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LocalName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl LocalName {
    fn of(workload: &Workload) -> Self {
        Self {
            namespace: Arc::clone(&workload.namespace),
            name: Arc::clone(&workload.name),
        }
    }
}

#[derive(Hash)]
struct LocalQuery<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl Equivalent<LocalName> for LocalQuery<'_> {
    fn equivalent(&self, key: &LocalName) -> bool {
        *self.namespace == *key.namespace && *self.name == *key.name
    }
}
