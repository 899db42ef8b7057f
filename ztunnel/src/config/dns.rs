//! Mesh DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::mesh::ProxyConfig;
use super::variables::{ConfigError, Variables};
use crate::dns::DnsSettings;

/// `None` if pods are to have none. `ipv6` is whether they have IPv6.
pub(super) fn dns(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
    ipv6: bool,
) -> Result<Option<DnsSettings>, ConfigError> {
    let metadata = |name: &str| {
        let default = || {
            let metadata = &defaults.proxy_metadata;
            let short = name.strip_prefix("ISTIO_META_");
            let value = metadata.get(name);
            value.or_else(|| metadata.get(short?)).cloned()
        };
        variables.text(name).or_else(default)
    };
    if metadata("ISTIO_META_DNS_CAPTURE").is_some_and(|value| value != "true") {
        return Ok(None);
    }
    let (address, port) = match metadata(ADDRESS) {
        None => (None, PORT),
        Some(value) => parse(&value).ok_or_else(|| ConfigError::Invalid {
            variable: ADDRESS.to_owned(),
            value,
            expected: "localhost or an address, and a port".to_owned(),
        })?,
    };
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = address.map_or(loopback.to_vec(), |address| vec![address]);
    Ok(Some(DnsSettings {
        addresses: addresses
            .into_iter()
            .filter(|address| ipv6 || address.is_ipv4())
            .collect(),
        port,
        domain: variables
            .text("CLUSTER_DOMAIN")
            .unwrap_or_else(|| DOMAIN.to_owned())
            .into(),
        preferred: variables.text("PREFERED_SERVICE_NAMESPACE").map(Into::into),
        ipv6,
    }))
}

/// An address, or `None` for `localhost`, and a port.
fn parse(text: &str) -> Option<(Option<IpAddr>, u16)> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some((None, port.parse().ok().filter(|port| *port != 0)?));
    }
    let address: SocketAddr = text.parse().ok()?;
    (address.port() != 0).then(|| (Some(address.ip()), address.port()))
}

const ADDRESS: &str = "ISTIO_META_DNS_PROXY_ADDR";
const PORT: u16 = 15053;
const DOMAIN: &str = "cluster.local";
