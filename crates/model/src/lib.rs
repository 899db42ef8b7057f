//! Workloads, services, policies and identities as plain data.
//!
//! The vocabulary that every other crate shares. Nothing here does I/O, knows protobuf or reads a clock; values
//! are parsed once, at the edge, into types that cannot be wrong.
//!
//! ```
//! use tulle_model::SpiffeId;
//!
//! let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
//! assert_eq!(id.namespace(), "shop");
//! ```

mod address;
mod authorization;
pub mod authorizer;
mod gateway;
pub mod http;
pub mod limit;
mod service;
mod spiffe;
pub mod telemetry;
mod text;
pub mod token;
pub mod traffic;
mod workload;

pub use address::{InvalidNetworkAddress, NetworkAddress};
pub use authorization::{
    Action, Authorization, Clause, HeaderMatch, HttpMatch, Match, PathMatch, PolicyKey,
    PolicyTarget, Rule, Scope, ServiceAccountMatch, StringMatch, TargetKind, TokenMatch,
};
pub use gateway::{Destination, GatewayAddress, WeightedWaypoint};
pub use service::{
    AppProtocol, HealthPolicy, InvalidServiceKey, IpFamilies, LoadBalancing, LoadBalancingMode,
    RoutingScope, Service, ServiceKey, ServicePort, Vip, Visibility,
};
pub use spiffe::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use text::push_address;
pub use workload::{
    ApplicationTunnel, Health, Locality, NetworkMode, PortMapping, TunnelProtocol, Uid, Workload,
    WorkloadType,
};
