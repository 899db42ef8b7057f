//! TLS 1.3 below HTTP/2: rustls makes the handshake, the record layer here moves the bytes.
//!
//! Why not a ready-made TLS stream: those read at most one record (16 KiB) per system call and write one record per
//! flush, and h2 flushes after every frame. Measured, reading and writing in big batches is worth 40 % of bulk
//! throughput. Keys, key updates and the ciphers themselves stay in rustls; see `tls/record.rs`.

mod handshake;
mod record;
mod stream;

pub use handshake::{HandshakeError, accept, connect};
pub use stream::TlsStream;
