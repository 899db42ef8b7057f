//! Limits and sockets of the data path.

use std::time::Duration;

use tulle_hbone::{PoolSettings, Settings};
use tulle_net::socket::Keepalive;

use crate::dns::DnsSettings;

/// What the data path is told at start.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Captures what the app sends. Default 15001.
    pub outbound_port: u16,
    /// Captures plaintext on its way to the app. Default 15006.
    pub inbound_port: u16,
    /// Where tunnels end. Default 15008.
    pub hbone_port: u16,
    /// Mark of every socket of ours, which redirection leaves alone. Default 0x539.
    pub mark: u32,
    /// Whether the app must see the client's address: `None` if possible, `Some(true)` or else fail, `Some(false)` no.
    pub original_source: Option<bool>,
    /// Whether several processes may listen in a pod at a time, as in an upgrade. Default yes.
    pub reuse_port: bool,
    /// Listen on IPv6 too. Default yes.
    pub ipv6: bool,
    /// Keepalive of the app's connections.
    pub keepalive: Option<Keepalive>,
    /// How long a TCP connection may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long TLS and the HTTP/2 preface may take together. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection waits for its own pod to become known. Default 5 s.
    pub workload_wait: Duration,
    /// Connections of one pod on one thread. Default 20 000 for all threads together.
    pub max_connections: usize,
    /// Unfinished inbound handshakes of one pod on one thread. Default 256 for all threads together.
    pub max_handshakes: usize,
    /// HTTP/2 parameters.
    pub http2: Settings,
    /// Connection pool.
    pub pool: PoolSettings,
    /// Mesh DNS, if pods have it. Default: they have.
    pub dns: Option<DnsSettings>,
}
