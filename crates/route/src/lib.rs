//! Where a connection goes: pure decisions over a [`Snapshot`](tulle_state::Snapshot).
//!
//! Nothing here does I/O or keeps state; randomness is an argument. What cannot be decided safely is an error, and
//! the connection is refused: only a destination of which the mesh knows nothing is passed through in plain text.

mod address;
mod authority;
mod inbound;
mod outbound;
mod request;
mod served;
mod service;
mod waypoint;

pub mod baggage;
pub mod forwarded;
#[cfg(test)]
mod test_data;
pub mod traceparent;

pub use authority::{Authority, InvalidAuthority, address_text};
pub use inbound::{
    Inbound, InboundError, ProxyHeader, inbound, inbound_service, passthrough_inbound,
};
pub use outbound::{Named, Outbound, Route, RouteError, Via, forward, is_only_for_near, outbound};
pub use request::connect_request;
pub use served::{NotServed, Served, Target, backend, served, serves};
pub use waypoint::WaypointError;

/// Port of the listener that captures outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of the listener that captures inbound plain text.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Port of the HBONE listener.
pub const HBONE_PORT: u16 = 15008;
/// Port where the pod's DNS queries arrive.
pub const DNS_PORT: u16 = 15053;

/// Whether a connection to this port of a pod would come back to the proxy itself.
pub fn is_proxy_port(port: u16) -> bool {
    matches!(
        port,
        OUTBOUND_PORT | INBOUND_PLAINTEXT_PORT | HBONE_PORT | DNS_PORT
    )
}
