//! HBONE: one HTTP/2 CONNECT stream over mutual TLS for every TCP connection of an application.
//!
//! Made for single-threaded runtimes: a connection, its streams and everything that is relayed over them live on one
//! thread, which is what lets many small messages share one record and one system call. Nothing here is `Send`, and
//! nothing spawns tasks of its own accord: futures are handed to the caller.
//!
//! - [`tls`]: the handshake and the record layer;
//! - [`Client`] and [`Server`]: the two ends of a connection;
//! - [`Tunnel`]: one stream as bytes;
//! - [`Handshakes`]: how many strangers may be half way through one;
//! - [`Pool`]: connections shared by the streams of one client;
//! - [`Relay`]: moves bytes between a tunnel and a socket until both are done.
//!
//! What it leaves out: who may connect where, and how the socket below is made. The caller decides both.

mod buffers;
mod client;
mod handshakes;
mod liveness;
mod pool;
mod relay;
mod server;
mod settings;
pub mod tls;
mod tunnel;
mod unread;

pub use client::{Client, ClientDriver, ConnectError, Outlook, StreamSlot};
pub use handshakes::{Established, Handshakes, Place};
pub use liveness::LivenessSettings;
pub use pool::{DialFuture, Pool, PoolSettings, Spawn};
pub use relay::{Broken, Meter, Relay, RelayEnd, Side, TcpSide};
pub use server::{Incoming, Server, ServerError};
pub use settings::Settings;
pub use tunnel::Tunnel;
