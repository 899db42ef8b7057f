//! Hand-over of pod network namespaces from the node agent to ztunnel.
//!
//! ZDS is a conversation over a `SOCK_SEQPACKET` Unix socket: one protobuf message per packet, the pod's network
//! namespace travelling as one descriptor beside the message that adds the pod. The agent is the server; it speaks,
//! and ztunnel answers every packet before the next is sent.
//!
//! ```text
//!  ztunnel                         agent
//!     | hello ----------------------> |
//!     | <------- add a (+ descriptor) |  \
//!     | ack ------------------------> |   |  snapshot: every pod that is enrolled now
//!     | <---------------------- keep b |   |  (namespace not known to this agent yet)
//!     | ack ------------------------> |   |
//!     | <--------------- snapshot sent |  /
//!     | ack ------------------------> |     pods not mentioned are gone
//!     | <------------- add c / del a … |     from here on, changes
//! ```
//!
//! [`client`] is ztunnel's side, [`server`] the agent's. What a ztunnel does with a pod, and whether the descriptor is
//! a network namespace at all, is the caller's business.
//!
//! ```no_run
//! # async fn f(netns: std::os::fd::OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
//! use tulle_zds::{PodInfo, server::{ServerConfig, ZdsServer}};
//!
//! let server = ZdsServer::bind("/var/run/ztunnel/ztunnel.sock", ServerConfig::default())?;
//! let pod = PodInfo { name: "web-0".into(), namespace: "shop".into(), service_account: "web".into() };
//! server.add("0c1d", pod, netns).await?; // returns once ztunnel is listening in the pod
//! # Ok(()) }
//! ```

mod backoff;
pub mod client;
mod message;
pub mod server;
mod socket;

pub use client::{Handler, Request, ZdsClient, ZdsError, run};
pub use message::{InvalidMessage, PodInfo};
pub use server::{AddError, BindError, ServerConfig, ZdsServer};
