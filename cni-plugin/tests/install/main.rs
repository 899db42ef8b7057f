//! Installing the plugin into directories as runtimes have them, while others write in them, and taking it away again.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod agent;
mod chain;
mod convert;
mod node;
mod own;
mod race;
mod uninstall;
