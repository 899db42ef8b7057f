//! What a proxy of the mesh is told at its start by environment variables, and by the parts of a ProxyConfig that apply.
//!
//! Here is what the node proxy and the waypoint have in common; what only one of them knows is read where it is used, by the same
//! [`Variables`]. Later sources win: `defaultConfig` of the mesh configuration file, the variable `PROXY_CONFIG` (YAML or JSON of the
//! same form), single variables. An empty variable counts as unset, but for `XDS_ADDRESS`, where it means no xDS.
//! Durations are whole numbers with units, such as `90s` or `1h30m`; without a unit they are seconds.
//!
//! Variables of upstream are honoured under their names. One that asks for something we do not do is refused, not
//! ignored. Ours begin with `TULLE_`; an unknown one of these is refused, since it is probably misspelt.

mod common;
mod control;
mod hbone;
mod parse;
mod proxy_config;
mod variables;

pub use common::{Listeners, drain_deadline, log};
pub use control::{ca, svids, xds};
pub use hbone::{http2, keepalive, pool};
pub use parse::{listen, loopback, mark};
pub use proxy_config::ProxyConfig;
pub use variables::{ConfigError, Known, Supported, Variables};
