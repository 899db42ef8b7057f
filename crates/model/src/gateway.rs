//! How a waypoint or a network gateway is named.

use crate::{NetworkAddress, ServiceKey};

/// Where a waypoint or gateway is found, and its HBONE port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// The gateway itself.
    pub destination: Destination,
    /// Port of its HBONE listener; 15008 by convention.
    pub hbone_mtls_port: u16,
}

/// A gateway is named by address or by service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A virtual or workload address.
    Address(NetworkAddress),
    /// A service, or the hostname of a workload in that namespace.
    Hostname(ServiceKey),
}

/// One of several waypoints that share a service's connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Its share is `weight / sum of weights`.
    pub weight: u32,
}
