//! The data path of one thread.
//!
//! ```text
//!  15008 ─ front.rs   TLS, HTTP/2: who is it
//!            └─ stream.rs   one CONNECT: what is meant, and is it behind this waypoint
//!                 ├─ requests.rs   each to an endpoint of its own ─┐    upgraded.rs  what some become
//!                 └─ tcp.rs        anything else: the bytes        ├─ destinations.rs  who is meant, and what is said of that; upstream.rs  endpoints and tunnels; connections.rs  HTTP inside them
//!                                                                  ┘
//! ```

mod affinity;
mod connections;
mod destinations;
mod exchange;
mod fetch;
mod front;
mod io;
mod policy;
mod reach;
mod requests;
mod session;
mod sniff;
mod stall;
mod stream;
mod tcp;
mod tell;
mod tunnels;
mod upgraded;
mod upload;
mod upstream;

pub(crate) use destinations::Destinations;
pub(crate) use exchange::is_grpc;
pub(crate) use fetch::Fetcher;
pub(crate) use front::{Front, Shared};
pub(crate) use reach::Reach;
pub(crate) use stream::Context;
pub(crate) use tell::Messenger;
pub(crate) use upstream::Hop;
