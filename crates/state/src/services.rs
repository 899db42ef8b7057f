//! Services by key, virtual address and hostname.

use std::{net::IpAddr, sync::Arc};

use hashbrown::Equivalent;
use ipnet::IpNet;
use smallvec::SmallVec;
use tulle_model::{NetworkAddress, Service, ServiceKey, SpiffeId, Vip, Visibility};

use ranges::{RangeLengths, RangeQuery, VipRange};

use super::{
    cow_map::CowMap,
    endpoints::{Endpoints, MemberChanges, Members, change_members},
    workload::Workload,
};

mod ranges;

/// A service with its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRecord {
    /// The service itself.
    pub service: Arc<Service>,
    /// Identities accepted from any endpoint besides its own.
    pub identities: Arc<[SpiffeId]>,
    /// Who serves it.
    pub endpoints: Arc<Endpoints>,
}

impl ServiceRecord {
    fn new(service: Arc<Service>, members: Members) -> Self {
        let identities = service
            .subject_alt_names
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        let endpoints = Endpoints::new(members, &service.load_balancing);
        Self {
            service,
            identities,
            endpoints: Arc::new(endpoints),
        }
    }

    /// The same with some of its endpoints only.
    #[must_use]
    pub fn restricted(&self, keep: impl Fn(&Workload) -> bool) -> Self {
        let members = self.endpoints.members().iter();
        let members = members.filter(|member| keep(member)).cloned().collect();
        Self {
            service: Arc::clone(&self.service),
            identities: Arc::clone(&self.identities),
            endpoints: Arc::new(Endpoints::new(members, &self.service.load_balancing)),
        }
    }

    /// Whether clients of a namespace may see the service.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        match self.service.visibility {
            Visibility::Public => true,
            Visibility::Namespace => *self.service.key.namespace == *namespace,
        }
    }
}

/// All services. Endpoints may arrive before their service, and stay when it goes: they are staged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Services {
    by_key: CowMap<ServiceKey, Arc<ServiceRecord>>,
    staged: CowMap<ServiceKey, Members>,
    by_vip: CowMap<NetworkAddress, Keys>,
    by_range: CowMap<VipRange, Keys>,
    range_lengths: RangeLengths,
    by_hostname: CowMap<Arc<str>, Keys>,
}

/// Services that share an address or a name, in order of key.
type Keys = SmallVec<[ServiceKey; 1]>;

