//! An IP address within a named network.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

/// An address and the L3 domain in which it is unique. The default network is the empty name.
///
/// The text form is `<network>/<address>`, so an address of the default network starts with a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// Name of the network; empty for the default one.
    pub network: Arc<str>,
    /// The address, never IPv4-mapped.
    pub address: IpAddr,
}

impl NetworkAddress {
    /// Builds the pair; an IPv4-mapped address becomes plain IPv4.
    pub fn new(network: Arc<str>, address: IpAddr) -> Self {
        Self {
            network,
            address: address.to_canonical(),
        }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

impl FromStr for NetworkAddress {
    type Err = InvalidNetworkAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, address) = text.split_once('/').ok_or(InvalidNetworkAddress)?;
        let address: IpAddr = address.parse().map_err(|_| InvalidNetworkAddress)?;
        Ok(Self::new(network.into(), address))
    }
}

/// The text is not `<network>/<address>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected <network>/<address>, for example /10.0.0.1 in the default network")]
pub struct InvalidNetworkAddress;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let default: NetworkAddress = "/10.0.0.1".parse().unwrap();
        assert_eq!(default.network.as_ref(), "");
        assert_eq!(default.to_string(), "/10.0.0.1");
        let mapped: NetworkAddress = "east/::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(mapped.to_string(), "east/10.0.0.1");
        for bad in ["10.0.0.1", "/", "n/fe80::1%eth0", "n/10.0.0.1/8"] {
            assert_eq!(bad.parse::<NetworkAddress>(), Err(InvalidNetworkAddress));
        }
    }
}
