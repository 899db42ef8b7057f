//! Mesh DNS: names of services, answered in the pod that asks.
//!
//! What the app sends to port 53 of whatever name server is redirected to a socket of ours in its own namespace. Addresses of
//! services come from the mesh as this node knows it; every other question goes to this host's name servers and the answer
//! comes back as it is.
//!
//! ```text
//!  app ──▶ server.rs ──▶ names.rs      which services may be meant
//!                        answer.rs     their addresses, as this client may see them
//!                   └──▶ servers.rs    everybody else's names
//!          message.rs                  what is on the wire
//! ```
//!
//! Spec: `l4-data-plane.md` §7.

mod answer;
mod message;
mod names;
mod server;
mod servers;

use std::{net::IpAddr, sync::Arc};

pub use server::{DnsSockets, serve};
pub use servers::NameServers;

/// Where and for whom names are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses of a pod to answer at; one that the pod does not have is left out. Default: both loopback addresses.
    pub addresses: Vec<IpAddr>,
    /// Port there. Default 15053.
    pub port: u16,
    /// The cluster's domain. Default `cluster.local`.
    pub domain: Arc<str>,
    /// The namespace whose services are meant where nothing else tells them apart.
    pub preferred: Option<Arc<str>>,
    /// Whether IPv6 addresses are told. Default yes.
    pub ipv6: bool,
}
