//! What the mesh itself says to a question: the addresses of its services.
//!
//! Spec: `l4-data-plane.md` §7.

use std::net::IpAddr;

use fastrand::Rng;
use tulle_model::{Service, Vip};

use super::{
    Family,
    names::{Candidate, Realm},
};
use tulle_state::{ServiceRecord, Snapshot, Workload};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The name that has the addresses, if it is another than the one that was asked.
    pub(super) alias: Option<String>,
    /// None where the service has none of this family.
    pub(super) addresses: Vec<IpAddr>,
}

/// A client: where it looks names up, and from where it reaches addresses.
#[derive(Clone, Debug)]
pub(super) struct Client<'a> {
    pub(super) realm: Realm<'a>,
    pub(super) workload: &'a Workload,
    /// The namespace whose services are preferred where nothing else tells them apart.
    pub(super) preferred: Option<&'a str>,
    /// Whether it is told IPv6 addresses.
    pub(super) ipv6: bool,
}

impl Client<'_> {
    /// The addresses of the service that `asked` means; `None` if that is for others to say.
    pub(super) fn look_up(
        &self,
        snapshot: &Snapshot,
        asked: &str,
        family: Family,
        random: &mut Rng,
    ) -> Option<Known> {
        let candidates = self.realm.candidates(asked);
        let mut found = candidates.filter_map(|candidate| {
            let record = self.service(snapshot, &candidate.host)?;
            Some((candidate, record))
        });
        let (Candidate { host, stripped }, record) = found.next()?;
        let mut addresses = self.addresses(record, family);
        random.shuffle(&mut addresses);
        let has_alias = !host.starts_with('*') && !addresses.is_empty();
        Some(Known {
            alias: stripped.filter(|_| has_alias).map(str::to_owned),
            addresses,
        })
    }

    /// Of services with this hostname the client's own namespace's, then the canonical one, then the preferred one's.
    fn service<'a>(&self, snapshot: &'a Snapshot, host: &str) -> Option<&'a ServiceRecord> {
        let namespace = self.realm.namespace;
        let answered = |record: &&'a ServiceRecord| {
            // What has no address of its own is a headless service of the cluster, or a host elsewhere.
            let of_cluster = || {
                let rest = host.strip_suffix(self.realm.domain);
                rest.is_some_and(|rest| rest.ends_with(".svc."))
            };
            record.is_visible_to(namespace) && (has_address(&record.service) || of_cluster())
        };
        let rank = |record: &&ServiceRecord| {
            let owner = &*record.service.key.namespace;
            let canonical = record.service.canonical;
            (owner == namespace, canonical, Some(owner) == self.preferred)
        };
        let services = snapshot.services_by_hostname(host).map(AsRef::as_ref);
        let answered: Vec<&ServiceRecord> = services.filter(answered).collect();
        // The first of equals.
        answered.into_iter().rev().max_by_key(rank)
    }

    fn addresses(&self, record: &ServiceRecord, family: Family) -> Vec<IpAddr> {
        let service = &record.service;
        let wanted = |ip: &IpAddr| {
            let of_family = match family {
                Family::Ipv4 => ip.is_ipv4(),
                Family::Ipv6 => self.ipv6 && ip.is_ipv6(),
            };
            of_family && service.ip_families.allows(*ip)
        };
        if !has_address(service) {
            let endpoints = record.endpoints.choosable().iter();
            let first =
                endpoints.filter_map(|endpoint| endpoint.addresses.iter().find(|ip| wanted(ip)));
            return first.copied().collect();
        }
        let here = service.vips.iter().filter_map(|vip| match vip {
            Vip::Host(address) => {
                (*address.network == *self.workload.network).then_some(address.address)
            }
            Vip::Range { .. } => None,
        });
        here.filter(wanted).collect()
    }
}

/// Whether it has an address of its own. A range of addresses is none: no one of them is the service's.
fn has_address(service: &Service) -> bool {
    let mut vips = service.vips.iter();
    vips.any(|vip| matches!(vip, Vip::Host(_)))
}

#[cfg(test)]
mod tests;
