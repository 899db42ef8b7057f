//! The control plane: objects to workload xDS, and the certificate authority.
//!
//! ```text
//! source ──changes──> index ──transactions──> store ──streams──> node proxies
//! (files, API server) │  translate (pure)     (tulle-xds)             │
//!                     └── objects <── access: who may have what ── tokens
//!                                       └──> authority: certificates
//! ```
//!
//! - [`tulle_manifest`]: the objects, trimmed to what we use, and where they come from
//! - [`translate`]: objects into resources, pure functions
//! - [`validate`], [`references`]: what is wrong with objects that only waypoints read, and with what they refer to
//! - [`routes`], [`traffic`], [`telemetry`]: what becomes of requests to a service, for its waypoint, and what is told of them
//! - [`index`]: which resources a change concerns
//! - [`source`]: which of them; [`kubernetes`]: the API server
//! - [`statuses`]: what is to be told of objects; [`waypoints`]: what runs for a Gateway
//! - [`access`], [`token`], [`callers`]: who calls, and what they may have
//! - [`authority`], [`serving`]: certificates for workloads and for ourselves
//! - [`app`]: all of it together; [`config`]: the command line
//!
//! ```
//! use std::sync::Arc;
//! use tulle_control_plane::{index::Index, mesh::Mesh};
//! use tulle_manifest::source::{Change, Document};
//!
//! let text = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n";
//! let objects = Document::parse(text).unwrap().objects.into_iter();
//! let mut index = Index::new(Arc::new(Mesh::default()));
//! let transaction = index.apply(objects.map(Change::Upsert).collect());
//! assert_eq!(transaction.addresses[0].0, "shop/cart.shop.svc.cluster.local");
//! ```

pub mod access;
pub mod app;
pub mod authority;
pub mod authorizers;
pub mod callers;
pub mod config;
pub mod debug;
pub mod index;
pub mod kubernetes;
pub mod mesh;
pub mod metrics;
pub mod objects;
pub mod references;
pub mod routes;
pub mod serving;
pub mod source;
pub mod statuses;
pub mod succession;
pub mod telemetry;
pub mod token;
pub mod traffic;
pub mod translate;
pub mod validate;
pub mod waypoints;

mod files;
mod rotation;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod vectors;
