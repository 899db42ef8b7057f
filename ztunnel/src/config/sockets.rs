//! The data path: sockets, HTTP/2, pool, limits.

use std::time::Duration;

use tulle_environment::{ConfigError, ProxyConfig, Variables, http2, keepalive, mark, pool};

use super::dns;
use crate::proxy::ProxySettings;

pub(super) fn proxy(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
) -> Result<ProxySettings, ConfigError> {
    let ipv6 = variables.boolean("IPV6_ENABLED")?.unwrap_or(true);
    let handshake_timeout = variables
        .duration("TULLE_HANDSHAKE_TIMEOUT")?
        .unwrap_or(HANDSHAKE_TIMEOUT);
    Ok(ProxySettings {
        outbound_port: OUTBOUND_PORT,
        inbound_port: INBOUND_PORT,
        hbone_port: HBONE_PORT,
        mark: variables
            .parse("PACKET_MARK", "a mark such as 1337 or 0x539", mark)?
            .unwrap_or(MARK),
        original_source: variables.boolean("ENABLE_ORIG_SRC")?,
        reuse_port: variables.boolean("INPOD_PORT_REUSE")?.unwrap_or(true),
        ipv6,
        keepalive: keepalive(variables)?,
        connect_timeout: variables
            .duration("TULLE_CONNECT_TIMEOUT")?
            .unwrap_or(CONNECT_TIMEOUT),
        handshake_timeout,
        workload_wait: variables
            .duration("TULLE_WORKLOAD_WAIT")?
            .unwrap_or(WORKLOAD_WAIT),
        max_connections: variables
            .number("TULLE_MAX_CONNECTIONS_PER_POD", 1..=1_000_000)?
            .unwrap_or(MAX_CONNECTIONS),
        max_handshakes: variables
            .number("TULLE_MAX_HANDSHAKES_PER_POD", 1..=100_000)?
            .unwrap_or(MAX_HANDSHAKES),
        http2: http2(variables)?,
        pool: pool(variables, handshake_timeout)?,
        dns: dns::dns(variables, defaults, ipv6)?,
    })
}

const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;
const HBONE_PORT: u16 = 15008;
const MARK: u32 = 0x539;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const WORKLOAD_WAIT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: usize = 20_000;
const MAX_HANDSHAKES: usize = 256;
