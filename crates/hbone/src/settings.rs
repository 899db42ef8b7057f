//! What both ends of a connection tell each other.

use crate::liveness::LivenessSettings;

/// HTTP/2 parameters of a connection. The defaults are those of the mesh's other proxies where they are part of the
/// contract, and measured otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes a stream may send before it must hear back. Default 4 MiB.
    pub stream_window: u32,
    /// The same for all streams of a connection together. Default 16 MiB; with equal windows, one stream that nobody
    /// reads would stop all others.
    pub connection_window: u32,
    /// Bytes by which the windows of a thread's connections may be widened together, for streams that nobody reads. Without
    /// room here, so many of them as fill a connection's window stop all its others. Default 128 MiB.
    pub unread_budget: u64,
    /// Longest frame we are ready to receive. Default 1 MiB.
    pub max_frame: u32,
    /// Bytes a stream may have queued before its source is not read any more. Default 1 MiB.
    pub send_buffer: usize,
    /// Streams a client may have open on one connection to our server. Default 200.
    pub max_streams: u32,
    /// Decoded size of a request's headers that our server accepts. Default 64 KiB.
    pub server_header_limit: u32,
    /// Decoded size of a response's headers that our client accepts. Default 16 KiB.
    pub client_header_limit: u32,
    /// Streams that a peer may reset before we took notice of them; more end the connection. Default 32.
    pub max_pending_resets: usize,
    /// Streams that we may have to reset for the peer's mistakes before the connection ends. Default 64.
    pub max_error_resets: usize,
    /// Budget in bytes for data frames smaller than 256 bytes that were received and not read yet. Default 8 MiB:
    /// thousands of interactive streams fit, a flood of empty frames does not.
    pub small_frame_budget: usize,
    /// How dead peers are found.
    pub liveness: LivenessSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            unread_budget: 128 << 20,
            max_frame: 1 << 20,
            send_buffer: 1 << 20,
            max_streams: 200,
            server_header_limit: 64 << 10,
            client_header_limit: 16 << 10,
            max_pending_resets: 32,
            max_error_resets: 64,
            small_frame_budget: 8 << 20,
            liveness: LivenessSettings::default(),
        }
    }
}
