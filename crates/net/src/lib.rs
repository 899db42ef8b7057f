//! Sockets, network namespaces, redirection rules and child processes: what Tulle asks of the kernel.
//!
//! This crate is the only home of `unsafe` code in the workspace. Everything else builds on its safe
//! functions: [`netns`] holds and enters network namespaces, [`listen`], [`connect`], [`dialer`] and [`udp`] make the
//! proxy's sockets inside them, [`original_dst`] reads back where a captured connection was going,
//! [`redirect`] writes the rules that capture it by way of [`nft`], [`probes`] those that let the node's health
//! checks pass, [`changes`] tells when somebody touches either, [`listeners`] who listens, [`process`] starts
//! children as root of namespaces of their own, and [`memory`] gives memory back.
//!
//! It knows nothing of workloads, policies or protocols above TCP.
//!
//! ```no_run
//! use tulle_net::connect::{ConnectOptions, connect};
//! use tulle_net::netns::Netns;
//!
//! # async fn example() -> std::io::Result<()> {
//! let pod = Netns::open("/var/run/netns/pod-a")?;
//! let options = ConnectOptions { mark: Some(0x539), ..ConnectOptions::default() };
//! let stream = connect(&pod, "10.0.0.7:80".parse().unwrap(), &options).await?;
//! # drop(stream);
//! # Ok(())
//! # }
//! ```

mod addresses;
pub mod changes;
pub mod connect;
pub mod dialer;
pub mod listen;
pub mod listeners;
pub mod memory;
mod netlink;
pub mod netns;
pub mod nft;
pub mod original_dst;
pub mod probes;
pub mod process;
pub mod redirect;
pub mod settings;
pub mod socket;
pub mod udp;

pub use addresses::addresses;
pub use netns::{Netns, NetnsId};