impl Services {
    pub(crate) fn get(&self, key: &ServiceKey) -> Option<&Arc<ServiceRecord>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        self.by_key.iter().map(|(_, record)| record)
    }

    pub(crate) fn staged(&self) -> impl Iterator<Item = (&ServiceKey, &[Arc<Workload>])> {
        self.staged
            .iter()
            .map(|(key, members)| (key, members.as_ref()))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The service that owns exactly this address, as a client of `namespace` sees it.
    pub(crate) fn by_vip(
        &self,
        network: &str,
        address: IpAddr,
        namespace: &str,
    ) -> Option<&Arc<ServiceRecord>> {
        let keys = self.by_vip.get(&VipQuery { network, address })?;
        self.best(keys, namespace)
    }

    /// The service whose range has this address: one of the client's own namespace, else the longest prefix.
    pub(crate) fn by_range(
        &self,
        network: &str,
        address: IpAddr,
        namespace: &str,
    ) -> Option<&Arc<ServiceRecord>> {
        let candidates = self.ranges_of(network, address);
        let best_of_each = candidates.filter_map(|(prefix, keys)| {
            let record = self.best(keys, namespace)?;
            let own = *record.service.key.namespace == *namespace;
            Some(((own, prefix, record.service.canonical), record))
        });
        best_of_each
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, record)| record)
    }

    /// Every service that claims this address, whoever may see it.
    pub(crate) fn all_at(
        &self,
        network: &str,
        address: IpAddr,
    ) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        let exact = self.by_vip.get(&VipQuery { network, address });
        let ranges = self.ranges_of(network, address).map(|(_, keys)| keys);
        exact
            .into_iter()
            .chain(ranges)
            .flatten()
            .filter_map(|key| self.get(key))
    }

    /// Every service with this hostname, in order of namespace.
    pub(crate) fn by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<ServiceRecord>> {
        let keys = self.by_hostname.get(hostname);
        keys.into_iter().flatten().filter_map(|key| self.get(key))
    }

    pub(crate) fn upsert(&mut self, service: Service) -> bool {
        let key = service.key.clone();
        let members = match self.by_key.get(&key) {
            Some(held) if *held.service == service => return false,
            Some(held) => {
                let held = Arc::clone(held);
                self.unindex(&held.service);
                held.endpoints.shared_members()
            }
            None => self.staged.remove(&key).unwrap_or_default(),
        };
        self.index(&service);
        let record = ServiceRecord::new(Arc::new(service), members);
        self.by_key.insert(key, Arc::new(record));
        true
    }

    pub(crate) fn remove(&mut self, key: &ServiceKey) -> bool {
        let Some(record) = self.by_key.remove(key) else {
            return false;
        };
        self.unindex(&record.service);
        if !record.endpoints.members().is_empty() {
            self.staged
                .insert(key.clone(), record.endpoints.shared_members());
        }
        true
    }

    /// Applies all changes to the endpoints of one service, at the price of one rebuild.
    pub(crate) fn change_endpoints(&mut self, key: &ServiceKey, changes: MemberChanges) {
        if let Some(record) = self.by_key.get(key) {
            let members = change_members(record.endpoints.members(), changes);
            let endpoints = Endpoints::new(members, &record.service.load_balancing);
            let record = ServiceRecord {
                endpoints: Arc::new(endpoints),
                ..ServiceRecord::clone(record)
            };
            self.by_key.insert(key.clone(), Arc::new(record));
            return;
        }
        let staged = self.staged.get(key).map_or(&[][..], |members| members);
        let members = change_members(staged, changes);
        if members.is_empty() {
            self.staged.remove(key);
        } else {
            self.staged.insert(key.clone(), members);
        }
    }

    /// Same namespace, else canonical, else the first.
    fn best<'a>(&'a self, keys: &Keys, namespace: &str) -> Option<&'a Arc<ServiceRecord>> {
        keys.iter()
            .filter_map(|key| self.get(key))
            .filter(|record| record.is_visible_to(namespace))
            .rev()
            .max_by_key(|record| {
                let own = *record.service.key.namespace == *namespace;
                (own, record.service.canonical)
            })
    }

    fn ranges_of(&self, network: &str, address: IpAddr) -> impl Iterator<Item = (u8, &Keys)> {
        let lengths = self.range_lengths.of(address);
        lengths.filter_map(move |prefix| {
            let net = IpNet::new(address, prefix).ok()?.trunc();
            let keys = self.by_range.get(&RangeQuery { network, net })?;
            Some((prefix, keys))
        })
    }

    fn index(&mut self, service: &Service) {
        for vip in &service.vips {
            match vip {
                Vip::Host(address) => add_key(self.by_vip.entry(address.clone()), &service.key),
                Vip::Range { .. } => {
                    if let Some(range) = VipRange::of(vip) {
                        self.range_lengths.add(range.net);
                        add_key(self.by_range.entry(range), &service.key);
                    }
                }
            }
        }
        let hostname = Arc::clone(&service.key.hostname);
        add_key(self.by_hostname.entry(hostname), &service.key);
    }

    fn unindex(&mut self, service: &Service) {
        for vip in &service.vips {
            match vip {
                Vip::Host(address) => self
                    .by_vip
                    .retain_entry(address, |keys| drop_key(keys, &service.key)),
                Vip::Range { .. } => {
                    if let Some(range) = VipRange::of(vip) {
                        self.range_lengths.remove(range.net);
                        self.by_range
                            .retain_entry(&range, |keys| drop_key(keys, &service.key));
                    }
                }
            }
        }
        self.by_hostname
            .retain_entry(&*service.key.hostname, |keys| drop_key(keys, &service.key));
    }
}

/// A service may list one address twice; it has one entry all the same.
fn add_key(keys: &mut Keys, key: &ServiceKey) {
    if let Err(position) = keys.binary_search(key) {
        keys.insert(position, key.clone());
    }
}

fn drop_key(keys: &mut Keys, key: &ServiceKey) -> bool {
    keys.retain(|other| other != key);
    !keys.is_empty()
}

/// [`NetworkAddress`] for lookups, without its own network name.
#[derive(Hash)]
pub(crate) struct VipQuery<'a> {
    pub(crate) network: &'a str,
    pub(crate) address: IpAddr,
}

impl Equivalent<NetworkAddress> for VipQuery<'_> {
    fn equivalent(&self, key: &NetworkAddress) -> bool {
        self.address == key.address && *self.network == *key.network
    }
}
