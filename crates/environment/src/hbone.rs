//! Sockets, HTTP/2 and pool of the data path.

use tulle_hbone::{PoolSettings, Settings};
use tulle_net::socket::Keepalive;

use std::time::Duration;

use crate::variables::{ConfigError, Variables};

/// TCP keep-alive: `KEEPALIVE_TIME`, `KEEPALIVE_INTERVAL`, `KEEPALIVE_RETRIES`; none if `KEEPALIVE_ENABLED` is false.
///
/// # Errors
/// If one of them is not accepted.
pub fn keepalive(variables: &Variables<'_>) -> Result<Option<Keepalive>, ConfigError> {
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

/// The HTTP/2 of tunnels: `HTTP2_STREAM_WINDOW_SIZE`, `HTTP2_CONNECTION_WINDOW_SIZE`, `HTTP2_FRAME_SIZE`. The ranges are those of the
/// protocol (RFC 9113 §6.5.2, §6.9.1).
///
/// # Errors
/// If one of them is not accepted.
pub fn http2(variables: &Variables<'_>) -> Result<Settings, ConfigError> {
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

/// Pooled tunnels: `POOL_MAX_STREAMS_PER_CONNECTION`, `POOL_UNUSED_RELEASE_TIMEOUT`, `TULLE_POOL_MAX_CONNECTIONS`,
/// `TULLE_TUNNEL_TIMEOUT`.
///
/// # Errors
/// If one of them is not accepted.
pub fn pool(
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

const SMALLEST_WINDOW: u32 = 65_535;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
