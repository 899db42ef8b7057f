//! Tests against the running kernel, each inside namespaces of its own.
//!
//! They need root or unprivileged user namespaces, leave nothing behind, and run side by side.

#![cfg(target_os = "linux")]

mod netns;
mod nft;
mod process;
mod support;
