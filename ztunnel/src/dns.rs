//! Mesh DNS: names of services, answered in the pod that asks.
//!
//! What the app sends to port 53 of whatever name server is redirected to a socket of ours in its own namespace. Addresses of
//! services come from the mesh as this node knows it; every other question goes to this host's name servers and the answer
//! comes back as it is.
//!
//! The same name servers tell where a workload is that the mesh knows by a name alone.
//!
//! ```text
//!  app ──▶ sockets.rs, server.rs
//!                   ├──▶ names.rs      which services may be meant
//!                   │    answer.rs     their addresses, as this client may see them
//!                   └──▶ servers.rs    everybody else's names
//!                              ▲
//!  data path ──▶ resolver.rs ──┤       addresses of workloads that have a name, and how long they are kept
//!                lookup.rs ────┘       one question, answered
//!                response.rs           what the answer says
//!          message.rs                  what is on the wire
//! ```
//!
//! Spec: `l4-data-plane.md` §2.5, §7.

mod answer;
mod limits;
mod lookup;
mod message;
mod names;
mod resolver;
mod response;
mod server;
mod servers;
mod sockets;

use std::sync::Arc;

pub use limits::DnsLimits;
pub use resolver::{KnownName, ResolveError, Resolver};
pub use server::{converse, serve};
pub use servers::NameServers;
pub use sockets::{DnsListeners, DnsSockets};

/// The families that there are addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Asked for as A.
    Ipv4,
    /// Asked for as AAAA.
    Ipv6,
}

/// For whom names are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// The cluster's domain, in lower case. Default `cluster.local`.
    pub domain: Arc<str>,
    /// The namespace whose services are meant where nothing else tells them apart.
    pub preferred: Option<Arc<str>>,
    /// Whether pods have IPv6, and are told IPv6 addresses. Default yes.
    pub ipv6: bool,
    /// Queries of one pod that name servers are asked at a time, each of at most 4 KiB; larger ones count more. Default 512.
    pub max_queries: usize,
}
