//! Peers with a good certificate that abuse the protocol: what they get is the end of their stream or connection, and
//! nobody else notices. Each test names the row of the threat list that it replays.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod frames;
mod lab;
mod raw;
mod server;
mod tls;
