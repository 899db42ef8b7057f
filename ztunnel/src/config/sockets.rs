//! The data path: sockets, HTTP/2, pool, limits.

use tulle_hbone::{PoolSettings, Settings};
use tulle_net::socket::Keepalive;

use std::time::Duration;

use super::dns;
use super::mesh::ProxyConfig;
use super::parse;
use super::variables::{ConfigError, Variables};
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
            .parse("PACKET_MARK", "a mark such as 1337 or 0x539", parse::mark)?
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

fn keepalive(variables: &Variables<'_>) -> Result<Option<Keepalive>, ConfigError> {
    let defaults = Keepalive::default();
    let keepalive = Keepalive {
        idle: variables
            .duration("KEEPALIVE_TIME")?
            .unwrap_or(defaults.idle),
        interval: variables
            .duration("KEEPALIVE_INTERVAL")?
            .unwrap_or(defaults.interval),
        // The kernel takes no more.
        probes: variables
            .number("KEEPALIVE_RETRIES", 1..=127)?
            .unwrap_or(defaults.probes),
    };
    let enabled = variables.boolean("KEEPALIVE_ENABLED")?.unwrap_or(true);
    Ok(enabled.then_some(keepalive))
}

/// The ranges are those of the protocol (RFC 9113 §6.5.2, §6.9.1).
fn http2(variables: &Variables<'_>) -> Result<Settings, ConfigError> {
    let defaults = Settings::default();
    Ok(Settings {
        stream_window: variables
            .number("HTTP2_STREAM_WINDOW_SIZE", SMALLEST_WINDOW..=LARGEST_WINDOW)?
            .unwrap_or(defaults.stream_window),
        connection_window: variables
            .number(
                "HTTP2_CONNECTION_WINDOW_SIZE",
                SMALLEST_WINDOW..=LARGEST_WINDOW,
            )?
            .unwrap_or(defaults.connection_window),
        max_frame: variables
            .number("HTTP2_FRAME_SIZE", 16_384..=(1 << 24) - 1)?
            .unwrap_or(defaults.max_frame),
        ..defaults
    })
}

fn pool(
    variables: &Variables<'_>,
    handshake_timeout: Duration,
) -> Result<PoolSettings, ConfigError> {
    let defaults = PoolSettings::default();
    // The pool looks for idle connections once per period, so they are idle for up to two.
    let release = variables.duration("POOL_UNUSED_RELEASE_TIMEOUT")?;
    Ok(PoolSettings {
        max_streams: variables
            .number("POOL_MAX_STREAMS_PER_CONNECTION", 1..=65_535)?
            .unwrap_or(defaults.max_streams),
        max_connections: variables
            .number("TULLE_POOL_MAX_CONNECTIONS", 1..=100_000)?
            .unwrap_or(defaults.max_connections),
        idle_release: release.map_or(defaults.idle_release, |release| release / 2),
        response_timeout: variables
            .duration("TULLE_TUNNEL_TIMEOUT")?
            .unwrap_or(defaults.response_timeout),
        handshake_timeout,
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
const SMALLEST_WINDOW: u32 = 65_535;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
