//! The L4 node proxy: captures, tunnels, authorizes.
//!
//! A library so that tests and benches reach its parts; the binary is [`app::run`] on a [`config::Config`].

pub mod admin;
pub mod app;
pub mod arguments;
pub mod build_info;
pub mod certificates;
pub mod config;
pub mod dns;
pub mod dump;
pub mod local;
pub mod pods;
pub mod profile;
pub mod proxy;
mod schema;
pub mod telemetry;
#[cfg(test)]
mod test_data;
pub mod worker;
