//! Resources that exist but could not be understood.

use std::{net::IpAddr, sync::Arc};

use smallvec::SmallVec;
use tulle_model::NetworkAddress;

use super::{cow_map::CowMap, services::VipQuery};

/// Addresses that belong to something of which nothing more is known.
///
/// To treat such an address as unknown would send its traffic in plain text; here it is known to be refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Quarantine {
    by_name: CowMap<Arc<str>, Arc<[NetworkAddress]>>,
    by_address: CowMap<NetworkAddress, SmallVec<[Arc<str>; 1]>>,
}

impl Quarantine {
    /// Name of a resource that claims the address and could not be understood.
    pub(crate) fn claimant(&self, network: &str, address: IpAddr) -> Option<&Arc<str>> {
        self.by_address.get(&VipQuery { network, address })?.first()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn add(&mut self, name: &str, addresses: Vec<NetworkAddress>) -> bool {
        if (self.by_name.get(name)).is_some_and(|held| **held == *addresses) {
            return false;
        }
        self.release(name);
        let name: Arc<str> = name.into();
        for address in &addresses {
            let names = self.by_address.entry(address.clone());
            if let Err(position) = names.binary_search(&name) {
                names.insert(position, Arc::clone(&name));
            }
        }
        self.by_name.insert(name, addresses.into());
        true
    }

    pub(crate) fn release(&mut self, name: &str) -> bool {
        let Some(addresses) = self.by_name.remove(name) else {
            return false;
        };
        for address in addresses.iter() {
            self.by_address.retain_entry(address, |names| {
                names.retain(|other| **other != *name);
                !names.is_empty()
            });
        }
        true
    }
}
