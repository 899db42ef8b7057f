//! The Kubernetes API: requests, and collections that are listed and watched.
//!
//! Of lists and watches we do ourselves what little is needed: objects are read straight into the few fields that are kept,
//! a page at a time, and nothing of the client's is cached.
//!
//! - [`Client`]: whom we talk to, and who we are; requests and what can become of them ([`CallError`]).
//! - [`Collection`]: one kind of object, listed and then watched.
//! - [`Objects`]: objects of any kind ([`Resource`]), as JSON.
//! - [`Outage`], [`delay`]: how an API server that does not answer is waited for.
//!
//! ```
//! use std::collections::BTreeMap;
//! use tulle_kubernetes::{Client, Collection, Seen, Selection};
//!
//! #[derive(serde::Deserialize)]
//! struct Namespace {
//!     metadata: Metadata,
//! }
//!
//! #[derive(serde::Deserialize)]
//! struct Metadata {
//!     name: String,
//!     #[serde(default)]
//!     labels: BTreeMap<String, String>,
//! }
//!
//! async fn print_names(client: &Client) {
//!     let mut namespaces = Collection::<Namespace>::new(
//!         client,
//!         Selection {
//!             what: "namespaces",
//!             path: "/api/v1/namespaces".into(),
//!             also: None,
//!             only: String::new(),
//!             definition: None,
//!             metadata_only: true,
//!             page: 250,
//!         },
//!     );
//!     let (all, version) = namespaces.list().await;
//!     println!("{} namespaces", all.len());
//!     let ended = namespaces.follow(version, |seen| match seen {
//!         Seen::All(all) => println!("{} namespaces", all.len()),
//!         Seen::Put(one) => println!("{} has {} labels", one.metadata.name, one.metadata.labels.len()),
//!         Seen::Gone { name, .. } => println!("{name} is gone"),
//!     });
//!     match ended.await {}
//! }
//! ```

mod backoff;
mod call;
mod client;
mod collection;
mod lines;
mod objects;
mod pages;
mod resource;

pub use backoff::{Outage, delay};
pub use call::{APPLY, CallError, JSON, MERGE};
pub use client::{Client, ConnectError, is_name};
pub use collection::{Collection, Seen, Selection};
pub use objects::{Apply, Objects};
pub use resource::{Resource, version_path};
