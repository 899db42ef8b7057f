//! The waypoint: the L7 proxy that an operator deploys for a namespace or a service.
//!
//! A library so that tests and benches reach its parts; the binary is [`app::run`] on a [`config::Config`].

pub mod app;
pub mod arguments;
pub mod config;
mod configuration;
mod keys;
mod limits;
mod proxy;
mod telemetry;
mod worker;
