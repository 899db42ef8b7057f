//! Delta xDS: client, server, and the translation between protobuf and model.
//!
//! - [`run_client`] keeps a [`Subscriber`] in step with a control plane
//! - [`store`] holds what a control plane serves: one writer, many streams
//! - [`Server`] serves a store over gRPC
//! - [`decode`] and [`encode`] translate resources; no other crate sees their protobuf
//!
//! Two resource types exist: addresses (workloads and services, one stream for both) and L4 authorization
//! policies. What they mean is the business of the readers of `tulle-model`.
//!
//! ```
//! use tulle_model::Service;
//! use tulle_xds::{Address, store::{StoreConfig, StoreWriter, Transaction}};
//!
//! let mut writer = StoreWriter::new(StoreConfig::default());
//! let mut transaction = Transaction::default();
//! transaction.put_address(Service::new("cart", "shop", "cart.shop.svc.cluster.local").into());
//! writer.commit(transaction);
//! assert_eq!(writer.store().len().addresses, 1);
//! ```

pub mod client;
pub mod decode;
pub mod encode;
pub mod metrics;
pub mod server;
pub mod store;

mod resource;
mod subscriber;

pub use client::{ClientConfig, ClientMetrics, NodeConfig, run_client};
pub use resource::{Address, Configuration, ConfigurationName, ResourceType};
pub use server::{Authorizer, Node, Server, ServerConfig, ServerMetrics, StreamScope};
pub use subscriber::{Delta, RejectedResource, Subscriber};
