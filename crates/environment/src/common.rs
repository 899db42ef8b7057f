//! The log, the small HTTP servers, and the end.

use std::time::Duration;

use tulle_runtime::{
    http::Listen,
    log::{Directives, Format, LogConfig},
};

use crate::{
    parse,
    proxy_config::ProxyConfig,
    variables::{ConfigError, Variables},
};

/// Where a proxy tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Admin server, on a loopback address: `TULLE_ADMIN_ADDR`. Default port 15000.
    pub admin: Listen,
    /// Metrics: `TULLE_STATS_ADDR`. Default port 15020 of all addresses.
    pub stats: Listen,
    /// Readiness: `TULLE_READINESS_ADDR`. Default port 15021 of all addresses.
    pub readiness: Listen,
}

impl Listeners {
    /// Those that are asked for.
    ///
    /// # Errors
    /// If one is no port or address, or the admin server's not loopback.
    pub fn read(variables: &Variables<'_>, defaults: &ProxyConfig) -> Result<Self, ConfigError> {
        let loopback = |text: &str| parse::listen(text).and_then(parse::loopback);
        let admin = variables.parse(
            "TULLE_ADMIN_ADDR",
            "a port, or a loopback address and port",
            loopback,
        )?;
        let public = |name| variables.parse(name, PORT_OR_ADDRESS, parse::listen);
        let port = |configured: Option<u16>, default| configured.unwrap_or(default);
        Ok(Self {
            admin: admin.unwrap_or(Listen::Loopback(port(
                defaults.proxy_admin_port,
                ADMIN_PORT,
            ))),
            stats: public("TULLE_STATS_ADDR")?
                .unwrap_or(Listen::Any(port(defaults.stats_port, STATS_PORT))),
            readiness: public("TULLE_READINESS_ADDR")?.unwrap_or(Listen::Any(READINESS_PORT)),
        })
    }
}

/// The log: `RUST_LOG`, `LOG_FORMAT`, `TULLE_LOG_BUFFER`. `hidden_prefix` is what targets begin with that need not be told.
///
/// # Errors
/// If one of them is not accepted.
pub fn log(
    variables: &Variables<'_>,
    hidden_prefix: &'static str,
) -> Result<LogConfig, ConfigError> {
    let defaults = LogConfig::default();
    let levels = "levels such as info,access=debug";
    let directives = variables.parse("RUST_LOG", levels, |text| text.parse::<Directives>().ok())?;
    let format = variables.parse("LOG_FORMAT", "plain or json", |text| {
        text.parse::<Format>().ok()
    })?;
    Ok(LogConfig {
        format: format.unwrap_or(defaults.format),
        directives: directives.unwrap_or(defaults.directives),
        buffer: variables
            .number("TULLE_LOG_BUFFER", 4096..=1 << 30)?
            .unwrap_or(defaults.buffer),
        hidden_prefix,
        ..defaults
    })
}

/// How long connections may go on once the process is told to end: what is asked for, else what the supervisor grants less some time
/// to end in. Default 5 s.
///
/// # Errors
/// If one of the variables is no duration.
pub fn drain_deadline(variables: &Variables<'_>) -> Result<Duration, ConfigError> {
    if let Some(deadline) = variables.duration("CONNECTION_TERMINATION_DEADLINE")? {
        return Ok(deadline);
    }
    let Some(grace) = variables.duration("TERMINATION_GRACE_PERIOD_SECONDS")? else {
        return Ok(DRAIN_DEADLINE);
    };
    let margin = if grace > LONG_GRACE { 5 } else { 1 };
    Ok(grace
        .saturating_sub(Duration::from_secs(margin))
        .max(Duration::from_secs(1)))
}

const ADMIN_PORT: u16 = 15000;
const STATS_PORT: u16 = 15020;
const READINESS_PORT: u16 = 15021;
const PORT_OR_ADDRESS: &str = "a port, or an address and port";
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const LONG_GRACE: Duration = Duration::from_secs(10);
