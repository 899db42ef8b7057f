//! Tests against the running kernel, each inside namespaces of its own.
//!
//! They need root or unprivileged user namespaces, leave nothing behind, and run side by side.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of this is test code; clippy exempts only the test functions themselves"
)]

mod answers;
mod before;
mod changes;
mod datagrams;
mod listeners;
mod netns;
mod nft;
mod predecessor;
mod probe_table;
mod probes;
mod process;
mod redirect;
mod release;
mod settings;
mod sockets;
mod support;
mod walks;
