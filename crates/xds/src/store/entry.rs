//! One resource, ready to be sent.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tulle_model::{Authorization, NetworkMode, Service, Vip, Workload};
use tulle_proto::discovery::Resource;
use twox_hash::XxHash64;

use crate::{Address, Configuration, ResourceType, encode};

/// One resource as the wire has it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The encoded `Resource` message: name, version, aliases and body. Shared by all streams.
    pub(crate) encoded: Bytes,
    /// Hash of the body, the same on every replica.
    pub(crate) version: u64,
    /// Number of the change that brought it.
    pub(crate) sequence: u64,
    /// Other names by which it can be asked for: `<network>/<ip>`, and for a workload the services it belongs to.
    pub(crate) keys: Arc<[Arc<str>]>,
}

impl Entry {
    pub(super) fn address(name: &Arc<str>, address: Address) -> Self {
        let aliases = aliases(&address);
        let mut keys: Vec<Arc<str>> = aliases.iter().map(|key| key.as_str().into()).collect();
        if let Address::Workload(workload) = &address {
            keys.extend(workload.services.keys().map(|key| key.to_string().into()));
        }
        let body = encode::address(&address);
        Self::new(name, ResourceType::Address, body, aliases, keys)
    }

    pub(super) fn policy(name: &Arc<str>, policy: Authorization) -> Self {
        let body = encode::authorization(&policy);
        Self::new(
            name,
            ResourceType::Authorization,
            body,
            Vec::new(),
            Vec::new(),
        )
    }

    pub(super) fn configuration(name: &Arc<str>, value: Configuration) -> Self {
        let body = encode::configuration(&value);
        Self::new(
            name,
            ResourceType::Configuration,
            body,
            Vec::new(),
            Vec::new(),
        )
    }

    fn new(
        name: &str,
        kind: ResourceType,
        body: Vec<u8>,
        aliases: Vec<String>,
        keys: Vec<Arc<str>>,
    ) -> Self {
        let version = XxHash64::oneshot(0, &body);
        let resource = Resource {
            version: version_text(version),
            resource: Some(prost_types::Any {
                type_url: kind.url().to_owned(),
                value: body,
            }),
            name: name.to_owned(),
            aliases,
            ttl: None,
        };
        Self {
            encoded: resource.encode_to_vec().into(),
            version,
            sequence: 0,
            keys: keys.into(),
        }
    }
}

/// A version as clients see it.
fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

/// The version that a client's text is; `None` if it is none of ours.
pub(crate) fn parse_version(text: &str) -> Option<u64> {
    let parsed = u64::from_str_radix(text, 16).ok();
    parsed.filter(|_| text.len() == 16)
}

/// The addresses by which a client may ask for the resource.
fn aliases(address: &Address) -> Vec<String> {
    match address {
        Address::Workload(workload) => workload_aliases(workload),
        Address::Service(service) => service_aliases(service),
    }
}

/// A host-network workload shares its addresses, so they do not name it.
fn workload_aliases(workload: &Workload) -> Vec<String> {
    match workload.network_mode {
        NetworkMode::HostNetwork => Vec::new(),
        NetworkMode::Standard => workload
            .addresses
            .iter()
            .map(|ip| format!("{}/{ip}", workload.network))
            .collect(),
    }
}

fn service_aliases(service: &Service) -> Vec<String> {
    let alias = |vip: &Vip| match vip {
        Vip::Host(address) => address.to_string(),
        Vip::Range {
            network,
            address,
            prefix,
        } => format!("{network}/{address}/{prefix}"),
    };
    service.vips.iter().map(alias).collect()
}
